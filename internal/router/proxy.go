package router

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// upstream is the way to one server.
type upstream interface {
	// forward sends the call's request and passes the answer on. A failure
	// says whether the request may be given to another server.
	forward(c *call) *failure
	// sweep closes kept connections that have been idle for too long.
	sweep()
	// close closes all kept connections; those in use end with their use.
	close()
}

// failure is why an exchange did not end well.
type failure struct {
	err     error
	again   bool // nothing of it can have been acted on: it may go elsewhere
	suspect bool // the server could not be reached
	begun   bool // the answer has begun: the client can only be cut off
	client  bool // the client's doing: it left, or was too slow
}

// call is one HTTP request on its way: the exchange, and the client's end.
type call struct {
	*exchange
	router *Router
	w      http.ResponseWriter
	rc     *http.ResponseController
	req    *http.Request
	body   body
	ip     string
	secure bool // the client came by TLS
	fresh  bool // take no kept connection: one has just turned out stale

	deaf atomic.Bool // the router itself has stopped reading what the client sends

	clientBreaker breaker
	stall         *stall // of HTTP/2
	status        int
	bytesIn       atomic.Int64 // counted where the body is read, which may be another goroutine
	bytesOut      int64
}

// clientGone reports whether the client has left.
func (c *call) clientGone() bool { return c.req.Context().Err() != nil && !c.deaf.Load() }

// maxTries bounds how many servers one request is offered to.
const maxTries = 4

// statusClientGone is what is logged when the client left before an answer
// began; nobody receives it.
const statusClientGone = 499

// suspectFor is how long a server that could not be reached is passed over
// when there are others; whether it stays in the table is decided elsewhere.
const suspectFor = time.Second

// ServeHTTP carries one request that net/http has read.
func (l *listener) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r := readAgain(req)
	c := l.newCall(newExchange(), w, req)
	defer c.record()
	if r != nil {
		c.refuse(r.status, "malformed", r.text)
		return
	}
	l.answer(c)
}

func (l *listener) newCall(x *exchange, w http.ResponseWriter, req *http.Request) *call {
	c := &call{exchange: x, router: l.router, w: w, req: req, ip: clientIP(req.RemoteAddr), secure: req.TLS != nil}
	c.rc = http.NewResponseController(w)
	c.visitor = c
	return c
}

// answer takes one request to a server, or answers it itself.
func (l *listener) answer(c *call) {
	req := c.req
	if req.Method == http.MethodConnect {
		c.refuse(http.StatusMethodNotAllowed, "no_connect", "this router is no forward proxy: CONNECT is not served")
		return
	}
	if c.secure && l.misdirected(req) {
		c.refuse(http.StatusMisdirectedRequest, "misdirected", "the connection was opened for "+strconv.Quote(req.TLS.ServerName)+", and "+strconv.Quote(req.Host)+" has another certificate")
		return
	}
	if c.challenge() {
		return
	}
	if f := c.takeBody(); f != nil {
		c.giveUp(f)
		return
	}
	defer c.body.release()
	c.carry(func(t *routing) *service { return l.lookup(t, req.Host, req.URL.Path) }, 0)
}

// answerAfter is answer for a request that one server was tried with.
func (l *listener) answerAfter(c *call, f *failure) {
	tries := 1
	if errors.Is(f.err, errServerOut) {
		tries = 0
	}
	if c.goesOn(c.backend.server, f, tries) {
		c.carry(func(t *routing) *service { return l.lookup(t, c.req.Host, c.req.URL.Path) }, tries)
	}
}

// lookup returns the service for the host and path in t, or nil.
func (l *listener) lookup(t *routing, host, path string) *service {
	h := t.listeners[l.address]
	if h == nil {
		return nil
	}
	return h.lookup(host, path)
}

// carry offers the request to one server after another, until one has taken it
// or it must not be repeated. failed says how many have had it already.
func (c *call) carry(lookup func(*routing) *service, failed int) {
	for try := failed + 1; ; try++ {
		switch c.router.dispatch(c.exchange, lookup) {
		case noRoute:
			c.router.tallies.noRoute.Add(1)
			c.refuse(http.StatusNotFound, "no_route", "no route for host "+strconv.Quote(c.req.Host)+" and path "+strconv.Quote(c.req.URL.Path)+" on this listener")
			return
		case noServer:
			c.noServer()
			return
		case moved:
			c.redirect(c.service.redirect)
			return
		case found:
		}
		s := c.backend.server
		f := s.upstream.forward(c)
		if f == nil {
			if c.trial {
				c.router.reached(s) // also over a kept connection
			}
			return
		}
		if errors.Is(f.err, errServerOut) {
			try--
		}
		if !c.goesOn(s, f, try) {
			return
		}
	}
}

// goesOn deals with a failed try: it reports whether there is to be another,
// or ends the exchange.
func (c *call) goesOn(s *server, f *failure, try int) bool {
	c.fresh = true
	c.blame(c.router, s, f)
	if f.again && try < maxTries && c.req.Context().Err() == nil {
		c.router.tallies.retried.Add(1)
		return true
	}
	f.client = f.client || f.again && c.req.Context().Err() != nil
	c.giveUp(f)
	return false
}

// blame keeps a server that could not be reached from being chosen again by x,
// and for a moment by others.
func (x *exchange) blame(r *Router, s *server, f *failure) {
	if f.suspect {
		s.suspect.Store(r.clock.Load() + int64(suspectFor))
		x.tried = append(x.tried, s)
	}
}

// settle takes the exchange out of its server's account. From then on the
// connection to the server belongs to the caller alone, and a cut that came
// before anything was sent has no meaning any more.
func (x *exchange) settle(f *failure) {
	x.toServer.Store(nil)
	switch {
	case f != nil && f.again:
		x.server.leave(x, endUndone)
		x.wasCut.Store(false)
	case x.wasCut.Load():
		x.server.leave(x, endCut)
	default:
		x.server.leave(x, endFinished)
	}
}

// noServer answers for a service that has no server to send to.
func (c *call) noServer() {
	c.router.tallies.noServer.Add(1)
	c.w.Header().Set("Retry-After", "1")
	if len(c.tried) > 0 {
		// Nothing was sent anywhere. After a reboot all of a table's servers are gone.
		c.refuse(http.StatusServiceUnavailable, "unreachable", "no server of service "+c.service.name+" could be reached")
		return
	}
	c.refuse(http.StatusServiceUnavailable, "no_server", "service "+c.service.name+" has no server in service now")
}

// giveUp ends an exchange that failed, by an answer where that is possible.
func (c *call) giveUp(f *failure) {
	switch {
	case f.begun:
		if !f.client {
			c.backend.tally.breaks()
		}
		// The answer is cut off; anything but breaking the connection would
		// let it pass for whole.
		panic(http.ErrAbortHandler)
	case c.wasCut.Load():
		c.w.Header().Set("Retry-After", "1")
		c.refuse(http.StatusServiceUnavailable, "drained", "the server was taken out of service before it had answered")
	case f.client && errors.Is(f.err, os.ErrDeadlineExceeded):
		c.refuse(http.StatusRequestTimeout, "slow_body", "the request's body stopped coming")
	case f.client && errors.Is(f.err, errChunks):
		c.refuse(http.StatusBadRequest, "malformed", f.err.Error())
	case f.client:
		c.status = statusClientGone
		panic(http.ErrAbortHandler)
	default:
		c.w.Header().Set("Retry-After", "1")
		c.refuse(http.StatusBadGateway, "unreachable", "service "+c.service.name+": "+f.err.Error())
	}
}

// refuse answers in the router's own name.
func (c *call) refuse(status int, code, text string) {
	h := c.w.Header()
	h.Set("Kiln-Router", code)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if c.body.unread() {
		c.closeAfterwards()
	}
	out := text + "\n"
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if strings.Contains(c.req.Header.Get("Accept"), "json") {
		h.Set("Content-Type", "application/json")
		out = `{"code":` + strconv.Quote(code) + `,"error":` + quoteJSON(text) + "}\n"
	}
	h.Set("Content-Length", strconv.Itoa(len(out)))
	c.status = status
	if c.req.ProtoMajor == 2 { // nothing follows
		_ = c.rc.SetWriteDeadline(time.Now().Add(c.router.limits.stall()))
	}
	c.w.WriteHeader(status)
	if c.req.Method == http.MethodHead {
		return
	}
	n, _ := io.WriteString(c.w, out) // the client may be gone, which is its right
	c.bytesOut += int64(n)
}

// closeAfterwards ends the client's connection with this answer: what is left
// of the body must not be taken for the next request. HTTP/2 needs no such care.
func (c *call) closeAfterwards() {
	if c.req.ProtoMajor == 1 {
		c.w.Header().Set("Connection", "close")
	}
}

// record counts the exchange and logs it.
func (c *call) record() {
	took := time.Since(c.start)
	if c.backend.tally != nil {
		c.backend.tally.add(c.status, c.bytesIn.Load(), c.bytesOut, took)
	}
	c.router.access.put(c.line(took))
}

func (c *call) line(took time.Duration) accessLine {
	l := accessLine{
		Time: c.start, Method: c.req.Method, Host: c.req.Host, Path: c.req.URL.Path, Client: c.ip,
		Status: c.status, Bytes: c.bytesOut, BytesIn: c.bytesIn.Load(), Took: took,
		Class: c.classAt(c.start.Add(took)).String(), Cut: c.wasCut.Load(),
	}
	if c.service != nil {
		l.Service, l.Release = c.service.name, c.service.release
	}
	if s := c.backend.server; s != nil {
		l.Server, l.Release = s.id, c.backend.release
	}
	return l
}

// body is what the client sends after the head. A small one is read before a
// server is chosen: a slow client then holds no server, and what could not be
// sent to one server can be sent whole to another.
type body struct {
	buffered []byte // whole; nil if there is none or it streams
	pooled   *[]byte
	stream   io.Reader // nil unless it streams
	source   *clientBody
	length   int64       // of what streams; -1: unknown
	started  atomic.Bool // something of the stream was read
}

// unread reports whether the client has more to send.
func (b *body) unread() bool { return b.source != nil && !b.source.ended.Load() }

// maxBuffered is how long a body may be to be read beforehand.
const maxBuffered = 64 << 10

func (b *body) release() {
	if b.pooled != nil {
		buffers.Put(b.pooled)
		b.pooled, b.buffered = nil, nil
	}
}

// buffers are for bodies, both ways.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxBuffered); return &b }}

// takeBody reads a small body; a long one, or one of unknown length, streams.
func (c *call) takeBody() *failure {
	n := c.req.ContentLength
	if n == 0 || c.req.Body == nil || c.req.Body == http.NoBody {
		return nil
	}
	if n < 0 || n > maxBuffered {
		c.body.source = &clientBody{c: c, r: c.req.Body}
		c.body.stream, c.body.length = c.body.source, n
		if c.req.ProtoMajor == 1 {
			_ = c.rc.EnableFullDuplex() // HTTP/1 supports it; the answer may begin before the body ends
		}
		return nil
	}
	p, _ := buffers.Get().(*[]byte)
	c.body.pooled, c.body.buffered = p, (*p)[:n]
	src := &clientBody{c: c, r: c.req.Body}
	c.body.source = src
	if _, err := io.ReadFull(src, c.body.buffered); err != nil {
		c.body.release()
		return &failure{err: err, client: true}
	}
	src.done()
	return nil
}

// clientBody reads the client's body with a limit on the time in which no byte
// comes, and counts.
type clientBody struct {
	c     *call
	r     io.Reader
	armed int64 // router clock when the deadline was set last
	ended atomic.Bool
}

// rearm is how often the deadline is moved at most: it costs a timer.
const rearm = int64(time.Second)

func (b *clientBody) Read(p []byte) (int, error) {
	if now := b.c.router.clock.Load(); b.armed == 0 || now-b.armed > rearm {
		_ = b.c.rc.SetReadDeadline(time.Now().Add(b.c.router.limits.BodyIdle))
		b.armed = max(1, now)
	}
	n, err := b.r.Read(p)
	b.c.bytesIn.Add(int64(n))
	if errors.Is(err, io.EOF) {
		b.done()
	}
	return n, err
}

// done takes the deadline away: net/http goes on reading the connection, to
// see when the client leaves, and must not run into it.
func (b *clientBody) done() {
	if b.ended.CompareAndSwap(false, true) {
		_ = b.c.rc.SetReadDeadline(time.Time{})
	}
}

// watchClient trips b when the client leaves. stop reports whether it has not.
func (c *call) watchClient(b *breaker) (stop func() bool) {
	return context.AfterFunc(c.req.Context(), b.trip)
}

// streams reports whether the request by itself makes the exchange a stream.
func (c *call) streams() bool {
	ct := c.req.Header["Content-Type"]
	return len(ct) == 1 && strings.HasPrefix(ct[0], "application/grpc")
}

// errServerOut says that a switch took the server out before anything was sent.
var errServerOut = model.Errorf(model.Unavailable, "the server was taken out of service")
