package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/model"
)

// pathHandler answers with method, path and body.
func pathHandler(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	fmt.Fprintf(w, "%s %s %s", req.Method, req.URL.Path, body)
}

// dialRouter opens a connection to the router that ends with the test.
func dialRouter(t *testing.T, r *testRouter) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn, bufio.NewReader(conn)
}

// answerOf reads one answer.
func answerOf(t *testing.T, br *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// TestPipelined: requests that come at once are answered in their order, on
// the short way and the long one alike, however they are cut into packets.
func TestPipelined(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(pathHandler)))
	all := "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" +
		"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntwo" +
		"POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nth\r\n3\r\nree\r\n0\r\n\r\n" +
		"HEAD /4 HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /5 HTTP/1.1\r\nHost: x\r\nTe: trailers\r\nConnection: Te\r\n\r\n" +
		"POST /6 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("6", 100000) +
		"GET /7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, step := range []int{len(all), 1000, 7} {
		conn, br := dialRouter(t, r)
		go func() {
			for rest := all; rest != ""; {
				n := min(step, len(rest))
				if len(all)-len(rest) > 600 { // the large body need not take all day
					n = min(4096, len(rest))
				}
				_, _ = io.WriteString(conn, rest[:n])
				rest = rest[n:]
			}
		}()
		for _, want := range []string{"GET /1 ", "POST /2 two", "POST /3 three", "", "GET /5 ", "POST /6 " + strings.Repeat("6", 100000), "GET /7 "} {
			method := "GET"
			if want == "" {
				method = "HEAD"
			}
			if _, got := answerOf(t, br, method); got != want {
				t.Fatalf("in steps of %d: %.60q, not %.60q", step, got, want)
			}
		}
		if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("the connection did not end after close: %v", err)
		}
	}
}

// TestContinue: a client that waits to be told to send its body is told so,
// but not when it is answered without.
func TestContinue(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(pathHandler)))
	conn, br := dialRouter(t, r)
	for range 2 {
		fmt.Fprintf(conn, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("told %q", line)
		}
		_, _ = br.ReadString('\n')
		_, _ = io.WriteString(conn, "body")
		if _, got := answerOf(t, br, "POST"); got != "POST /a body" {
			t.Fatalf("answered %q", got)
		}
	}
	r.apply(nil)
	fmt.Fprintf(conn, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\nExpect: 100-continue\r\n\r\n")
	if res, _ := answerOf(t, br, "POST"); res.StatusCode != 404 || !res.Close {
		t.Errorf("without a route: %s, close %v", res.Status, res.Close)
	}
}

// TestOldVersion: HTTP/1.0 gets no chunks, and keeps its connection only when
// it asks for that.
func TestOldVersion(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one ")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "two")
	})))
	if got := raw(t, r.address, "GET / HTTP/1.0\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\none two") || strings.Contains(got, "chunked") {
		t.Errorf("got %q", got)
	}
	r.serve(model.HTTP, backendServer(t, "web-bbbbbb", text("ok")))
	conn, br := dialRouter(t, r)
	for range 2 {
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		if res, got := answerOf(t, br, "GET"); got != "ok" || res.Header.Get("Connection") != "keep-alive" {
			t.Errorf("kept: %q %v", got, res.Header)
		}
	}
}

// TestBodilessAnswers: HEAD, 204 and 304 have no body, whatever their lengths
// say, and the connection goes on.
func TestBodilessAnswers(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/early":
			w.Header().Set("Link", "</s.css>")
			w.WriteHeader(103)
			fallthrough
		default:
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	})))
	conn, br := dialRouter(t, r)
	for _, c := range []struct{ method, path, body, length string }{
		{"HEAD", "/", "", "5"}, {"GET", "/204", "", ""}, {"GET", "/304", "", ""}, {"GET", "/", "hello", "5"},
	} {
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", c.method, c.path)
		if res, got := answerOf(t, br, c.method); got != c.body || res.Header.Get("Content-Length") != c.length {
			t.Errorf("%s %s: %q, length %q", c.method, c.path, got, res.Header.Get("Content-Length"))
		}
	}
	fmt.Fprintf(conn, "GET /early HTTP/1.1\r\nHost: x\r\n\r\n")
	if res, _ := answerOf(t, br, "GET"); res.StatusCode != 103 || res.Header.Get("Link") == "" {
		t.Errorf("early: %s %v", res.Status, res.Header)
	}
	if res, got := answerOf(t, br, "GET"); res.StatusCode != 200 || got != "hello" {
		t.Errorf("after early hints: %s %q", res.Status, got)
	}
}

// TestTooManyConnections: what is above the limit is told so and closed, and
// there is room again when others leave.
func TestTooManyConnections(t *testing.T) {
	r := startRouter(t, Limits{Connections: 10, ListenerConnections: 4})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
	var open []net.Conn
	for range 4 {
		conn, br := dialRouter(t, r)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, got := answerOf(t, br, "GET"); got != "ok" {
			t.Fatal(got)
		}
		open = append(open, conn)
	}
	_, br := dialRouter(t, r)
	if res, _ := answerOf(t, br, "GET"); res.StatusCode != 503 || res.Header.Get("Kiln-Router") != "too_many_connections" || !res.Close {
		t.Errorf("the fifth: %s %v", res.Status, res.Header)
	}
	_ = open[0].Close()
	eventually(t, "there is room again", func() bool {
		conn, br := dialRouter(t, r)
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		return err == nil && res.StatusCode == 200
	})
	for _, conn := range open {
		_ = conn.Close()
	}
	eventually(t, "none is counted when none is open", func() bool { return r.connections.Load() == 0 })
}

// TestTooManyConnectionsOfOthers: what is above the limit is closed without a
// word where nobody expects an answer of HTTP.
func TestTooManyConnectionsOfOthers(t *testing.T) {
	ca := newAuthority(t)
	for _, name := range []string{"tcp", "tls", "tcp by tls"} {
		r := startRouter(t, Limits{Connections: 10, ListenerConnections: 1})
		svc := r.service(model.TCP, lineServer(t, "web-aaaaaa"))
		if strings.Contains(name, "tls") {
			svc.Routes[0].Host, svc.Routes[0].TLS = "shop.test", ca.issue(model.TLS{}, "shop.test")
		}
		if name == "tls" {
			svc.Protocol = model.HTTP
		}
		r.apply([]model.TableService{svc})
		dialRouter(t, r)
		eventually(t, "the first is taken", func() bool { return r.connections.Load() == 1 })
		conn, _ := dialRouter(t, r)
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil {
			t.Errorf("%s: the second is told %q, %v", name, got, err)
		}
		eventually(t, "the second is counted no more", func() bool { return r.connections.Load() == 1 })
	}
}

// TestSlowloris: thousands of connections that never finish their heads hold
// little memory, keep nobody else from being served, and are let go.
func TestSlowloris(t *testing.T) {
	const slow = 2000
	r := startRouter(t, Limits{HeaderTimeout: 3 * time.Second, Connections: 2 * slow, ListenerConnections: 2 * slow})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var conns []net.Conn
	for range slow {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		conns = append(conns, conn)
	}
	eventually(t, "all are taken", func() bool { return r.connections.Load() >= slow })
	runtime.ReadMemStats(&during)
	if each := int64(during.HeapAlloc-before.HeapAlloc) / slow; each > 64<<10 {
		t.Errorf("each slow connection holds %d bytes", each)
	}
	worst := time.Duration(0)
	c := client(t, false)
	for range 50 {
		begin := time.Now()
		if res, _ := do(t, c, "GET", r.url("/"), nil); res.StatusCode != 200 {
			t.Errorf("served %s", res.Status)
		}
		worst = max(worst, time.Since(begin))
	}
	if worst > 2*time.Second {
		t.Errorf("a request took %v beside slow ones", worst)
	}
	eventually(t, "the slow ones are let go", func() bool { return r.connections.Load() < slow/10 })
	_ = conns[0].SetReadDeadline(time.Now().Add(5 * time.Second))
	if b, _ := io.ReadAll(conns[0]); !strings.HasPrefix(string(b), "HTTP/1.1 408") {
		t.Errorf("a slow client is told %q", b)
	}
}

// TestIdleHoldsNoBuffers: a kept connection without a request is small.
func TestIdleHoldsNoBuffers(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
	const n = 500
	held := func() int64 {
		var m runtime.MemStats
		for range 3 { // what a pool keeps goes with the second
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := held()
	for range n {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if answer := make([]byte, 500); true {
			if n, err := conn.Read(answer); err != nil || !strings.HasSuffix(string(answer[:n]), "ok") {
				t.Fatalf("%q %v", answer[:n], err)
			}
		}
	}
	each := int64(0)
	eventually(t, "an idle connection holds no more than 6 KiB on the heap", func() bool {
		each = (held() - before) / n
		return each < 6<<10
	})
	t.Logf("%d bytes each, the test's end included", each)
}

// TestStopLetsFinish: a router that ends lets what it serves finish, says that
// the connection ends, and ends those that wait for a request at once.
func TestStopLetsFinish(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", e))
	idle, idleReader := dialRouter(t, r)
	_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	answerOf(t, idleReader, "GET")
	busy, busyReader := dialRouter(t, r)
	_, _ = io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "it is in flight", func() bool {
		a, _ := of(r.Status(), "web-aaaaaa")
		return a.InFlight.Total() == 1
	})
	l := r.listeners[r.address]
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var stopped sync.WaitGroup
	stopped.Go(func() { l.stop(ctx) })
	if _, err := idleReader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the idle connection: %v", err)
	}
	e.release()
	if res, got := answerOf(t, busyReader, "GET"); got != "slow is done" || !res.Close {
		t.Errorf("the busy connection: %q, close %v", got, res.Close)
	}
	stopped.Wait()
}

// TestClientLeavesUnread: a client that closes while its answer is awaited is
// noticed though nobody reads its connection, also when it left bytes behind.
func TestClientLeavesUnread(t *testing.T) {
	r := startRouter(t, Limits{})
	noticed := make(chan struct{}, 2)
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		<-req.Context().Done()
		noticed <- struct{}{}
	})))
	for _, method := range []string{"GET", "POST"} { // a kept connection, and a new one
		conn, _ := dialRouter(t, r)
		fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", method)
		eventually(t, "it is in flight", func() bool {
			a, _ := of(r.Status(), "web-aaaaaa")
			return a.InFlight.Total() == 1
		})
		_ = conn.Close()
		select {
		case <-noticed:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: nobody noticed that the client left", method)
		}
	}
}

// TestSlowSendersAreTold: a head that does not come in time is answered 408.
func TestSlowSendersAreTold(t *testing.T) {
	r := startRouter(t, Limits{HeaderTimeout: time.Second})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
	for _, first := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		conn, br := dialRouter(t, r)
		if first != "" {
			_, _ = io.WriteString(conn, first)
			answerOf(t, br, "GET")
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHos")
		if res, _ := answerOf(t, br, "GET"); res.StatusCode != 408 {
			t.Errorf("after %q: %s", first, res.Status)
		}
	}
}

// TestDefaultConnections: the default leaves descriptors for servers.
func TestDefaultConnections(t *testing.T) {
	if n := defaultConnections(); n < 100 || n > mostConnections {
		t.Errorf("%d connections by default", n)
	}
}
