package router

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn1 is a client's connection that speaks HTTP/1. One goroutine reads its
// requests and answers them in their order; no other reads the connection
// meanwhile, and none waits: whether the client is still there is looked at
// from outside (clients.look).
//
// Most requests take the short way to a server (lane.go). The others are made
// into an http.Request, and are answered by the code that answers HTTP/2.
type conn1 struct {
	listener *listener
	router   *Router
	nc       net.Conn        // a *clientConn, or TLS over one
	raw      syscall.RawConn // nil if it is TLS
	socket   syscall.RawConn // of the TCP connection itself
	secure   *tls.ConnectionState
	ip       string

	x      exchange // of the request that is served
	work   *work    // nil while nothing has come
	served int
	ends   bool // after this request
	// straggler says that the goroutine which sends a body on may still read
	// into work, though the answer is over: no other connection may get it.
	straggler bool
	handed    bool // it has gone to another owner
	quiet     int  // clients.closeQuiet's

	// mark is 0 while no request is served, else the router clock at which
	// the request began, or one of the marks below.
	mark   atomic.Int64
	cancel atomic.Pointer[breaker] // ends the request that takes the long way

	armedAt  int64 // router clock when the read deadline was set
	armedFor time.Duration

	host, path string // of the last request: the next one's are often the same
	rawPath    string // what path was made of
	forwarded  []byte // the fields that say who the client is, for host
	known      bool   // a certificate for host was shown, or there is no TLS
	lookup     func(*routing) *service
	toClient   breaker
	readable   func(uintptr) bool
	got        int
	gotErr     error

	prev, next *conn1 // in clients
}

const (
	markGone    = -1 // the client has left
	markStopped = -2 // the router ends
)

// work is what a connection needs only while it serves a request.
type work struct {
	in       []byte // what came and was not used yet is in[r:w]
	r, w     int
	out      []byte // what is written next
	ans      []byte // what came from the server
	req, res head
}

const (
	inSize  = 8 << 10
	ansSize = 16 << 10
)

var works = sync.Pool{New: func() any {
	return &work{in: make([]byte, inSize), out: make([]byte, 0, inSize), ans: make([]byte, ansSize)}
}}

func newConn1(l *listener, nc net.Conn) *conn1 {
	c := &conn1{listener: l, router: l.router, nc: nc, ip: clientIP(nc.RemoteAddr().String())}
	below := nc
	if tc, ok := nc.(*tls.Conn); ok {
		state := tc.ConnectionState()
		c.secure, below = &state, tc.NetConn()
	}
	if sc, ok := below.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.socket = raw
			if c.secure == nil {
				c.raw = raw
			}
		}
	}
	c.lookup = c.find
	c.toClient.trip = func() { _ = nc.SetWriteDeadline(past) }
	c.readable = c.readNow
	return c
}

// serve serves requests until the connection ends.
func (c *conn1) serve() {
	defer func() {
		c.release()
		if !c.handed {
			_ = c.nc.Close()
		}
	}()
	for !c.ends {
		end, r := c.awaitHead()
		switch {
		case r != nil:
			c.refuse(r)
			return
		case end == 0:
			return
		case c.served == 0 && isPreface(c.work.in[c.work.r:end]):
			c.handOver()
			return
		}
		if !c.request(end) {
			return
		}
		c.served++
		c.ends = c.ends || c.listener.clients.stopping.Load()
	}
	// The client has its answer, or will have it, unless more that it has sent
	// makes the closing a reset.
	if c.work.r < c.work.w || c.somethingCame() {
		c.linger()
	}
}

// request serves the request whose head ends at end. It reports whether the
// answer was written whole; then the connection may carry another, unless it
// ends for other reasons.
func (c *conn1) request(end int) bool {
	w := c.work
	if r := w.req.parseRequest(w.in[w.r:end]); r != nil {
		c.refuse(r)
		return false
	}
	w.r = end
	c.ends = w.req.closes || (w.req.minor == 0 && !w.req.keeps)
	if !c.mark.CompareAndSwap(0, max(1, c.router.clock.Load())) {
		c.ends = true // the router ends; what has come is still served
	}
	c.reset()
	return c.shortWay() && c.finish()
}

// finish ends the time in which the client is looked after. It reports whether
// the client was there to the end.
func (c *conn1) finish() bool {
	for {
		m := c.mark.Load()
		if m <= 0 {
			return m != markGone
		}
		if c.mark.CompareAndSwap(m, 0) {
			return true
		}
	}
}

// reset makes the exchange ready for the next request.
func (c *conn1) reset() {
	x := &c.x
	x.start = time.Now()
	x.class.Store(int32(classRequest))
	x.backend, x.service, x.tried, x.trial = backend{}, nil, nil, false
	x.canary = canary{visitor: &c.work.req}
	x.wasCut.Store(false)
}

// hasLeft reports whether the client has closed its end, and left nothing that
// is still to be served.
func (c *conn1) hasLeft() bool {
	if c.socket == nil {
		return false
	}
	left := false
	err := c.socket.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(p, 0); err != nil || n == 0 {
			return
		}
		left = true
		if p[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0 && c.secure == nil {
			var one [1]byte
			n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			left = err == nil && n == 0
		}
	})
	return err == nil && left
}

// left ends the request that is served, because nobody waits for its answer.
func (c *conn1) left() {
	if b := c.cancel.Load(); b != nil {
		b.trip()
	}
	if b := c.x.toServer.Load(); b != nil {
		b.trip()
	}
}

// gone reports whether the client is known to have left.
func (c *conn1) gone() bool { return c.mark.Load() == markGone }

// stopIdle ends the connection if no request is served.
func (c *conn1) stopIdle() {
	if c.mark.CompareAndSwap(0, markStopped) {
		_ = c.nc.SetReadDeadline(past)
	}
}

// awaitHead reads until a whole head has come; it returns its end in the
// buffer, 0 if none will come.
func (c *conn1) awaitHead() (int, *refusal) {
	if w := c.work; w != nil && w.r < w.w {
		w.w, w.r = copy(w.in, w.in[w.r:w.w]), 0
	} else if !c.awaitFirst() {
		return 0, nil
	}
	w := c.work
	if !tokenBytes[w.in[0]] {
		return 0, bad("this is no HTTP")
	}
	end, from, r := endOfHead(w.in[:w.w], 0)
	for started := false; end == 0 && r == nil; started = true {
		if w.w >= c.router.limits.HeaderBytes {
			return 0, &refusal{431, "the head is too long"}
		}
		if !started && (c.served > 0 || c.listener.pressed()) {
			c.arm(c.headerTimeout(), true)
		}
		if w.w == len(w.in) {
			w.in = append(w.in, make([]byte, len(w.in))...)
		}
		n, err := c.nc.Read(w.in[w.w:])
		w.w += n
		switch {
		case n > 0:
			end, from, r = endOfHead(w.in[:w.w], from)
		case errors.Is(err, os.ErrDeadlineExceeded) && c.mark.Load() != markStopped:
			return 0, &refusal{408, "the head did not come in time"}
		default:
			return 0, nil
		}
	}
	if end > c.router.limits.HeaderBytes {
		return 0, &refusal{431, "the head is too long"}
	}
	return end, r
}

// awaitFirst waits for the first bytes of a request. Meanwhile the connection
// holds no buffer.
func (c *conn1) awaitFirst() bool {
	limit := c.router.limits.IdleTimeout
	if c.listener.pressed() {
		limit = min(limit, pressedIdle)
	}
	if c.served == 0 {
		limit = c.headerTimeout()
	}
	c.arm(limit, false)
	if c.raw == nil {
		return c.awaitFirstOf()
	}
	c.got, c.gotErr = 0, nil
	if err := c.raw.Read(c.readable); err != nil || c.gotErr != nil || c.got == 0 {
		return false
	}
	c.work.r, c.work.w = 0, c.got
	return true
}

// readNow reads what has come, if anything has.
func (c *conn1) readNow(fd uintptr) bool {
	if c.work == nil {
		c.work, _ = works.Get().(*work)
	}
	n, err := unix.Read(int(fd), c.work.in)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(int(fd), c.work.in)
	}
	if errors.Is(err, unix.EAGAIN) {
		c.release()
		return false
	}
	c.got, c.gotErr = max(0, n), err
	return true
}

// awaitFirstOf is awaitFirst for TLS, which has buffers of its own.
func (c *conn1) awaitFirstOf() bool {
	c.release()
	var one [1]byte
	if n, err := c.nc.Read(one[:]); n == 0 || err != nil {
		return false
	}
	c.work, _ = works.Get().(*work)
	c.work.in[0] = one[0]
	c.work.r, c.work.w = 0, 1
	return true
}

// release gives the buffers back.
func (c *conn1) release() {
	w := c.work
	if w == nil {
		return
	}
	c.work = nil
	c.x.visitor = nil
	if c.straggler || len(w.in) > 2*inSize || cap(w.out) > 8*inSize || len(w.ans) > 2*ansSize {
		return // still in use, or a rare large head: not worth keeping
	}
	works.Put(w)
}

func (c *conn1) headerTimeout() time.Duration {
	if c.listener.pressed() {
		return min(pressedHeader, c.router.limits.HeaderTimeout)
	}
	return c.router.limits.HeaderTimeout
}

// arm sets the deadline of the next reads. It costs a timer, so one that was set
// a moment ago is left: waits may end by a quarter early.
func (c *conn1) arm(limit time.Duration, exactly bool) {
	now := c.router.clock.Load()
	if !exactly && c.armedFor == limit && now-c.armedAt < int64(limit)/4 {
		return
	}
	c.armedFor, c.armedAt = limit, now
	if exactly {
		c.armedFor = 0
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(limit))
	if c.mark.Load() == markStopped {
		_ = c.nc.SetReadDeadline(past)
	}
}

// refuse answers what cannot be served and ends the connection.
func (c *conn1) refuse(r *refusal) {
	text := r.text + "\n"
	b := append([]byte(nil), "HTTP/1.1 "+strconv.Itoa(r.status)+" "+refusalText(r.status)+"\r\n"...)
	b = append(b, "Kiln-Router: malformed\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"...)
	b = appendLength(b, int64(len(text)))
	b = append(b, '\r', '\n')
	b = append(b, text...)
	_, err := c.nc.Write(b)
	c.router.access.put(accessLine{
		Time: time.Now(), Client: c.ip, Class: classRequest.String(), Status: r.status, Bytes: int64(len(text)),
	})
	if err == nil {
		c.linger()
	}
}

// How long, and how much, a connection is read on after the router has said its
// last: to close it with something unread would take the answer away from a
// client that still sends (RFC 9112, 9.6).
const (
	lingerFor   = time.Second
	lingerBytes = 256 << 10
)

// linger reads until the client has closed, or for a while.
func (c *conn1) linger() {
	closeWrite(c.nc)
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerFor))
	if c.work == nil {
		c.work, _ = works.Get().(*work)
	}
	for left := lingerBytes; left > 0; {
		n, err := c.nc.Read(c.work.in)
		if left -= n; err != nil {
			return
		}
	}
}

// handOver gives a connection that turned out to speak HTTP/2 to net/http.
func (c *conn1) handOver() {
	conn := &replayed{Conn: c.nc, ahead: append([]byte(nil), c.work.in[c.work.r:c.work.w]...)}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.router.limits.HeaderTimeout))
	c.handed = true
	c.listener.second.pass(conn)
}

// replayed is a connection whose first bytes have been read already.
type replayed struct {
	net.Conn
	ahead []byte
}

// Read implements net.Conn.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.ahead) > 0 {
		n := copy(p, r.ahead)
		r.ahead = r.ahead[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// passed are connections on their way to net/http, which takes them as from a
// listener of its own.
type passed struct {
	ready   chan net.Conn
	ended   chan struct{}
	once    sync.Once
	address net.Addr
}

func newPassed(address net.Addr) *passed {
	return &passed{ready: make(chan net.Conn), ended: make(chan struct{}), address: address}
}

func (p *passed) pass(conn net.Conn) {
	select {
	case p.ready <- conn:
	case <-p.ended:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (p *passed) Accept() (net.Conn, error) {
	select {
	case conn := <-p.ready:
		return conn, nil
	case <-p.ended:
		return nil, http.ErrServerClosed
	}
}

// Addr implements net.Listener.
func (p *passed) Addr() net.Addr { return p.address }

// Close implements net.Listener.
func (p *passed) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}
