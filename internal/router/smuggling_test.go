package router

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"kiln/internal/model"
)

// recorder is a server that keeps every byte it is sent, and answers each
// request as net/http reads it.
type recorder struct {
	*scripted
	mu    sync.Mutex
	bytes bytes.Buffer
}

func recordingServer(t *testing.T) *recorder {
	rec := &recorder{}
	rec.scripted = scriptedServer(t, "web-aaaaaa", func(_ *scripted, _ int64, conn *net.TCPConn) {
		br := bufio.NewReader(io.TeeReader(conn, rec))
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	return rec
}

// Write implements io.Writer.
func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes.Write(p)
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.bytes.String()
	r.bytes.Reset()
	return s
}

// TestSmugglingIsRefused: bytes that two programs might take apart in two ways
// are answered by the router, once, and the server hears nothing of them. What
// follows on the connection is not read as a request.
func TestSmugglingIsRefused(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{BodyIdle: time.Second})
	r.serve(model.HTTP, rec.Upstream)
	const next = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	post := func(head, body string) string { return "POST / HTTP/1.1\r\nHost: x\r\n" + head + "\r\n" + body }
	get := func(head string) string { return "GET / HTTP/1.1\r\nHost: x\r\n" + head + "\r\n" }
	for _, c := range []struct{ name, text, want string }{
		{"CL and TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"), "400"},
		{"TE and CL", post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\nG"), "400"},
		{"two lengths", post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"), "400"},
		{"the same length twice", post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), "400"},
		{"a list of lengths", post("Content-Length: 1, 1\r\n", "a"), "400"},
		{"a length with a sign", post("Content-Length: +1\r\n", "a"), "400"},
		{"a negative length", post("Content-Length: -1\r\n", "a"), "400"},
		{"a length with a space", post("Content-Length: 1 1\r\n", "a"), "400"},
		{"a hexadecimal length", post("Content-Length: 0x1\r\n", "a"), "400"},
		{"an empty length", post("Content-Length:\r\n", ""), "400"},
		{"a length too long", post("Content-Length: 9999999999999999999\r\n", "a"), "400"},
		{"xchunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), "501"},
		{"chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), "501"},
		{"identity, chunked", post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"), "501"},
		{"chunked quoted", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), "501"},
		{"vertical tab before chunked", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), "400"},
		{"two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "501"},
		{"two different encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), "501"},
		{"an encoding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"a folded line", get("X-A: b\r\n Content-Length: 5\r\n"), "400"},
		{"a folded first line", "GET / HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n", "400"},
		{"a bare CR in a value", get("X-A: b\rContent-Length: 5\r\n"), "400"},
		{"a bare CR as line end", "GET / HTTP/1.1\r\nHost: x\r\nX: y\r\rZ: a\r\n\r\n", "400"},
		{"a bare LF", "GET / HTTP/1.1\nHost: x\n\n", "400"},
		{"one bare LF among others", get("X-A: b\nContent-Length: 5\r\n"), "400"},
		{"NUL in a value", get("X-A: a\x00b\r\n"), "400"},
		{"NUL in a name", get("X\x00A: b\r\n"), "400"},
		{"a space before the colon", get("Content-Length : 5\r\n"), "400"},
		{"a tab before the colon", get("X-A\t: b\r\n"), "400"},
		{"an empty name", get(": b\r\n"), "400"},
		{"a line without a colon", get("nonsense\r\n"), "400"},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", "400"},
		{"two Hosts", get("Host: x\r\n"), "400"},
		{"a Host with a path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", "400"},
		{"a Host with a user", "GET / HTTP/1.1\r\nHost: a@x\r\n\r\n", "400"},
		{"a Host with a space", "GET / HTTP/1.1\r\nHost: x y\r\n\r\n", "400"},
		{"a URL for another host", "GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a URL with a user", "GET http://a@x/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a URL of another scheme", "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a relative target", "GET path HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"* for GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a broken escape", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"two spaces after the method", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"two spaces before the version", "GET /  HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a space after the version", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", "400"},
		{"a tab in the request line", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a space first", " GET / HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"an empty line first", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"a method that is no token", "G(T / HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"HTTP/0.9", "GET /\r\n\r\n", "400"},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", "505"},
		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", "505"},
		{"http/1.1", "GET / http/1.1\r\nHost: x\r\n\r\n", "400"},
		{"an expectation", get("Expect: the unexpected\r\n"), "417"},
		{"too many fields", get(strings.Repeat("X: y\r\n", maxRequestFields)), "431"},
	} {
		got := raw(t, r.address, c.text+next)
		if n := strings.Count(got, "HTTP/1.1 "); n != 1 || !strings.HasPrefix(got, "HTTP/1.1 "+c.want) || !strings.Contains(got, "Connection: close\r\n") {
			t.Errorf("%s: %d answers, want one with %s: %.200q", c.name, n, c.want, got)
		}
		if seen := rec.take(); seen != "" {
			t.Errorf("%s: the server was sent %q", c.name, seen)
		}
	}
}

// TestChunksAreRefused: a chunked body that can be read in two ways is not
// passed on to its end, and what follows is not read as a request.
func TestChunksAreRefused(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{BodyIdle: time.Second})
	r.serve(model.HTTP, rec.Upstream)
	const next = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct{ name, body string }{
		{"a size too large", "fffffffffffffffff\r\na\r\n0\r\n\r\n"},
		{"a size that overflows", "10000000000000001\r\na\r\n0\r\n\r\n"},
		{"a negative size", "-1\r\na\r\n0\r\n\r\n"},
		{"a size with a sign", "+1\r\na\r\n0\r\n\r\n"},
		{"0x", "0x1\r\na\r\n0\r\n\r\n"},
		{"a space before the size", " 1\r\na\r\n0\r\n\r\n"},
		{"a space after the size", "1 \r\na\r\n0\r\n\r\n"},
		{"a tab after the size", "1\t;x\r\na\r\n0\r\n\r\n"},
		{"no size", "\r\na\r\n0\r\n\r\n"},
		{"no digits but an extension", ";x\r\na\r\n0\r\n\r\n"},
		{"a bare LF after the size", "1\na\r\n0\r\n\r\n"},
		{"a bare LF after the data", "1\r\na\n0\r\n\r\n"},
		{"a bare LF in an extension", "1;x\ny\r\na\r\n0\r\n\r\n"},
		{"a bare CR in an extension", "1;x\ry\r\na\r\n0\r\n\r\n"},
		{"NUL in an extension", "1;\x00\r\na\r\n0\r\n\r\n"},
		{"data longer than its size", "1\r\nab\r\n0\r\n\r\n"},
		{"a bare LF at the end", "0\r\n\n"},
		{"a trailer without a colon", "0\r\nnonsense\r\n\r\n"},
		{"a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"},
		{"a bare LF in a trailer", "0\r\nX: y\nContent-Length: 5\r\n\r\n"},
		{"extensions without end", "1;" + strings.Repeat("x", maxChunkExtension+1) + "\r\na\r\n0\r\n\r\n"},
		{"many extensions", strings.Repeat("1;"+strings.Repeat("x", 100)+"\r\na\r\n", maxChunkExtension/100+1) + "0\r\n\r\n"},
		{"a trailer without end", "0\r\nX: " + strings.Repeat("x", maxTrailerBytes) + "\r\n\r\n"},
		{"too many trailers", "0\r\n" + strings.Repeat("X: y\r\n", maxTrailerFields+1) + "\r\n"},
	} {
		got := raw(t, r.address, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+c.body+next)
		if n := strings.Count(got, "HTTP/1.1 "); n > 1 || strings.Contains(got, "HTTP/1.1 200") || (n == 1 && (!strings.HasPrefix(got, "HTTP/1.1 400") || !strings.Contains(got, "Connection: close\r\n"))) {
			t.Errorf("%s: %d answers: %.300q", c.name, n, got)
		}
		seen := rec.take()
		if strings.Contains(seen, "smuggled") || strings.Contains(seen, "0\r\n\r\n") {
			t.Errorf("%s: the server was sent %q", c.name, seen)
		}
	}
}

// TestWhatServersAreSent: a request reaches the server framed in one way, with
// its client's lines cleaned of what is not theirs to say.
func TestWhatServersAreSent(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, rec.Upstream)
	upgrade := func(method, head, to string) string {
		return method + " / HTTP/1.1\r\nHost: x\r\n" + head + "Connection: Upgrade\r\nUpgrade: " + to + "\r\n\r\n"
	}
	for _, c := range []struct{ name, text, has, hasNot string }{
		{"a body", "POST /a?b HTTP/1.1\r\nHost: x\r\ncontent-length:\t 5 \r\n\r\nhello", "POST /a?b HTTP/1.1\r\nHost: x\r\n|\r\nContent-Length: 5\r\n\r\nhello", "content-length"},
		{"chunks", "POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: CHUNKED\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n|0\r\n\r\n", "a=b|CHUNKED"},
		{"a URL", "GET http://x/p?q HTTP/1.1\r\nHost: x\r\n\r\n", "GET /p?q HTTP/1.1\r\nHost: x\r\n", "http://x"},
		{"a URL without path", "GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\n", "http://x"},
		{"underscores", "POST / HTTP/1.1\r\nHost: x\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\nX_Forwarded_For: evil\r\nContent-Length: 1\r\n\r\na", "Content-Length: 1\r\n", "Content_|Transfer_|evil"},
		{"named by Connection", "GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Secret, Content-Length\r\nX-Secret: 1\r\n\r\n", "GET / HTTP/1.1\r\n", "X-Secret|Connection"},
		{"a body and an upgrade", upgrade("POST", "Content-Length: 5\r\n", "websocket") + "hello", "\r\nContent-Length: 5\r\n\r\nhello", "pgrade|websocket"},
		{"chunks and an upgrade", upgrade("POST", "Transfer-Encoding: chunked\r\n", "x") + "0\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "pgrade"},
		{"an empty body and an upgrade", upgrade("POST", "Content-Length: 0\r\n", "websocket"), "Content-Length: 0\r\n|Connection: Upgrade\r\nUpgrade: websocket\r\n", "chunked"},
		{"an upgrade", upgrade("GET", "", "tcp"), "Connection: Upgrade\r\nUpgrade: tcp\r\n", "Content-Length"},
		{"an upgrade with a version", upgrade("GET", "", "SPDY/3.1"), "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n", "Content-Length"},
		{"an upgrade to h2c", upgrade("GET", "HTTP2-Settings: AAMAAABk\r\nConnection: HTTP2-Settings\r\n", "h2c"), "GET / HTTP/1.1\r\n", "pgrade|h2c|Settings|AAMAAABk"},
		{"settings that Connection does not name", "GET / HTTP/1.1\r\nHost: x\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "GET / HTTP/1.1\r\n", "Settings|AAMAAABk"},
		{"an upgrade to TLS", upgrade("GET", "", "TLS/1.0, HTTP/1.1"), "GET / HTTP/1.1\r\n", "pgrade|TLS"},
		{"an upgrade to one of several", upgrade("GET", "Upgrade: H2C\r\n", "HTTP/2.0, websocket"), "\r\nUpgrade: websocket\r\n", "HTTP/2|H2C"},
		{"an upgrade to no token", upgrade("GET", "", "web socket"), "GET / HTTP/1.1\r\n", "pgrade"},
		{"an upgrade in HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1\r\n", "pgrade"},
		{"trailers of framing", "POST / HTTP/1.1\r\nHost: x\r\nTrailer: Content-Length, X-T\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\nHost: evil\r\nX-T: 1\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "Content-Length|evil"},
	} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, c.text)
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Errorf("%s: answered %q, %v", c.name, line, err)
		}
		_ = conn.Close()
		seen := rec.take()
		for part := range strings.SplitSeq(c.has, "|") {
			if !strings.Contains(seen, part) {
				t.Errorf("%s: %q is missing from %q", c.name, part, seen)
			}
		}
		for part := range strings.SplitSeq(c.hasNot, "|") {
			if strings.Contains(seen, part) {
				t.Errorf("%s: %q is in %q", c.name, part, seen)
			}
		}
	}
}

// TestDowngrade: what HTTP/2 allows to be written into a head does not become
// lines of HTTP/1 (h2.CL, h2.TE, line ends in values and in pseudo-headers).
func TestDowngrade(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, rec.Upstream)
	good := [][2]string{{":method", "POST"}, {":path", "/"}, {":scheme", "http"}, {":authority", "x"}}
	with := func(pairs ...[2]string) [][2]string {
		out := append([][2]string(nil), good...)
		for _, p := range pairs {
			replaced := false
			for i := range out {
				if out[i][0] == p[0] && strings.HasPrefix(p[0], ":") {
					out[i], replaced = p, true
				}
			}
			if !replaced {
				out = append(out, p)
			}
		}
		return out
	}
	const evil = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		name string
		head [][2]string
		body string
		want string // status; "": it may also be without an answer
	}{
		{"nothing", good, "", "200"},
		{"a length too short", with([2]string{"content-length", "0"}), evil, ""},
		{"a length too long", with([2]string{"content-length", "1000"}), evil, ""},
		{"two lengths", with([2]string{"content-length", "3"}, [2]string{"content-length", "4"}), "abc", ""},
		{"an encoding", with([2]string{"transfer-encoding", "chunked"}), "0\r\n\r\n" + evil, "400"},
		{"a connection field", with([2]string{"connection", "transfer-encoding"}, [2]string{"transfer-encoding", "chunked"}), "0\r\n\r\n" + evil, "400"},
		{"underscores", with([2]string{"transfer_encoding", "smuggled"}, [2]string{"content_length", "smuggled"}, [2]string{"x_forwarded_for", "smuggled"}, [2]string{"x-real_ip", "smuggled"}), "abc", "200"},
		{"settings of h2c", with([2]string{"http2-settings", "smuggled"}), "", "200"},
		{"CR LF in a value", with([2]string{"x-a", "b\r\n\r\n" + evil}), "", ""},
		{"LF in a value", with([2]string{"x-a", "b\nTransfer-Encoding: chunked"}), "0\r\n\r\n" + evil, ""},
		{"CR LF in a name", with([2]string{"x\r\nhost: smuggled\r\nx", "b"}), "", ""},
		{"a colon in a name", with([2]string{"transfer-encoding: chunked\r\nx", "b"}), "", ""},
		{"CR LF in the path", with([2]string{":path", "/ HTTP/1.1\r\nHost: smuggled\r\n\r\n"}), "", ""},
		{"a space in the path", with([2]string{":path", "/ HTTP/1.1 smuggled"}), "", "400"},
		{"a space in the query", with([2]string{":path", "/?a b"}), "", "400"},
		{"a fragment", with([2]string{":path", "/#smuggled"}), "", "400"},
		{"a URL as the path", with([2]string{":path", "http://smuggled/"}), "", "400"},
		{"a path that does not begin with a slash", with([2]string{":path", "smuggled"}), "", ""},
		{"* for POST", with([2]string{":path", "*"}), "", "400"},
		{"CR LF in the method", with([2]string{":method", "GET /smuggled HTTP/1.1\r\nX: y"}), "", ""},
		{"a space in the method", with([2]string{":method", "GET /smuggled"}), "", "400"},
		{"a method that is no token", with([2]string{":method", "G(T"}), "", "400"},
		{"CR LF in the authority", with([2]string{":authority", "x\r\nX-Smuggled: smuggled"}), "", ""},
		{"a space in the authority", with([2]string{":authority", "x smuggled"}), "", "400"},
		{"a path in the authority", with([2]string{":authority", "x/smuggled"}), "", "400"},
		{"a user in the authority", with([2]string{":authority", "smuggled@x"}), "", ""},
		{"the same host once more", with([2]string{"host", "X"}), "", "200"},
		{"another host", with([2]string{"host", "smuggled"}), "", "400"},
		{"two hosts", with([2]string{"host", "x"}, [2]string{"host", "smuggled"}), "", "400"},
		{"two hosts and no authority", [][2]string{good[0], good[1], good[2], {"host", "x"}, {"host", "smuggled"}}, "", "400"},
		{"a host and no authority", [][2]string{good[0], good[1], good[2], {"host", "x"}}, "", "200"},
		{"CONNECT", [][2]string{{":method", "CONNECT"}, {":authority", "smuggled:443"}}, "", "405"},
		{"a WebSocket", with([2]string{":method", "CONNECT"}, [2]string{":protocol", "websocket"}), "", ""},
	} {
		status := sendH2(t, r.address, c.head, c.body)
		seen := rec.take()
		requests := requestsIn(t, c.name, seen)
		if status != c.want && c.want != "" {
			t.Errorf("%s: answered %q, want %s", c.name, status, c.want)
		}
		if want := min(1, len(requests)); len(requests) > 1 || (c.want == "200") != (want == 1) && c.want != "" {
			t.Errorf("%s: one request became %d: %q", c.name, len(requests), seen)
		}
		if strings.Contains(seen, "muggled") && c.body != evil || strings.Contains(seen, "_") {
			t.Errorf("%s: the server was sent %q", c.name, seen)
		}
		for _, req := range requests {
			if req.URL.Path != "/" || req.Host != "x" {
				t.Errorf("%s: the server was sent %q", c.name, seen)
			}
		}
	}
}

// requestsIn returns the requests that a server finds in what it was sent. Bytes
// that it finds none in are what the test is about.
func requestsIn(t *testing.T, name, seen string) (out []*http.Request) {
	t.Helper()
	br := bufio.NewReader(strings.NewReader(seen))
	for {
		req, err := http.ReadRequest(br)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Errorf("%s: the server was sent what is no request (%v): %q", name, err, seen)
			return out
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			t.Errorf("%s: the server was sent half a body (%v): %q", name, err, seen)
		}
		out = append(out, req)
	}
}

// TestTrailersOfH2: what must not come in a head does not come behind a body.
func TestTrailersOfH2(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, rec.Upstream)
	head := [][2]string{
		{":method", "POST"},
		{":path", "/"},
		{":scheme", "http"},
		{":authority", "x"},
		{"trailer", "x-sum, transfer_encoding, x-forwarded-for, content_length, forwarded, x: y"},
	}
	status := sendH2(t, r.address, head, "body",
		[2]string{"x-sum", "42"}, [2]string{"transfer_encoding", "smuggled"}, [2]string{"content_length", "smuggled"},
		[2]string{"x-forwarded-for", "smuggled"}, [2]string{"forwarded", "for=smuggled"})
	seen := rec.take()
	requests := requestsIn(t, "trailers", seen)
	if status != "200" || len(requests) != 1 || requests[0].Trailer.Get("X-Sum") != "42" {
		t.Fatalf("answered %q, and the server was sent %q", status, seen)
	}
	if len(requests[0].Trailer) != 1 || strings.Contains(seen, "smuggled") || strings.Contains(seen, "_") {
		t.Errorf("the server was sent %q", seen)
	}
}

// TestUpgradeDoesNotSmuggle: whatever protocol a client offers to change to, its
// one request is one request to the server.
func TestUpgradeDoesNotSmuggle(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, rec.Upstream)
	const evil = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(evil))
	chunks := fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(evil), evil)
	for _, to := range []string{"x", "websocket", "h2c", "h2c, websocket"} {
		for name, text := range map[string]string{
			"a body":        "Connection: Upgrade\r\n" + length + evil,
			"a large body":  "Connection: Upgrade\r\n" + fmt.Sprintf("Content-Length: %d\r\n\r\n", 2*maxBuffered) + evil + strings.Repeat("x", 2*maxBuffered-len(evil)),
			"chunks":        "Connection: Upgrade\r\n" + chunks,
			"named lengths": "Connection: Upgrade, Content-Length, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n" + length + evil,
			"no body":       "Connection: Upgrade\r\nContent-Length: 0\r\n\r\n",
		} {
			name += ", " + to
			conn, br := dialRouter(t, r)
			for range 2 {
				_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nUpgrade: "+to+"\r\n"+text)
				if res, got := answerOf(t, br, "POST"); res.StatusCode != 200 || got != "ok" {
					t.Errorf("%s: %s %q", name, res.Status, got)
				}
			}
			do(t, client(t, false), "GET", r.url("/"), nil)
			seen := rec.take()
			requests := requestsIn(t, name, seen)
			if len(requests) != 3 {
				t.Errorf("%s: three requests became %d: %q", name, len(requests), seen)
			}
			for _, req := range requests {
				if req.URL.Path != "/" {
					t.Errorf("%s: the server was asked for %s", name, req.URL.Path)
				}
			}
			_ = conn.Close()
		}
	}
}

// TestOfferedUpgradeIsTheLast: whatever a server answers to the offer of another
// protocol, no other request goes over the connection.
func TestOfferedUpgradeIsTheLast(t *testing.T) {
	for to, want := range map[string]int64{"websocket": 2, "h2c": 1} {
		rec := recordingServer(t)
		r := startRouter(t, Limits{})
		r.serve(model.HTTP, rec.Upstream)
		conn, br := dialRouter(t, r)
		for range 2 {
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", to)
			if res, got := answerOf(t, br, "GET"); res.StatusCode != 200 || got != "ok" {
				t.Errorf("%s: %s %q", to, res.Status, got)
			}
		}
		if got := rec.conns.Load(); got != want {
			t.Errorf("%s: %d connections for two requests, want %d", to, got, want)
		}
	}
}

// sendH2 sends one request as the frames say, and waits for its end. It returns
// the status of the answer, "" if there is none.
func sendH2(t *testing.T, address string, head [][2]string, body string, trailer ...[2]string) (status string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(conn, http2.ClientPreface)
	fr := http2.NewFramer(conn, conn)
	_ = fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	encode := func(fields [][2]string) []byte {
		block.Reset()
		for _, f := range fields {
			_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		return block.Bytes()
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(head), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = fr.WriteData(1, len(trailer) == 0, []byte(body))
	}
	if len(trailer) > 0 {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(trailer), EndHeaders: true, EndStream: true})
	}
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return status
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status
			}
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
			if f.StreamEnded() {
				return status
			}
		}
	}
}

// TestBadAnswersAreRefused: a server's answer that can be read in two ways is
// not passed on: 502, and the next request on the client's connection gets its
// own answer.
func TestBadAnswersAreRefused(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"no HTTP", "hello\r\n\r\n"},
		{"HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n"},
		{"a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"},
		{"a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"},
		{"a status with a sign", "HTTP/1.1 +20 OK\r\n\r\n"},
		{"a bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"},
		{"a bare CR", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"},
		{"NUL", "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n"},
		{"a folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"},
		{"a space before a colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello"},
		{"a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"},
		{"an unknown encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"},
		{"an encoding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"a change of protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"},
		{"interim answers without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxInterim+1)},
		{"a malformed chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"},
		{"a head without end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswerHead) + "\r\n\r\n"},
	} {
		s := scriptedServer(t, "web-aaaaaa", func(s *scripted, _ int64, conn *net.TCPConn) {
			br := bufio.NewReader(conn)
			for {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				if req.URL.Path == "/good" {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
					continue
				}
				_, _ = io.WriteString(conn, c.answer)
			}
		})
		r := startRouter(t, Limits{})
		r.serve(model.HTTP, s.Upstream)
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		br := bufio.NewReader(conn)
		for _, want := range []string{"/bad 502", "/good 200"} {
			path, status, _ := strings.Cut(want, " ")
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Errorf("%s: %s: %v", c.name, path, err)
				break
			}
			body, _ := io.ReadAll(res.Body)
			if !strings.HasPrefix(res.Status, status) {
				t.Errorf("%s: %s: %s %q", c.name, path, res.Status, body)
			}
		}
		_ = conn.Close()
	}
}

// TestExcessIsNotNext: what a server sends beyond its answer is not taken for
// the answer to the next request.
func TestExcessIsNotNext(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for name, answer := range map[string]string{
		"after a length": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil,
		"after chunks":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
		"after 204":      "HTTP/1.1 204 No Content\r\n\r\n" + evil,
		"after 304":      "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n" + evil,
		"both framings":  "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
	} {
		s := scriptedServer(t, "web-aaaaaa", func(_ *scripted, nth int64, conn *net.TCPConn) {
			br := bufio.NewReader(conn)
			for {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				if nth == 1 {
					_, _ = io.WriteString(conn, answer)
				} else {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
				}
			}
		})
		r := startRouter(t, Limits{})
		r.serve(model.HTTP, s.Upstream)
		c := client(t, false)
		do(t, c, "GET", r.url("/"), nil)
		for range 3 {
			if _, body := do(t, c, "GET", r.url("/"), nil); body != "good" {
				t.Errorf("%s: the next request was answered %q", name, body)
			}
		}
	}
}
