package router

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// h1 is the way to one server by HTTP/1.1, over connections that are kept.
// Reading and writing happen on the goroutine of the request itself; only a
// body that streams has a second one.
type h1 struct {
	router *Router
	server *server

	mu     sync.Mutex
	idle   []*h1Conn // the one used last at the end
	closed bool
}

// maxIdle is how many connections to a server are kept. Requests that may not
// be repeated leave one behind each, so this bounds them rather than the load.
const maxIdle = 256

func newH1(r *Router, s *server) *h1 { return &h1{router: r, server: s} }

// take returns a connection for x: a kept one that is still open, else a new one.
func (u *h1) take(ctx context.Context, x *exchange, fresh bool) (*h1Conn, error) {
	for !fresh {
		u.mu.Lock()
		n := len(u.idle)
		if n == 0 {
			u.mu.Unlock()
			break
		}
		conn := u.idle[n-1]
		u.idle[n-1] = nil
		u.idle = u.idle[:n-1]
		u.mu.Unlock()
		if conn.usable() {
			conn.reused = true
			return conn, nil
		}
		_ = conn.Close()
	}
	nc, err := u.router.dialServer(ctx, x)
	if err != nil {
		return nil, err
	}
	conn, err := newH1Conn(nc)
	if err != nil {
		_ = nc.Close()
	}
	return conn, err
}

// put keeps a connection for the next exchange.
func (u *h1) put(conn *h1Conn) {
	conn.parked = u.router.clock.Load()
	u.mu.Lock()
	keep := !u.closed && len(u.idle) < maxIdle
	if keep {
		u.idle = append(u.idle, conn)
	}
	u.mu.Unlock()
	if !keep {
		conn.drop()
	}
}

func (u *h1) sweep() {
	oldest := u.router.clock.Load() - int64(u.router.limits.UpstreamIdle)
	u.mu.Lock()
	n := 0
	for n < len(u.idle) && u.idle[n].parked < oldest {
		n++
	}
	old := append([]*h1Conn(nil), u.idle[:n]...)
	u.idle = append(u.idle[:0], u.idle[n:]...)
	u.mu.Unlock()
	for _, conn := range old {
		_ = conn.Close()
	}
}

func (u *h1) close() {
	u.mu.Lock()
	idle := u.idle
	u.idle, u.closed = nil, true
	u.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close()
	}
}

// forward implements upstream.
func (u *h1) forward(c *call) *failure {
	// What may not be asked twice does not go where it might be lost: onto a
	// kept connection, which the server may be closing at this very moment.
	// Acknowledged bytes do not tell whether the server has read them.
	conn, err := u.take(c.req.Context(), c.exchange, c.fresh || !c.mayRepeat())
	if err != nil {
		f := &failure{err: err, again: true, suspect: c.req.Context().Err() == nil && !c.wasCut.Load()}
		c.settle(f)
		return f
	}
	if u.server.out.Load() {
		// A switch came while the connection was being had. Nothing was sent.
		f := &failure{err: errServerOut, again: true}
		c.settle(f)
		u.put(conn)
		return f
	}
	c.breakable(&c.toServer, &conn.trip)
	stop := c.watchClient(&conn.trip)
	f, keep := u.exchange(c, conn)
	left := !stop()
	c.settle(f)
	if keep && f == nil && !left && !c.wasCut.Load() {
		u.put(conn)
	} else {
		_ = conn.Close()
	}
	return f
}

// exchange sends the request over conn and passes the answer on. keep says
// whether conn may carry another one.
func (u *h1) exchange(c *call, conn *h1Conn) (f *failure, keep bool) {
	mark := conn.written
	upgrade := upgradeOf(c.req)
	p, _ := heads.Get().(*[]byte)
	head := appendHead((*p)[:0], c, upgrade)
	small := len(c.body.buffered) > 0 && len(c.body.buffered) <= 4<<10
	if small {
		head = append(head, c.body.buffered...)
	}
	_, err := conn.Write(head)
	*p = head[:0]
	heads.Put(p)
	if err == nil && !small && len(c.body.buffered) > 0 {
		_, err = conn.Write(c.body.buffered)
	}
	if err != nil {
		return u.lost(c, conn, mark, err), false
	}
	var sending *sender
	if c.body.stream != nil {
		sending = c.send(conn)
		defer sending.join()
	}
	res, err := conn.readHead(c.req, c.interim)
	if err != nil {
		if sending != nil {
			if f := sending.failed(); f != nil {
				return f, false
			}
		}
		return u.lost(c, conn, mark, err), false
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return c.tunnelTo(conn, res, upgrade), false
	}
	if sending != nil && !c.body.unread() {
		sending.settle()
	}
	if sending != nil && !sending.ended() {
		// The server answers before it has the whole body. Whatever it does
		// not take cannot be told from a next request, so both ends close.
		res.Close = true
		c.closeAfterwards()
	}
	if upgrade != "" {
		// It may have changed the protocol all the same, whatever it answers.
		res.Close = true
	}
	f = c.respond(res, func() bool { return conn.reader().Buffered() > 0 })
	return f, f == nil && !res.Close && (sending == nil || sending.ended())
}

// lost says what to do about a request whose answer did not begin to come.
func (u *h1) lost(c *call, conn *h1Conn, mark uint64, err error) *failure {
	f := &failure{err: err}
	if c.req.Context().Err() != nil {
		f.client = true // it left, which is why the connection was broken
		return f
	}
	switch {
	case c.body.started.Load(): // some of it is gone, and only the client has it
	case conn.unsent(mark), c.mayRepeat():
		f.again = true
	}
	// A kept connection that turned out closed says nothing about the server;
	// a new one that fails does.
	f.suspect = !conn.reused
	return f
}

// mayRepeat reports whether a request that a server may have seen may be asked
// of another: asking twice is the same as asking once, and nobody wants it ended.
func (c *call) mayRepeat() bool {
	switch c.req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return len(c.body.buffered) == 0 && c.body.stream == nil && !c.wasCut.Load()
	}
	return false
}

// heads are for the heads of requests.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// appendHead appends the request's head as the server gets it.
func appendHead(b []byte, c *call, upgrade string) []byte {
	req := c.req
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, requestTarget(req)...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, req.Host...)
	b = append(b, '\r', '\n')
	b = appendPassed(b, req.Header)
	b = appendForwarded(b, c.ip, req.Host, c.scheme())
	if upgrade != "" {
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, upgrade...)
		b = append(b, '\r', '\n')
	}
	b = c.appendFraming(b)
	return append(b, '\r', '\n')
}

// appendPassed appends the client's fields that are not about its connection.
func appendPassed(b []byte, h http.Header) []byte {
	named := hopNames(h)
	for key, values := range h {
		if isHop(key) || isForwarded(key) || key == "Content-Length" || key == "Expect" || (named != nil && contains(named, key)) {
			continue
		}
		for _, v := range values {
			b = append(b, key...)
			b = append(b, ':', ' ')
			b = append(b, v...)
			b = append(b, '\r', '\n')
		}
	}
	if hasToken(h["Te"], "trailers") {
		b = append(b, "Te: trailers\r\n"...)
	}
	return b
}

// appendFraming appends what says where the body ends. It depends on nothing
// but the body that is going to be sent.
func (c *call) appendFraming(b []byte) []byte {
	switch {
	case c.body.stream != nil && c.body.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for k := range c.req.Trailer {
			b = append(b, "Trailer: "+k+"\r\n"...)
		}
	case c.body.stream != nil:
		b = appendLength(b, c.body.length)
	case c.body.buffered != nil || len(c.req.Header["Content-Length"]) > 0:
		b = appendLength(b, int64(len(c.body.buffered)))
	}
	return b
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, '\r', '\n')
}

// requestTarget returns the path and query as the client wrote them.
func requestTarget(req *http.Request) string {
	if len(req.RequestURI) > 0 && req.RequestURI[0] == '/' {
		return req.RequestURI
	}
	if req.RequestURI == "*" {
		return "*"
	}
	return req.URL.RequestURI()
}

// sender passes a streaming body on while the answer is awaited.
type sender struct {
	c    *call
	conn *h1Conn
	done chan struct{}
	err  error // valid once done is closed
}

func (c *call) send(conn *h1Conn) *sender {
	s := &sender{c: c, conn: conn, done: make(chan struct{})}
	c.body.started.Store(true)
	go func() {
		s.err = conn.writeStream(c.body.stream, c.body.length, c.req.Trailer)
		err := s.err
		close(s.done)
		var fault *serverError
		if err != nil && !errors.As(err, &fault) {
			// The client's side failed: the answer that is being waited for
			// can only be to half a request. A server that has closed is
			// different: its answer may be on the way. Whoever is woken by
			// this finds the reason already there.
			conn.trip.trip()
		}
	}()
	return s
}

// ended reports whether the whole body was passed on.
func (s *sender) ended() bool {
	select {
	case <-s.done:
		return s.err == nil
	default:
		return false
	}
}

// settle waits for a sender that has read the body to its end, and may not have
// come to say so though the server has answered it already.
func (s *sender) settle() {
	if s.ended() {
		return
	}
	select {
	case <-s.done:
	case <-time.After(100 * time.Millisecond):
	}
}

// failed returns the failure if it was the client's side that failed.
func (s *sender) failed() *failure {
	select {
	case <-s.done:
	default:
		return nil
	}
	var fault *serverError
	if s.err == nil || errors.As(s.err, &fault) {
		return nil
	}
	return &failure{err: s.err, client: true}
}

// join ends the sending if it goes on, and waits for it: nobody may read the
// client's body when the handler has returned.
func (s *sender) join() {
	select {
	case <-s.done:
		return
	default:
	}
	_ = s.conn.SetWriteDeadline(past)
	if s.c.body.unread() {
		// net/http takes a failed read for the client's leaving, so this is
		// the last that can be done with the client's connection but answer.
		_ = s.c.rc.SetReadDeadline(past)
	}
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		// HTTP/2 gives no deadline for reading a body that is being closed;
		// closing the body does it.
		_ = s.c.req.Body.Close()
		<-s.done
	}
}
