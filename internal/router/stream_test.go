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

// echoLines answers every line at once, in gRPC's manner: the status comes in
// the trailers, one of them not announced.
func echoLines(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", req.Header.Get("Content-Type"))
	w.Header().Set("Trailer", "Grpc-Status")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // over HTTP/2 it is always so
	_ = rc.Flush()
	n := 0
	for sc := bufio.NewScanner(req.Body); sc.Scan(); n++ {
		fmt.Fprintf(w, "echo %s\n", sc.Text())
		_ = rc.Flush()
	}
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"X-Lines", fmt.Sprint(n))
	w.Header().Set(http.TrailerPrefix+"X-Te", req.Header.Get("Te"))
}

// TestBothWaysAtOnce: a client that waits for each answer before it sends more
// gets it, over every pair of protocols, and the trailers.
func TestBothWaysAtOnce(t *testing.T) {
	for _, protocol := range []model.Protocol{model.H2C, model.HTTP} {
		for _, h2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s from h2 %v", protocol, h2), func(t *testing.T) { bothWays(t, protocol, h2) })
		}
	}
}

func bothWays(t *testing.T, protocol model.Protocol, h2 bool) {
	r := startRouter(t, Limits{})
	r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(echoLines)))
	body, send := io.Pipe()
	defer send.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url("/echo"), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+lines")
	req.Header.Set("Te", "trailers")
	res, err := client(t, h2).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 3 {
		if _, err := fmt.Fprintf(send, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("echo line %d\n", i) {
			t.Fatalf("line %d: %q %v", i, line, err)
		}
	}
	if a, _ := of(r.Status(), "web-aaaaaa"); a.InFlight.Streams != 1 || a.InFlight.Total() != 1 {
		t.Errorf("counted as %+v", a.InFlight)
	}
	_ = send.Close()
	rest, err := io.ReadAll(br)
	if err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q %v", rest, err)
	}
	for key, want := range map[string]string{"Grpc-Status": "0", "X-Lines": "3", "X-Te": "trailers"} {
		if got := res.Trailer.Get(key); got != want {
			t.Errorf("trailer %s is %q, want %q", key, got, want)
		}
	}
}

// TestTrailersWithoutBody: a gRPC error is a head and trailers.
func TestTrailersWithoutBody(t *testing.T) {
	for _, protocol := range []model.Protocol{model.H2C, model.HTTP} {
		r := startRouter(t, Limits{})
		r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("Grpc-Status", "12")
		})))
		for _, h2 := range []bool{true, false} {
			res, body := do(t, client(t, h2), "POST", r.url("/"), nil)
			if res.Trailer.Get("Grpc-Status") != "12" || body != "" {
				t.Errorf("%s, h2 %v: %q, trailers %v", protocol, h2, body, res.Trailer)
			}
		}
	}
}

// TestRequestTrailers: those of the client arrive.
func TestRequestTrailers(t *testing.T) {
	for _, protocol := range []model.Protocol{model.H2C, model.HTTP} {
		r := startRouter(t, Limits{})
		r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(w, req.Trailer.Get("X-Sum"))
		})))
		req, err := http.NewRequestWithContext(t.Context(), "POST", r.url("/"), struct{ io.Reader }{strings.NewReader("body")})
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Sum": {"42"}}
		if _, body := doRequest(t, client(t, false), req); body != "42" {
			t.Errorf("%s: the trailer arrived as %q", protocol, body)
		}
	}
}

// TestEarlyAnswer: a server that refuses an upload is heard, and what it left
// unread is not taken for a next request.
func TestEarlyAnswer(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		r := startRouter(t, Limits{})
		r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		})))
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
		all, _ := io.ReadAll(conn)
		if n := strings.Count(string(all), "HTTP/1.1 "); n != 1 || !strings.Contains(string(all), "413") {
			t.Errorf("%s: %d answers: %q", protocol, n, all)
		}
	}
}

// TestClientLeaves: the server notices, and nothing stays in flight.
func TestClientLeaves(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		for _, h2 := range []bool{false, true} {
			r := startRouter(t, Limits{})
			noticed := make(chan struct{}, 1)
			r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				<-req.Context().Done()
				noticed <- struct{}{}
			})))
			c := client(t, h2)
			c.Timeout = 100 * time.Millisecond
			if res, err := c.Get(r.url("/")); err == nil {
				_ = res.Body.Close()
				t.Error("an answer came")
			}
			<-noticed
			eventually(t, "nothing is in flight", func() bool {
				a, _ := of(r.Status(), "web-aaaaaa")
				return a.InFlight.Total() == 0 && a.Finished == 1
			})
		}
	}
}

// TestPlainBytes: a tcp service passes bytes and ends of both directions, is
// counted as a stream and cut by its deadline.
func TestPlainBytes(t *testing.T) {
	r := startRouter(t, Limits{})
	upper := scriptedServer(t, "web-aaaaaa", func(_ *scripted, _ int64, conn *net.TCPConn) {
		b, _ := io.ReadAll(conn) // until the client has ended its direction
		_, _ = io.WriteString(conn, strings.ToUpper(string(b)))
	})
	dead := model.Upstream{Server: "web-dddddd", Address: freeAddress(t)}
	r.serve(model.TCP, dead, upper.Upstream)
	for range 5 {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "plain bytes")
		_ = conn.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "PLAIN BYTES" {
			t.Errorf("got %q %v", b, err)
		}
		_ = conn.Close()
	}
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "it is counted as a stream", func() bool {
		a, _ := of(r.Status(), "web-aaaaaa")
		return a.InFlight == model.InFlight{Streams: 1} && a.Finished == 5
	})
	r.apply([]model.TableService{r.service(model.TCP)}, drainOf(upper.Upstream, 0, 100*time.Millisecond, 0))
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("after the deadline: %v", err)
	}
	eventually(t, "it was cut", func() bool {
		a, _ := of(r.Status(), "web-aaaaaa")
		return a.Cut == 1
	})
}

// TestPlainBytesAreTriedOnceMore: the only server of a tcp service takes no
// connection for longer than one attempt may take. Nothing was sent, so the
// client's connection is not closed: the server is tried once more.
func TestPlainBytesAreTriedOnceMore(t *testing.T) {
	r := startRouter(t, Limits{DialTimeout: 300 * time.Millisecond})
	l := listenBacklog(t, 0)
	for { // until its queue is full
		conn, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	r.serve(model.TCP, model.Upstream{Server: "web-aaaaaa", Address: l.Addr().String()})
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.AfterFunc(150*time.Millisecond, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			_, _ = io.WriteString(c, "here")
			_ = c.Close()
		}
	})
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(conn); string(b) != "here" {
		t.Errorf("got %q %v", b, err)
	}
}
