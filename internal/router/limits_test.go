package router

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
