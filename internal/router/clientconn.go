package router

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// clientConn bounds how long a client may leave what it asked for unread. How
// slowly it reads does not matter, as long as it takes something.
type clientConn struct {
	*net.TCPConn
	router   *Router
	listener *listener
	armed    atomic.Int64 // router clock when the write deadline was set last, or one of the below
	broken   atomic.Bool  // a cut has set it for good
	closed   atomic.Bool
	from, to net.Addr // by its PROXY header; nil: it had none, or it said nothing
}

// What armed is when the write deadline is not what a Write has set.
const (
	armedNot     = 0  // there is none
	armedByOther = -1 // it is somebody's who wants the next write to end by it
)

// Close implements net.Conn.
func (c *clientConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.router.connections.Add(-1)
		c.listener.open.Add(-1)
	}
	return c.TCPConn.Close()
}

// arm moves the write deadline if it was set a while ago. It is at half the
// limit: a write that does not end within it is looked at more closely.
func (c *clientConn) arm() {
	idle := int64(c.router.limits.BodyIdle)
	last := c.armed.Load()
	if last == armedByOther || last != armedNot && c.router.clock.Load()-last < idle/4 {
		return
	}
	c.allow(time.Duration(idle / 2))
}

// allow sets the write deadline, unless a cut has set it for good.
func (c *clientConn) allow(d time.Duration) {
	if c.broken.Load() {
		return
	}
	c.armed.Store(max(1, c.router.clock.Load()))
	_ = c.TCPConn.SetWriteDeadline(time.Now().Add(d))
	if c.broken.Load() {
		_ = c.TCPConn.SetWriteDeadline(past)
	}
}

// Write implements net.Conn.
func (c *clientConn) Write(p []byte) (int, error) {
	c.arm()
	n, err := c.TCPConn.Write(p)
	if err != nil {
		return c.writeOn(p, n, err)
	}
	return n, nil
}

// writeOn goes on with a write that has come to n when its deadline was reached,
// until the client has taken nothing for as long as the limit is. What its machine
// has acknowledged counts as well as what was written: a socket that is full lets
// a write go on only when much is free again, which may take a slow client long.
func (c *clientConn) writeOn(p []byte, n int, err error) (int, error) {
	limit := c.router.limits.BodyIdle
	taken, quiet := c.taken(), time.Duration(0)
	for quiet < limit && c.armed.Load() > 0 && !c.broken.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		c.allow(limit / 4)
		var more int
		more, err = c.TCPConn.Write(p[n:])
		n, quiet = n+more, quiet+limit/4
		if now := c.taken(); more > 0 || now != taken {
			taken, quiet = now, 0
		}
	}
	return n, err
}

// taken returns how many bytes the client's machine has acknowledged.
func (c *clientConn) taken() uint64 {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	return ackedOn(raw)
}

// ReadFrom implements io.ReaderFrom, so that every write has its deadline.
func (c *clientConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// SetWriteDeadline implements net.Conn. It stands until the next one is set; one
// that has passed stays.
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	c.note(t)
	return c.TCPConn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn, likewise.
func (c *clientConn) SetDeadline(t time.Time) error {
	c.note(t)
	return c.TCPConn.SetDeadline(t)
}

func (c *clientConn) note(t time.Time) {
	switch {
	case t.IsZero():
		c.armed.Store(armedNot)
	default:
		c.armed.Store(armedByOther)
	}
	if t.Equal(past) {
		c.broken.Store(true)
	}
}
