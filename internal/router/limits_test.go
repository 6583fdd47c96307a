package router

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// raw sends text on a connection of its own and returns all that comes back
// until the end.
func raw(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("%q: no end: %q", text, b)
	}
	return string(b)
}

func TestLimits(t *testing.T) {
	r := startRouter(t, Limits{
		HeaderBytes: 8 << 10, HeaderTimeout: time.Second,
		IdleTimeout: time.Second, BodyIdle: time.Second,
	})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(sumHandler)))
	for _, c := range []struct{ name, text, want string }{
		{"nothing at all", "", ""},
		{"half a preface", "PRI * HT", ""},
		{"half a head", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", ""},
		{"a head too long", "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", "431"},
		{"half a small body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf", "408"},
		{"half a large body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhalf", "408"},
		{"half a chunked body", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "408"},
		{"idle after an answer", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400"},
		{"a forward proxy", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "405"},
	} {
		got := raw(t, r.address, c.text)
		if c.want == "" && got != "" && !strings.HasPrefix(got, "HTTP/1.1 4") || !strings.Contains(strings.SplitN(got+"\n", "\n", 2)[0], c.want) {
			t.Errorf("%s: %.200q", c.name, got)
		}
	}
	eventually(t, "nothing is in flight", func() bool {
		a, _ := of(r.Status(), "web-aaaaaa")
		return a.InFlight.Total() == 0
	})
	if res, _ := do(t, client(t, false), "POST", r.url("/"), strings.NewReader("fine")); res.StatusCode != 200 {
		t.Errorf("afterwards: %s", res.Status)
	}
}

// TestSlowBodyThatMoves: what takes longer than the limit but never stands
// still is no offence, small or large, and neither is a wait for the answer.
func TestSlowBodyThatMoves(t *testing.T) {
	r := startRouter(t, Limits{BodyIdle: 1500 * time.Millisecond})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		time.Sleep(1700 * time.Millisecond)
		fmt.Fprint(w, len(b))
	})))
	for _, n := range []int64{10, -1} {
		body, send := io.Pipe()
		go func() {
			for range 10 {
				_, _ = io.WriteString(send, "x")
				time.Sleep(250 * time.Millisecond)
			}
			_ = send.Close()
		}()
		req, err := http.NewRequestWithContext(t.Context(), "POST", r.url("/"), body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = n
		if res, got := doRequest(t, client(t, false), req); res.StatusCode != 200 || got != "10" {
			t.Errorf("length %d: %s %q", n, res.Status, got)
		}
	}
}

// TestSlowReaderThatMoves: a client that takes its answer slowly, but never stops
// doing so, gets the whole of it, however long that takes.
func TestSlowReaderThatMoves(t *testing.T) {
	const limit, size = time.Second, 8 << 20
	ca := newAuthority(t)
	for name, c := range map[string]struct {
		tls    bool
		framed func(http.ResponseWriter)
	}{
		"a length":      {false, func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(size)) }},
		"chunks":        {false, func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }},
		"a length, TLS": {true, func(w http.ResponseWriter) { w.Header().Set("Content-Length", fmt.Sprint(size)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRouter(t, Limits{BodyIdle: limit})
			svc := r.service(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				c.framed(w)
				for range size >> 10 {
					_, _ = io.WriteString(w, strings.Repeat("x", 1<<10))
				}
			})))
			if c.tls {
				svc.Routes[0].Host, svc.Routes[0].TLS = "shop.test", ca.issue(model.TLS{}, "shop.test")
			}
			r.apply([]model.TableService{svc})
			slow := slowly(t, r.address, 6*limit)
			var conn net.Conn = slow
			if c.tls {
				conn = tls.Client(slow, &tls.Config{RootCAs: ca.pool, ServerName: "shop.test"})
			}
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
				t.Errorf("%d bytes of %d, %v", n, size, err)
			}
		})
	}
}

// TestSlowReaderBehindAFullBuffer: where the router's buffer is so full that no
// write can go on for longer than the limit, what the client takes of it counts.
func TestSlowReaderBehindAFullBuffer(t *testing.T) {
	const limit, size = time.Second, 8 << 20
	r := startRouter(t, Limits{BodyIdle: limit})
	r.serve(model.HTTP)
	l := listenBacklog(t, 1)
	defer l.Close()
	slow := slowly(t, l.Addr().String(), 4*limit)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tcp, _ := conn.(*net.TCPConn)
	_ = tcp.SetWriteBuffer(1 << 20)
	c := &clientConn{TCPConn: tcp, router: r.Router, listener: r.listeners[r.address]}
	go func() { _, _ = io.Copy(io.Discard, slow) }()
	time.AfterFunc(limit/4, func() { _ = tcp.SetWriteBuffer(4 << 10) }) // it holds far more by then
	begin := time.Now()
	if n, err := c.Write(make([]byte, size)); n != size || err != nil {
		t.Errorf("%d bytes of %d, %v, after %v", n, size, err, time.Since(begin))
	}
}

// TestDeadlineOfOthersStands: whoever has given a client less time than it has by
// itself, for a last word or a handshake, waits no longer than that.
func TestDeadlineOfOthersStands(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP)
	l := listenBacklog(t, 1)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String()) // nobody reads there
	if err != nil {
		t.Fatal(err)
	}
	tcp, _ := conn.(*net.TCPConn)
	c := &clientConn{TCPConn: tcp, router: r.Router, listener: r.listeners[r.address]}
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	defer time.AfterFunc(5*time.Second, func() { _ = tcp.Close() }).Stop()
	if _, err := c.Write(make([]byte, 32<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the write ended by %v, not by its deadline", err)
	}
	_ = tcp.Close()
}

// slowConn is a client's connection that reads slowly for a while.
type slowConn struct {
	net.Conn
	until time.Time
}

func slowly(t *testing.T, address string, d time.Duration) *slowConn {
	t.Helper()
	// Whoever has filled its buffer lets something come when a part of it is free
	// again: a small one, with segments as on a network, so that this is soon.
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400)
		})
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &slowConn{Conn: conn, until: time.Now().Add(d)}
}

// Read implements net.Conn.
func (c *slowConn) Read(p []byte) (int, error) {
	if time.Now().Before(c.until) {
		time.Sleep(50 * time.Millisecond)
		p = p[:min(len(p), 1<<10)]
	}
	return c.Conn.Read(p)
}

// TestReaderThatStops: a client that leaves its answer unread is let go.
func TestReaderThatStops(t *testing.T) {
	r := startRouter(t, Limits{BodyIdle: 400 * time.Millisecond})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := strings.Repeat("x", 1<<20)
		for range 64 {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	})))
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the exchange is over", func() bool {
		a, _ := of(r.Status(), "web-aaaaaa")
		return a.Finished == 1 && a.InFlight.Total() == 0
	})
}
