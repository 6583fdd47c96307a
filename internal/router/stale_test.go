package router

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/model"
)

// scripted is a server written by hand: what happens on each connection is up
// to the test. It counts the requests that it has read.
type scripted struct {
	model.Upstream
	posts atomic.Int64
	conns atomic.Int64
}

func scriptedServer(t *testing.T, id string, serve func(s *scripted, nth int64, conn *net.TCPConn)) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{Upstream: model.Upstream{Server: model.ServerID(id), Release: 1, Address: l.Addr().String()}}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			nth := s.conns.Add(1)
			wg.Go(func() {
				defer conn.Close()
				serve(s, nth, conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

// answerOnce reads one request and answers it, keeping the connection.
func (s *scripted) answerOnce(br *bufio.Reader, conn net.Conn) bool {
	req, err := http.ReadRequest(br)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return false
	}
	if req.Method == http.MethodPost {
		s.posts.Add(1)
	}
	_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	return err == nil
}

// TestStaleConnectionNeverFailsAPOST uses a server that closes every
// connection right after its answer, without saying so: the close crosses the
// next request at every possible moment. Each POST has to be answered, and
// each has to reach the server exactly once.
func TestStaleConnectionNeverFailsAPOST(t *testing.T) {
	s := scriptedServer(t, "web-aaaaaa", func(s *scripted, nth int64, conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		s.answerOnce(br, conn)
		// Sometimes at once, sometimes while the next request is on its way.
		time.Sleep(time.Duration(nth%7) * 30 * time.Microsecond)
	})
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, s.Upstream)
	const workers, each = 4, 250
	var load sync.WaitGroup
	var failed atomic.Int64
	for range workers {
		load.Go(func() {
			c := client(t, false)
			for range each {
				res, body := do(t, c, "POST", r.url("/"), strings.NewReader("pay 5"))
				if res.StatusCode != 200 {
					failed.Add(1)
					t.Logf("%s %q", res.Status, body)
				}
			}
		})
	}
	load.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d POSTs failed", failed.Load())
	}
	if n := s.posts.Load(); n != workers*each {
		t.Errorf("%d POSTs were sent, the server got %d", workers*each, n)
	}
	t.Logf("%d connections, %d sent again", s.conns.Load(), r.Counters().Retried)
}

// TestClosedBehindThePeek closes the server's end without reading, after the
// router has looked whether the connection is open: only the acknowledgements
// tell that nothing was taken.
func TestClosedBehindThePeek(t *testing.T) {
	s := scriptedServer(t, "web-aaaaaa", func(s *scripted, nth int64, conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		for s.answerOnce(br, conn) {
			if nth == 1 {
				return
			}
		}
	})
	nc, err := net.Dial("tcp", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := newH1Conn(nc)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	res, err := conn.readHead(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has closed", func() bool { return !conn.usable() })
	mark := conn.written
	_, _ = conn.Write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"))
	if _, err := conn.readHead(nil, nil); err == nil {
		t.Fatal("an answer came from a closed connection")
	}
	if !conn.unsent(mark) {
		t.Error("a request that met a closed connection counts as sent")
	}
}

// TestSentIsNotRepeated: a server that has read a POST and dies gets it once,
// and the client hears of it; a GET goes to the other server.
func TestSentIsNotRepeated(t *testing.T) {
	reads := func(s *scripted, _ int64, conn *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		if req.Method == http.MethodPost {
			s.posts.Add(1)
		}
		_ = conn.SetLinger(0)
	}
	a, b := scriptedServer(t, "web-aaaaaa", reads), scriptedServer(t, "web-bbbbbb", reads)
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, a.Upstream, b.Upstream)
	c := client(t, false)
	for _, body := range []string{"small", strings.Repeat("large", maxBuffered)} {
		before := a.posts.Load() + b.posts.Load()
		res, got := do(t, c, "POST", r.url("/"), strings.NewReader(body))
		if res.StatusCode != 502 || res.Header.Get("Kiln-Router") != "unreachable" {
			t.Errorf("POST to dying servers: %s %q", res.Status, got)
		}
		if n := a.posts.Load() + b.posts.Load() - before; n != 1 {
			t.Errorf("a POST of %d bytes was sent %d times", len(body), n)
		}
	}
	live := backendServer(t, "web-cccccc", text("alive"))
	r.serve(model.HTTP, a.Upstream, b.Upstream, live)
	for range 10 {
		if res, got := do(t, c, "GET", r.url("/"), nil); res.StatusCode != 200 || got != "alive" {
			t.Errorf("GET with one live server: %s %q", res.Status, got)
		}
	}
}

// TestUnreachableServerIsPassedOver: dials fail, requests of all kinds arrive.
func TestUnreachableServerIsPassedOver(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		r := startRouter(t, Limits{})
		dead := model.Upstream{Server: "web-dddddd", Release: 1, Address: freeAddress(t)}
		r.serve(protocol, dead, backendServer(t, "web-aaaaaa", http.HandlerFunc(sumHandler)))
		c := client(t, false)
		for i := range 20 {
			body := io.Reader(strings.NewReader(strings.Repeat("x", i*8000)))
			if i%2 == 0 {
				body = struct{ io.Reader }{body}
			}
			if res, got := do(t, c, "POST", r.url("/"), body); res.StatusCode != 200 {
				t.Errorf("%s: POST %d: %s %q", protocol, i, res.Status, got)
			}
		}
		r.serve(protocol, dead)
		if res, _ := do(t, c, "POST", r.url("/"), strings.NewReader("x")); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: only a dead server: %s", protocol, res.Status)
		}
	}
}

// TestAnswerCutShortIsNotWhole: a server that dies within its answer must not
// make the client believe that it has all of it.
func TestAnswerCutShortIsNotWhole(t *testing.T) {
	for _, head := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		s := scriptedServer(t, "web-aaaaaa", func(_ *scripted, _ int64, conn *net.TCPConn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n5\r\nhello\r\n", head)
			}
		})
		r := startRouter(t, Limits{})
		r.serve(model.HTTP, s.Upstream)
		for _, h2 := range []bool{false, true} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client(t, h2).Do(req)
			if err != nil {
				continue // that tells as well
			}
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil {
				t.Errorf("%s, h2 %v: half an answer was taken for whole", head, h2)
			}
		}
	}
}
