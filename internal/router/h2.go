package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// h2 is the way to one server by cleartext HTTP/2: few connections, many
// streams on each. The connections are chosen here and not by the library, so
// that a switch during a slow dial still finds the request unsent.
type h2 struct {
	router    *Router
	server    *server
	transport *http2.Transport

	mu     sync.Mutex
	conns  []*http2.ClientConn
	dial   *h2Dial // the one under way, or nil
	closed bool
}

// h2Dial is a connection being made: those who wait share it.
type h2Dial struct {
	done chan struct{}
	err  error
}

func newH2(r *Router, s *server) *h2 {
	u := &h2{router: r, server: s}
	u.transport = &http2.Transport{
		AllowHTTP:          true,
		DisableCompression: true,
		ConnPool:           u,
		MaxHeaderListSize:  maxResponseHead,
		ReadIdleTimeout:    15 * time.Second, // then a ping, to find out a dead server
		PingTimeout:        5 * time.Second,
	}
	return u
}

// GetClientConn implements http2.ClientConnPool: it returns a connection with
// room for one more stream.
func (u *h2) GetClientConn(req *http.Request, _ string) (*http2.ClientConn, error) {
	for {
		if u.server.out.Load() {
			return nil, errServerOut
		}
		u.mu.Lock()
		for _, cc := range u.conns {
			if cc.ReserveNewRequest() {
				u.mu.Unlock()
				return cc, nil
			}
		}
		d := u.dial
		if d == nil {
			d = &h2Dial{done: make(chan struct{})}
			u.dial = d
			go u.connect(d)
		}
		u.mu.Unlock()
		select {
		case <-d.done:
		case <-req.Context().Done():
			return nil, &dialError{req.Context().Err()}
		}
		if d.err != nil {
			return nil, &dialError{d.err}
		}
	}
}

// dialError marks a failure to reach the server.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// connect makes one more connection. It ends by its own time limit: whoever
// waited for it may be gone, the next one finds the connection.
func (u *h2) connect(d *h2Dial) {
	ctx, cancel := context.WithTimeout(context.Background(), u.router.limits.DialTimeout)
	defer cancel()
	trial := u.server.ejected()
	dialer := net.Dialer{Control: onLink}
	nc, err := dialer.DialContext(ctx, "tcp", u.server.address)
	if err == nil {
		u.router.reached(u.server)
	} else {
		u.router.unreached(u.server, trial, err)
	}
	var cc *http2.ClientConn
	if err == nil {
		cc, err = u.transport.NewClientConn(nc)
	}
	u.mu.Lock()
	if err == nil && !u.closed {
		u.conns = append(u.conns, cc)
	} else if err == nil {
		err = errServerOut
		_ = nc.Close()
	}
	u.dial = nil
	u.mu.Unlock()
	d.err = err
	close(d.done)
}

// MarkDead implements http2.ClientConnPool.
func (u *h2) MarkDead(dead *http2.ClientConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, cc := range u.conns {
		if cc == dead {
			u.conns = append(u.conns[:i], u.conns[i+1:]...)
			return
		}
	}
}

// sweep closes connections that nobody uses; the library keeps live ones alive.
func (u *h2) sweep() {
	u.mu.Lock()
	defer u.mu.Unlock()
	kept := u.conns[:0]
	for _, cc := range u.conns {
		st := cc.State()
		idle := st.StreamsActive+st.StreamsReserved+st.StreamsPending == 0
		if st.Closed || (idle && !st.LastIdle.IsZero() && time.Since(st.LastIdle) > u.router.limits.UpstreamIdle) {
			go func() { _ = cc.Close() }()
			continue
		}
		kept = append(kept, cc)
	}
	clear(u.conns[len(kept):])
	u.conns = kept
}

func (u *h2) close() {
	u.mu.Lock()
	conns := u.conns
	u.conns, u.closed = nil, true
	u.mu.Unlock()
	for _, cc := range conns {
		_ = cc.Close()
	}
}

// forward implements upstream.
func (u *h2) forward(c *call) *failure {
	// net/http ends the request's context also when this router is the one who
	// stops reading the body; the answer must not be lost with it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.req.Context()))
	defer cancel()
	defer context.AfterFunc(c.req.Context(), func() {
		if c.clientGone() {
			cancel()
		}
	})()
	c.breakable(&c.toServer, &breaker{trip: cancel})
	if c.streams() {
		c.become(classStream)
	}
	out := u.request(ctx, c)
	join := func() {}
	if body, ok := out.Body.(*h2Body); ok {
		join = body.join
	}
	defer join()
	res, err := u.transport.RoundTrip(out)
	if err != nil {
		join() // from here on it is settled whether something of the body is gone
		f := u.lost(c, err)
		c.settle(f)
		return f
	}
	if c.body.unread() {
		c.closeAfterwards()
	}
	f := c.respond(res, func() bool { return false })
	c.settle(f)
	if f != nil && c.clientGone() {
		f.client = true
	}
	return f
}

// request returns the request as the server gets it.
func (u *h2) request(ctx context.Context, c *call) *http.Request {
	out := c.req.Clone(ctx)
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", u.server.address
	named := hopNames(c.req.Header)
	for key := range out.Header {
		if isHop(key) || isForwarded(key) || key == "Expect" || (named != nil && contains(named, key)) {
			delete(out.Header, key)
		}
	}
	if hasToken(c.req.Header["Te"], "trailers") {
		out.Header["Te"] = []string{"trailers"}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // the library shall not put its own
	}
	setForwarded(out.Header, c.ip, c.req.Host, c.scheme())
	switch {
	case c.body.stream != nil:
		out.Body = &h2Body{c: c}
		out.Trailer = c.req.Trailer // the very map: it is filled when the body has ended
	case len(c.body.buffered) > 0:
		whole := c.body.buffered
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole)), nil }
		out.Body, _ = out.GetBody()
	default:
		out.Body = http.NoBody
	}
	return out
}

// lost says what to do about a request whose answer did not begin to come.
// The library has already repeated what the server said it has not acted on.
func (u *h2) lost(c *call, err error) *failure {
	f := &failure{err: err}
	var unreached *dialError
	switch {
	case c.clientGone():
		f.client = true
	case errors.Is(err, errServerOut):
		f.err, f.again = errServerOut, !c.body.started.Load()
	case errors.As(err, &unreached):
		f.again, f.suspect = !c.body.started.Load(), !c.wasCut.Load()
	case c.mayRepeat():
		f.again = true
	}
	return f
}

// h2Body is the client's streaming body on its way to the library, which reads
// it on a goroutine of its own.
type h2Body struct {
	c       *call
	reading sync.Mutex // held while reading

	mu      sync.Mutex // guards closed, and orders it with the body's started
	closed  bool
	started bool // by this attempt
}

// Read implements io.Reader.
func (b *h2Body) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.started = true
		b.c.body.started.Store(true)
	}
	b.mu.Unlock()
	if closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.c.body.stream.Read(p)
}

// Close implements io.Closer: the library closes a body that it does not want
// to the end, and waits for a Read that is under way. A body of which nothing
// was read is left as it is: another server may get it.
func (b *h2Body) Close() error {
	b.mu.Lock()
	end := !b.closed && b.started
	b.closed = true
	b.mu.Unlock()
	if end && b.c.body.unread() {
		b.c.deaf.Store(true)
		_ = b.c.rc.SetReadDeadline(past)
	}
	return nil
}

// join returns when nobody reads the client's body any more.
func (b *h2Body) join() {
	_ = b.Close()
	b.reading.Lock()
	defer b.reading.Unlock()
}
