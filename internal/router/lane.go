package router

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"kiln/internal/model"
)

// The short way of a request: its head is passed on as it was parsed, without
// an http.Request in between, on the goroutine of the client's connection. It
// is for what is whole when it arrives and wants nothing special; dispatch,
// accounting, drain and the rules for repeating are those of every exchange.
// What fails here, or does not fit, goes the long way.

// fits reports whether the request may take the short way.
func (c *conn1) fits(h *head) bool {
	return h.minor == 1 && !h.special && !h.chunked && h.method != http.MethodConnect && h.method != http.MethodTrace &&
		int(max(0, h.length)) <= c.work.w-c.work.r && c.known && !bytes.HasPrefix(h.path, []byte(challengePath))
}

// locate makes what the routing is asked for.
func (c *conn1) locate(h *head) {
	if c.host != string(h.host) || c.forwarded == nil {
		c.host = string(h.host)
		c.forwarded = appendForwarded(nil, c.ip, c.host, c.scheme())
		c.known = c.secure == nil || strings.EqualFold(normalizeHost(c.host), c.secure.ServerName)
	}
	if c.rawPath != string(h.path) {
		c.rawPath = string(h.path)
		c.path = c.rawPath
		if path, err := url.PathUnescape(c.rawPath); err == nil { // the parser has seen to it
			c.path = path
		}
	}
}

// scheme returns the scheme of the URLs that the client asks for.
func (c *conn1) scheme() string {
	if c.secure != nil {
		return "https"
	}
	return "http"
}

// find returns the service that the request is for, if its servers speak
// HTTP/1.1.
func (c *conn1) find(t *routing) *service {
	svc := c.listener.lookup(t, c.host, c.path)
	if svc == nil || svc.protocol == model.H2C {
		return nil
	}
	return svc
}

// shortWay serves the request. It reports whether its whole answer was written.
func (c *conn1) shortWay() bool {
	w := c.work
	c.locate(&w.req)
	if !c.fits(&w.req) || c.router.dispatch(&c.x, c.lookup) != found {
		return c.longWay(nil)
	}
	s := c.x.backend.server
	u, ok := s.upstream.(*h1)
	if !ok {
		c.x.undo()
		return c.longWay(nil)
	}
	a := answer{c: c, body: w.in[w.r : w.r+int(max(0, w.req.length))]}
	f := a.forward(u)
	if f != nil && !f.begun {
		return c.longWay(f)
	}
	if f == nil && c.x.trial {
		c.router.reached(s) // also over a kept connection
	}
	w.r += len(a.body)
	if f != nil && !f.client {
		c.x.backend.tally.breaks()
	}
	a.record()
	if len(a.last) > 0 {
		if _, err := c.nc.Write(a.last); err != nil {
			return false
		}
	}
	return f == nil && !c.x.wasCut.Load()
}

// answer is one exchange on the short way.
type answer struct {
	c      *conn1
	body   []byte // the request's
	end    int    // of the answer's head in work.ans
	have   int    // of the answer in work.ans
	chunks chunks
	status int
	sent   int64 // of the answer's body to the client
	excess bool  // more has come from the server than the answer

	// last is what is still to be written when the server has said all: by
	// then the exchange is over, counted and logged, and its connection free.
	last []byte
}

// mayRepeat reports whether asking twice is the same as asking once.
func (a *answer) mayRepeat() bool {
	switch a.c.work.req.method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return len(a.body) == 0 && !a.c.x.wasCut.Load()
	}
	return false
}

// forward takes the request to the server it was dispatched to, and the answer
// to the client. For the rules see h1.forward.
func (a *answer) forward(u *h1) *failure {
	c, x := a.c, &a.c.x
	conn, err := u.take(context.Background(), x, !a.mayRepeat())
	if err != nil {
		f := &failure{err: err, again: true, suspect: !c.gone() && !x.wasCut.Load()}
		x.settle(f)
		return f
	}
	if u.server.out.Load() {
		f := &failure{err: errServerOut, again: true}
		x.settle(f)
		conn.drop()
		return f
	}
	x.breakable(&x.toServer, &conn.trip)
	f := a.exchange(conn)
	// From here on nobody breaks the connection to the server for the client's
	// sake; from settle on nobody does for the sake of a drain.
	stays := f == nil && c.finish()
	x.toClient.Store(nil)
	x.settle(f)
	if stays && !a.excess && !c.work.res.closes && c.work.res.minor == 1 && !x.wasCut.Load() {
		u.put(conn)
	} else {
		_ = conn.Close()
	}
	return f
}

// exchange sends the request over conn and passes the answer on.
func (a *answer) exchange(conn *h1Conn) *failure {
	w := a.c.work
	mark := conn.written
	w.out = append(a.c.appendRequest(w.out[:0]), a.body...)
	_, err := conn.Write(w.out)
	if err == nil {
		err = a.readHead(conn)
	}
	if err != nil {
		return a.lost(conn, mark, err)
	}
	return a.respond(conn)
}

// lost says what to do about a request whose answer did not begin to come.
func (a *answer) lost(conn *h1Conn, mark uint64, err error) *failure {
	f := &failure{err: err}
	if a.c.gone() {
		f.client = true // it left, which is why the connection was broken
		return f
	}
	if _, malformed := errors.AsType[*refusal](err); malformed {
		return f // it has answered: asking again would not mend it
	}
	f.again = conn.unsent(mark) || a.mayRepeat()
	f.suspect = !conn.reused
	return f
}

// appendRequest appends the request's head as the server gets it.
func (c *conn1) appendRequest(b []byte) []byte {
	h := &c.work.req
	b = append(b, h.method...)
	b = append(b, ' ')
	b = append(b, h.origin...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, h.host...)
	b = append(b, '\r', '\n')
	for i := range h.fields {
		if f := &h.fields[i]; f.kind == plainField || f.kind == dateField {
			b = appendField(b, f.name, f.value)
		}
	}
	b = append(b, c.forwarded...)
	if h.length >= 0 {
		b = appendLength(b, h.length)
	}
	return append(b, '\r', '\n')
}

// maxInterim is how many interim answers a server may send before its answer.
const maxInterim = 16

// readHead reads the head of the answer, past all interim ones.
func (a *answer) readHead(conn *h1Conn) error {
	w := a.c.work
	a.have = 0
	for start, from, interim := 0, 0, 0; ; {
		end, next, r := endOfHead(w.ans[start:a.have], from)
		from = next
		if r == nil && end > 0 {
			if r = w.res.parseAnswer(w.ans[start : start+end]); r == nil && w.res.status >= 200 {
				a.end = start + end
				return nil
			}
			if interim++; r == nil && (interim > maxInterim || w.res.status == http.StatusSwitchingProtocols) {
				r = bad("the server sent an interim answer that was not asked for")
			}
			if r == nil {
				a.earlyHints()
				start, from = start+end, 0
				continue
			}
		}
		if r != nil {
			return r
		}
		if a.have == len(w.ans) {
			if a.have >= maxAnswerHead {
				return bad("the head of the answer is too long")
			}
			w.ans = append(w.ans, make([]byte, len(w.ans))...)
		}
		n, err := conn.Conn.Read(w.ans[a.have:])
		a.have += n
		if n == 0 && err != nil {
			return err
		}
	}
}

// earlyHints passes a 103 on; 100 and 102 are about the other connection.
func (a *answer) earlyHints() {
	w := a.c.work
	if w.res.status != http.StatusEarlyHints {
		return
	}
	b := []byte("HTTP/1.1 103 Early Hints\r\n")
	for i := range w.res.fields {
		if f := &w.res.fields[i]; f.kind == plainField {
			b = appendField(b, f.name, f.value)
		}
	}
	_, _ = a.c.nc.Write(append(b, '\r', '\n')) // a client that is gone is found out with the answer
}

// appendAnswer appends the answer's head as the client gets it.
func (a *answer) appendAnswer(b []byte) []byte {
	c, h := a.c, &a.c.work.res
	b = append(b, "HTTP/1.1 "...)
	b = append(b, h.line...)
	if len(h.line) == 3 {
		b = append(b, ' ')
	}
	b = append(b, '\r', '\n')
	bodiless := h.bodiless(c.work.req.method)
	dated, upgrades := false, false
	for i := range h.fields {
		f := &h.fields[i]
		switch f.kind {
		case dateField:
			dated = true
		case trailerField:
			if !h.chunked || bodiless {
				continue
			}
		case plainField:
			if h.special && h.names(f.name) {
				continue
			}
			if len(f.name) == 12 && same(f.name, "content-type") && streamType(f.value) {
				c.x.become(classStream)
			}
		case upgradeField:
			if h.status != http.StatusUpgradeRequired {
				continue
			}
			upgrades = true
		default:
			continue
		}
		b = appendField(b, f.name, f.value)
	}
	switch {
	case h.length >= 0 && (!bodiless || h.status != http.StatusNoContent):
		b = appendLength(b, h.length)
	case !bodiless:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if !dated {
		b = append(b, "Date: "...)
		b = c.x.start.UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, '\r', '\n')
	}
	if cookie := c.x.placeCookie(c.secure != nil); cookie != "" {
		b = append(b, "Set-Cookie: "...)
		b = append(b, cookie...)
		b = append(b, '\r', '\n')
	}
	if upgrades { // without it the answer would say nothing of what is required (RFC 9110, 15.5.22)
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	if c.ends = c.ends || c.listener.clients.lastAnswers(); c.ends {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, '\r', '\n')
}

// streamType reports whether a Content-Type makes the exchange a stream.
func streamType(value []byte) bool {
	return bytes.HasPrefix(value, []byte("text/event-stream")) || bytes.HasPrefix(value, []byte("application/grpc"))
}

// record counts the exchange and logs it.
func (a *answer) record() {
	c, x := a.c, &a.c.x
	took := time.Since(x.start)
	x.backend.tally.add(a.status, int64(len(a.body)), a.sent, took)
	c.router.access.put(accessLine{
		Time: x.start, Service: x.service.name, Release: x.backend.release, Server: x.backend.server.id,
		Method: c.work.req.method, Host: c.host, Path: c.path, Client: c.ip,
		Status: a.status, Bytes: a.sent, BytesIn: int64(len(a.body)), Took: took,
		Class: x.classAt(x.start.Add(took)).String(), Cut: x.wasCut.Load(),
	})
}
