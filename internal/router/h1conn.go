package router

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

// h1Conn is a connection to a server that speaks HTTP/1.1. It belongs to one
// exchange at a time.
type h1Conn struct {
	net.Conn
	raw      syscall.RawConn
	br       *bufio.Reader // made when it is first needed: see reader
	trip     breaker
	reused   bool
	parked   int64 // router clock when it was put back
	written  uint64
	ackedTo0 uint64 // bytes acknowledged when nothing had been written
	limit    int64  // of what may be read; 0: no limit, below: used up

	peek   func(fd uintptr) bool // made once, because a closure for each use costs
	silent bool
}

// maxResponseHead bounds the head of a server's answer.
const maxResponseHead = 1 << 20

func newH1Conn(nc net.Conn) (*h1Conn, error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, errors.New("not a TCP connection")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &h1Conn{Conn: nc, raw: raw}
	c.trip.trip = func() { _ = nc.SetDeadline(past) }
	c.ackedTo0 = c.acked()
	var one [1]byte
	c.peek = func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		c.silent = errors.Is(err, unix.EAGAIN)
		return true
	}
	return c, nil
}

// reader returns the buffered reader of the connection.
func (c *h1Conn) reader() *bufio.Reader {
	if c.br == nil {
		c.br = bufio.NewReaderSize(c, 8<<10)
	}
	return c.br
}

// Read implements io.Reader for the buffered reader, within the limit.
func (c *h1Conn) Read(p []byte) (int, error) {
	limit := c.limit
	if limit == 0 {
		return c.Conn.Read(p)
	}
	if limit < 0 {
		return 0, errors.New("the head of the answer is too long")
	}
	n, err := c.Conn.Read(p)
	if c.limit = limit - int64(n); c.limit == 0 {
		c.limit = -1
	}
	return n, err
}

// Write implements io.Writer, and counts.
func (c *h1Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written += uint64(n)
	return n, err
}

// usable reports whether a kept connection is still open and has nothing to
// say: a server that closed it, or spoke unasked, is found out here.
func (c *h1Conn) usable() bool {
	if c.br != nil && c.br.Buffered() > 0 {
		return false
	}
	c.silent = false
	return c.raw.Read(c.peek) == nil && c.silent
}

// drop closes a connection on which nothing is under way, by a reset: an
// orderly close would keep its port from being used again for a minute, and
// there are 28,000 towards each server (tcp(7), TIME_WAIT).
func (c *h1Conn) drop() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// acked returns how many bytes the server's machine has acknowledged.
func (c *h1Conn) acked() uint64 { return ackedOn(c.raw) }

// ackedOn returns how many bytes the other machine has acknowledged; 0 if that
// cannot be known.
func ackedOn(raw syscall.RawConn) uint64 {
	var n uint64
	err := raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_acked
		}
	})
	if err != nil {
		return 0
	}
	return n
}

// unsent reports whether nothing that was written since mark can have reached
// the server: its machine has acknowledged no byte of it. This is how the
// request that crosses a server's closing of an idle connection is told from
// one that a dying server may have acted on.
func (c *h1Conn) unsent(mark uint64) bool {
	if c.written == mark {
		return true
	}
	acked := c.acked()
	return acked != 0 && acked-c.ackedTo0 <= mark
}

// readHead reads the head of the answer, past all interim ones; interim is
// called with those a client may want to see.
func (c *h1Conn) readHead(req *http.Request, interim func(*http.Response)) (*http.Response, error) {
	c.limit = maxResponseHead
	defer func() { c.limit = 0 }()
	for range 16 {
		res, err := http.ReadResponse(c.reader(), req)
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
		interim(res)
	}
	return nil, errors.New("too many interim answers")
}

// writeStream passes a body on as it comes, in chunks if its length is unknown.
func (c *h1Conn) writeStream(src io.Reader, length int64, trailer http.Header) error {
	p, _ := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	buf := *p
	const room = 8 // for "ffff\r\n" in front of a chunk; two more bytes follow it
	for sent := int64(0); ; {
		n, err := src.Read(buf[room : len(buf)-2])
		if n > 0 {
			out := buf[room : room+n]
			if length < 0 {
				out = frameChunk(buf, room, n)
			}
			if _, werr := c.Write(out); werr != nil {
				return &serverError{werr}
			}
			sent += int64(n)
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return err
		case length >= 0 && sent != length:
			return io.ErrUnexpectedEOF
		case length < 0:
			_, werr := c.Write(lastChunk(trailer))
			if werr != nil {
				return &serverError{werr}
			}
			return nil
		default:
			return nil
		}
	}
}

// serverError marks an error of the server's side while a body was copied.
type serverError struct{ error }

func (e *serverError) Unwrap() error { return e.error }

// frameChunk puts the n bytes at buf[room:] into a chunk.
func frameChunk(buf []byte, room, n int) []byte {
	const digits = "0123456789abcdef"
	at := room - 2
	buf[at], buf[at+1] = '\r', '\n'
	for v := n; ; v >>= 4 {
		at--
		buf[at] = digits[v&15]
		if v < 16 {
			break
		}
	}
	buf[room+n], buf[room+n+1] = '\r', '\n'
	return buf[at : room+n+2]
}

// lastChunk ends a chunked body.
func lastChunk(trailer http.Header) []byte {
	b := []byte("0\r\n")
	for k, vs := range trailer {
		for _, v := range vs {
			b = append(b, k+": "+v+"\r\n"...)
		}
	}
	return append(b, '\r', '\n')
}
