package router

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

// BenchmarkProxy compares the router with httputil.ReverseProxy over a
// keep-alive pool, in one run: same client, same server (a process of its
// own, as in life), one after the other.
func BenchmarkProxy(b *testing.B) {
	backend := benchBackend(b)
	r := startRouter(b, Limits{})
	r.serve(model.HTTP, model.Upstream{Server: "web-aaaaaa", Release: 1, Address: backend})
	peer := reverseProxy(b, backend)
	for _, path := range []string{"/small", "/64k"} {
		b.Run("kiln"+path, func(b *testing.B) { benchLoad(b, r.address, path) })
		b.Run("reverseproxy"+path, func(b *testing.B) { benchLoad(b, peer, path) })
	}
}

func reverseProxy(b *testing.B, backend string) string {
	u, err := url.Parse("http://" + backend)
	if err != nil {
		b.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(u)
	p.Transport = &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}
	p.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// benchLoad sends b.N requests over kept connections, written and read by
// hand so that the client costs little.
func benchLoad(b *testing.B, address, path string) {
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench/1\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n\r\n")
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		br := bufio.NewReaderSize(conn, 16<<10)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			if err := readAnswer(br); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

// readAnswer reads one answer that has a Content-Length.
func readAnswer(br *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && string(line[9:12]) != "200" {
			return fmt.Errorf("answer %q", line)
		}
		if len(line) == 2 {
			break
		}
		if v, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if _, err := fmt.Sscan(v, &length); err != nil {
				return err
			}
		}
	}
	_, err := br.Discard(length)
	return err
}

// benchBackend starts the test binary as a server of two fixed answers.
func benchBackend(b *testing.B) string {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=backend")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// backendRole is the process that benchBackend starts.
func backendRole() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	big := strings.Repeat("x", 64<<10)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := "hello, world\n"
		if req.URL.Path == "/64k" {
			body = big
		}
		w.Header()["Content-Length"] = []string{fmt.Sprint(len(body))}
		_, _ = io.WriteString(w, body)
	})}
	panic(srv.Serve(l))
}
