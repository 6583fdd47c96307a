package load

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// wire sends requests over HTTP/1.1 with little more than the bytes: the load
// shares its machine with what it drives. It keeps connections as browsers do:
// one that was closed while it was idle is not used, and a request without a
// body that finds its kept connection closed before one byte of the answer came
// is sent once more, on a new one.
type wire struct {
	address string
	tls     *tls.Config // nil: cleartext
	most    int         // connections that are kept

	mu   sync.Mutex
	idle []*conn // the last used is the last
}

// idleLimit is how long a connection is kept; shorter than any server's.
const idleLimit = 20 * time.Second

// conn is one connection.
type conn struct {
	net.Conn
	br    *bufio.Reader
	since time.Time // it is idle
	kept  bool      // a request went over it before
}

// response is the head of a response, and how its body is read.
type response struct {
	status   int
	length   int64 // -1: chunked, or to the end of the connection
	chunked  bool
	close    bool
	checksum string
	version  string
	server   string
}

func newWire(address string, most int) *wire { return &wire{address: address, most: most} }

// take returns a connection: a kept one, unless fresh is set.
func (w *wire) take(fresh bool) (*conn, error) {
	for !fresh {
		w.mu.Lock()
		n := len(w.idle)
		if n == 0 {
			w.mu.Unlock()
			break
		}
		c := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		if time.Since(c.since) < idleLimit && c.alive() {
			return c, nil
		}
		_ = c.Close()
	}
	nc, err := net.DialTimeout("tcp", w.address, slack)
	if err != nil {
		return nil, err
	}
	if w.tls != nil {
		nc = tls.Client(nc, w.tls)
	}
	return &conn{Conn: nc, br: bufio.NewReaderSize(nc, 4<<10)}, nil
}

// give keeps the connection for another request.
func (w *wire) give(c *conn) {
	c.since, c.kept = time.Now(), true
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.idle) >= w.most {
		_ = c.Close()
		return
	}
	w.idle = append(w.idle, c)
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.idle {
		_ = c.Close()
	}
	w.idle = nil
}

// alive looks whether the other end has closed, as a client that reads all the
// time would know.
func (c *conn) alive() bool {
	nc := c.Conn
	secure, isTLS := nc.(*tls.Conn)
	if isTLS {
		nc = secure.NetConn()
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN) || isTLS && n > 0 // a session's ticket, as a rule
		return true
	})
	return err == nil && quiet
}

// exchange sends a request (head, then body) and reads the head of the answer.
// again reports that it was sent twice.
func (w *wire) exchange(head, body []byte, fresh bool, limit time.Duration) (c *conn, a response, again bool, err error) {
	for {
		if c, err = w.take(fresh); err != nil {
			return nil, a, again, err
		}
		kept := c.kept
		a, err = c.ask(head, body, limit)
		if err == nil {
			return c, a, again, nil
		}
		_ = c.Close()
		if !kept || again || len(body) > 0 || !errors.Is(err, errNoAnswer) {
			return nil, a, again, err
		}
		again, fresh = true, true
	}
}

var errNoAnswer = errors.New("no byte of an answer")

func (c *conn) ask(head, body []byte, limit time.Duration) (response, error) {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return response{}, err
	}
	_, sent := c.Write(head)
	for rest := body; sent == nil && len(rest) > 0; {
		n := min(len(rest), 32<<10)
		_, sent = c.Write(rest[:n])
		rest = rest[n:]
	}
	// Also when it could not be sent whole: an early answer says why.
	first, err := c.br.Peek(1)
	if len(first) == 0 {
		return response{}, fmt.Errorf("%w: %w", errNoAnswer, errors.Join(sent, err))
	}
	a, err := readHead(c.br)
	if err == nil && sent != nil {
		a.close = true
	}
	return a, err
}

var (
	nameLength   = []byte("content-length")
	nameEncoding = []byte("transfer-encoding")
	nameConn     = []byte("connection")
	nameChecksum = []byte("x-shop-checksum")
	nameVersion  = []byte("x-shop-version")
	nameServer   = []byte("x-shop-server")
)

// readHead reads a response's status line and headers.
func readHead(br *bufio.Reader) (response, error) {
	a := response{length: -1}
	line, err := readLine(br)
	if err != nil {
		return a, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return a, fmt.Errorf("no answer of HTTP/1.1: %.60q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("no status: %.60q", line)
	}
	for {
		if line, err = readLine(br); err != nil {
			return a, err
		}
		if len(line) == 0 {
			return a, nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return a, fmt.Errorf("no header: %.60q", line)
		}
		if err := a.header(name, bytes.TrimSpace(value)); err != nil {
			return a, err
		}
	}
}

func (a *response) header(name, value []byte) (err error) {
	switch {
	case bytes.EqualFold(name, nameLength):
		a.length, err = strconv.ParseInt(string(value), 10, 64)
	case bytes.EqualFold(name, nameEncoding):
		a.chunked = bytes.EqualFold(value, []byte("chunked"))
	case bytes.EqualFold(name, nameConn):
		a.close = bytes.EqualFold(value, []byte("close"))
	case bytes.EqualFold(name, nameChecksum):
		a.checksum = string(value)
	case bytes.EqualFold(name, nameVersion):
		a.version = string(value)
	case bytes.EqualFold(name, nameServer):
		a.server = string(value)
	}
	return err
}

// readLine returns a line without its end; valid until the next read.
func readLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("in the head: %w", err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// body returns what reads the answer's body to its end, no further.
func (c *conn) body(a response) io.Reader {
	switch {
	case a.chunked:
		return &chunks{c: c, r: httputil.NewChunkedReader(c.br)}
	case a.length >= 0:
		return &exactly{r: c.br, left: a.length}
	default:
		return c.br
	}
}

// exactly reads so many bytes; fewer are an error.
type exactly struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if err != nil && e.left > 0 {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	return n, nil
}

// chunks reads chunks and the trailer behind the last.
type chunks struct {
	c *conn
	r io.Reader
}

// Read implements io.Reader.
func (k *chunks) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	for { // trailers, and the empty line
		line, lerr := readLine(k.c.br)
		if lerr != nil {
			return n, lerr
		}
		if len(line) == 0 {
			return n, io.EOF
		}
	}
}
