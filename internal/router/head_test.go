package router

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

// readAs reads a request as the router does: head, then body.
func readAs(data []byte) (h *head, body []byte, whole bool) {
	end, _, r := endOfHead(data, 0)
	if r != nil || end == 0 {
		return nil, nil, false
	}
	h = &head{}
	if h.parseRequest(data[:end]) != nil {
		return nil, nil, false
	}
	rest := bytes.Clone(data[end:])
	if !h.chunked {
		n := max(0, h.length)
		if int64(len(rest)) < n {
			return h, nil, false
		}
		return h, rest[:n], true
	}
	var d chunks
	n, _, err := d.decode(rest)
	if err != nil || !d.done() {
		return h, nil, false
	}
	if _, err := d.fields(); err != nil {
		return h, nil, false
	}
	return h, rest[:n], true
}

// seeds are requests to begin fuzzing with, and a test without it.
var seeds = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /a%20b?c=%zz HTTP/1.1\r\nHost: shop.example.com:80\r\nAccept: */*\r\nX-Empty:\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET http://x/y HTTP/1.1\r\nHost: x\r\nConnection: close, X-A\r\nX-A: b\r\n\r\n",
	"GET //x/y HTTP/1.0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: [::1]:80\r\nTe: trailers\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"PUT /\x80 HTTP/1.1\r\nHost: x\r\nX: \xff\t~\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
}

// FuzzRequestHead: what the router accepts net/http accepts as well, and finds
// the same method, target, host, headers and body in it.
func FuzzRequestHead(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, body, whole := readAs(data)
		if h == nil || h.method == "CONNECT" {
			return
		}
		req, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(data), 1<<20))
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", data, err)
		}
		if req.Method != h.method || req.RequestURI != string(h.target) || req.Host != string(h.host) || req.ProtoMinor != h.minor {
			t.Fatalf("%q is %s %s of %s, not %s %s of %s", data, req.Method, req.RequestURI, req.Host, h.method, h.target, h.host)
		}
		if path, err := url.PathUnescape(string(h.path)); err != nil || (path != req.URL.Path && (path != "/" || req.URL.Path != "")) {
			t.Fatalf("%q has the path %q, not %q (%v)", data, req.URL.Path, path, err)
		}
		ours := http.Header{}
		for i := range h.fields {
			key := textproto.CanonicalMIMEHeaderKey(string(h.fields[i].name))
			ours[key] = append(ours[key], string(h.fields[i].value))
		}
		for _, key := range []string{"Host", "Transfer-Encoding", "Trailer"} {
			delete(ours, key)
		}
		if len(ours["Pragma"]) > 0 { // net/http adds a Cache-Control to it
			delete(ours, "Cache-Control")
			delete(req.Header, "Cache-Control")
		}
		for key := range ours {
			if strings.Join(ours[key], "\n") != strings.Join(req.Header[key], "\n") {
				t.Fatalf("%q: header %s is %q, not %q", data, key, req.Header[key], ours[key])
			}
		}
		for key := range req.Header {
			if _, ok := ours[key]; !ok && key != "Trailer" {
				t.Fatalf("%q: header %s is not seen", data, key)
			}
		}
		if !whole {
			return
		}
		theirs, err := io.ReadAll(req.Body)
		if err != nil || !bytes.Equal(theirs, body) {
			t.Fatalf("%q: the body is %q (%v), not %q", data, theirs, err, body)
		}
	})
}

// FuzzAnswerHead: what the router accepts of a server net/http accepts as
// well, with the same status, headers and length.
func FuzzAnswerHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 204\r\n\r\n",
		"HTTP/1.0 200 Fine\r\nConnection: close\r\nX: \t y \t\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nDate: now\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		end, _, r := endOfHead(data, 0)
		var h head
		if r != nil || end == 0 || h.parseAnswer(data[:end]) != nil {
			return
		}
		res, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(data), 1<<20), nil)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", data, err)
		}
		if res.StatusCode != h.status || res.ProtoMinor != h.minor || (h.length >= 0 && !h.bodiless("GET") && res.ContentLength != h.length) {
			t.Fatalf("%q: %s with %d bytes, not %d with %d", data, res.Status, res.ContentLength, h.status, h.length)
		}
		if !h.bodiless("GET") && h.chunked != (len(res.TransferEncoding) == 1) {
			t.Fatalf("%q: framed as %v", data, res.TransferEncoding)
		}
	})
}

// FuzzChunks: however a body is cut into reads, the same data comes out.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX: y\r\n\r\nrest"), uint8(3))
	f.Add([]byte("fffffffffffffff\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var whole, parts chunks
		all := bytes.Clone(data)
		n, used, err := whole.decode(all)
		var got []byte
		var perr error
		at, size := 0, 1+int(step)
		for at < len(data) && !parts.done() && perr == nil {
			p := bytes.Clone(data[at:min(len(data), at+size)])
			var m, u int
			m, u, perr = parts.decode(p)
			got = append(got, p[:m]...)
			at += u
		}
		if (err == nil) != (perr == nil) || whole.state != parts.state || !bytes.Equal(all[:n], got) || (err == nil && at != used) {
			t.Fatalf("%q in steps of %d: %q %v at %d, whole: %q %v at %d", data, size, got, perr, at, all[:n], err, used)
		}
	})
}

// FuzzDowngrade: whatever net/http lets through of a request of HTTP/2, the head
// that a server gets is one request, with that method, target and host.
func FuzzDowngrade(f *testing.F) {
	f.Add("GET", "/", "x", "accept", "*/*")
	f.Add("GET /a", "/ HTTP/1.1", "x y", "host", "z")
	f.Add("POST", "/a?b c#d", "x", "transfer_encoding", "chunked")
	f.Add("OPTIONS", "*", "[::1]:80", "content-length", "5")
	f.Fuzz(func(t *testing.T, method, path, host, name, value string) {
		target, err := url.ParseRequestURI(path)
		if err != nil || method == "" || method == http.MethodConnect || name != strings.ToLower(name) ||
			!isToken(name) || !httpguts.ValidHeaderFieldValue(value) {
			return // net/http has seen to it
		}
		key := http.CanonicalHeaderKey(name)
		if isHop(key) || key == "Expect" { // likewise
			return
		}
		req := &http.Request{
			Method: method, RequestURI: path, URL: target, Host: host, ProtoMajor: 2,
			Header: http.Header{key: {value}},
		}
		if readAgain(req) != nil {
			return
		}
		sent := appendHead(nil, &call{exchange: newExchange(), req: req, ip: "192.0.2.1"}, upgradeOf(req))
		br := bufio.NewReader(bytes.NewReader(sent))
		seen, err := http.ReadRequest(br)
		if err != nil || seen.Method != method || seen.RequestURI != path || seen.Host != host || br.Buffered() > 0 ||
			seen.ContentLength != 0 || len(seen.TransferEncoding) > 0 {
			t.Fatalf("%q %q of %q with %q: %q is sent as %q (%v)", method, path, host, name, value, sent, err)
		}
	})
}

// TestKinds: fields are known by any case, and by underscores.
func TestKinds(t *testing.T) {
	for name, want := range map[string]fieldKind{
		"Content-Length": lengthField, "CONTENT-length": lengthField, "Content_Length": droppedHere,
		"Transfer-Encoding": encodingField, "transfer_encoding": droppedHere, "Host": hostField, "Te": teField,
		"X-Forwarded-For": droppedHere, "x_forwarded_anything": droppedHere, "Forwarded": droppedHere, "X-Real-IP": droppedHere,
		"Proxy-Authorization": droppedHere, "HTTP2-Settings": droppedHere, "Keep-Alive": droppedHere, "Connection": connectionField, "Upgrade": upgradeField,
		"Trailer": trailerField, "Expect": expectField, "Date": dateField, "X-Plain": plainField, "X_Plain": plainField, "Cookie": plainField,
	} {
		if got := kindOf([]byte(name)); got != want {
			t.Errorf("%s is %d, not %d", name, got, want)
		}
	}
}

// TestCorpusIsThere: the inputs that fuzzing found worth keeping are run by
// every test run.
func TestCorpusIsThere(t *testing.T) {
	for _, name := range []string{"FuzzRequestHead", "FuzzAnswerHead", "FuzzChunks"} {
		if found, err := filepath.Glob(filepath.Join("testdata", "fuzz", name, "*")); err != nil || len(found) == 0 {
			t.Errorf("%s has no corpus: %v", name, err)
		}
	}
}
