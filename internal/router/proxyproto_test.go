package router

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"kiln/internal/model"
)

var (
	client4 = proxied{netip.MustParseAddrPort("192.0.2.7:51000"), netip.MustParseAddrPort("198.51.100.1:443")}
	client6 = proxied{netip.MustParseAddrPort("[2001:db8::7]:51000"), netip.MustParseAddrPort("[2001:db8::1]:443")}
)

func TestReadProxy(t *testing.T) {
	sum := func(header string) string { // with a checksum that is right
		b := []byte(header)
		at := len(b) - 4
		binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		return string(b)
	}
	v2 := func(hexText string) string {
		b, err := hex.DecodeString(strings.ReplaceAll(hexText, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return proxySignature + string(b)
	}
	const v4 = "c0000207 c6336401 c738 01bb"
	long := "PROXY UNKNOWN " + strings.Repeat("x", proxyLine-16) + "\r\n"
	for name, c := range map[string]struct {
		in   string
		want proxied
		ok   bool
	}{
		"v1 tcp4":            {"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n", client4, true},
		"v1 tcp6":            {"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n", client6, true},
		"v1 unknown":         {"PROXY UNKNOWN\r\n", proxied{}, true},
		"v1 unknown, more":   {"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", proxied{}, true},
		"v1 longest":         {long, proxied{}, true},
		"v1 too long":        {strings.Replace(long, "x", "xx", 1), proxied{}, false},
		"v1 mapped":          {"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 51000 443\r\n", client4, true},
		"v1 family":          {"PROXY TCP4 2001:db8::7 2001:db8::1 51000 443\r\n", proxied{}, false},
		"v1 udp":             {"PROXY UDP4 192.0.2.7 198.51.100.1 51000 443\r\n", proxied{}, false},
		"v1 port":            {"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n", proxied{}, false},
		"v1 leading zero":    {"PROXY TCP4 192.0.2.7 198.51.100.1 051 443\r\n", proxied{}, false},
		"v1 two spaces":      {"PROXY TCP4  192.0.2.7 198.51.100.1 51000 443\r\n", proxied{}, false},
		"v1 zone":            {"PROXY TCP6 fe80::1%eth0 fe80::2 51000 443\r\n", proxied{}, false},
		"v1 line feed only":  {"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\n", proxied{}, false},
		"v2 tcp4":            {v2("21 11 000c" + v4), client4, true},
		"v2 tcp6":            {v2("21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000001 c738 01bb"), client6, true},
		"v2 local":           {v2("20 00 0000"), proxied{}, true},
		"v2 local, more":     {v2("20 11 000c" + v4), proxied{}, true},
		"v2 unspecified":     {v2("21 00 0003 aabbcc"), proxied{}, true},
		"v2 udp":             {v2("21 12 000c" + v4), proxied{}, true},
		"v2 extension":       {v2("21 11 0011" + v4 + "04 0002 0000"), client4, true},
		"v2 checksum":        {sum(v2("21 11 0013" + v4 + "03 0004 00000000")), client4, true},
		"v2 wrong checksum":  {v2("21 11 0013" + v4 + "03 0004 00000001"), proxied{}, false},
		"v2 short extension": {v2("21 11 000e" + v4 + "04 00"), proxied{}, false},
		"v2 false extension": {v2("21 11 0010" + v4 + "04 0002 00"), proxied{}, false},
		"v2 short":           {v2("21 11 000b" + v4), proxied{}, false},
		"v2 version":         {v2("31 11 000c" + v4), proxied{}, false},
		"v2 command":         {v2("22 11 000c" + v4), proxied{}, false},
		"v2 family":          {v2("21 41 000c" + v4), proxied{}, false},
		"v2 too long":        {v2("21 11 1001"+v4) + strings.Repeat("\x00", 4097), proxied{}, false},
		"http":               {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", proxied{}, false},
		"preface":            {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", proxied{}, false},
		"cut":                {"PROXY TCP4 192", proxied{}, false},
	} {
		const rest = "GET / HTTP/1.1"
		for _, slow := range []bool{false, true} {
			whole := strings.NewReader(c.in + rest)
			var in io.Reader = whole
			if slow {
				in = iotest.OneByteReader(whole)
			}
			got, err := readProxy(in)
			if name == "cut" {
				_, err = readProxy(strings.NewReader(c.in))
			}
			if (err == nil) != c.ok || c.ok && got != c.want {
				t.Errorf("%s: %v %v", name, got, err)
			}
			if left, _ := io.ReadAll(whole); c.ok && string(left) != rest {
				t.Errorf("%s: %q is left behind the header", name, left)
			}
		}
	}
}

// FuzzReadProxy: nothing that clients send breaks the parser, and what it
// accepts and writes again it accepts with the same meaning.
func FuzzReadProxy(f *testing.F) {
	for _, p := range []proxied{{}, client4, client6, {client4.from, client6.to}} {
		f.Add(proxyHeader(1, p))
		f.Add(proxyHeader(2, p))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		p, err := readProxy(r)
		if used := len(in) - r.Len(); used > len(proxySignature)+4+proxyMost {
			t.Fatalf("%d bytes were read", used)
		}
		if err != nil {
			return
		}
		for version := 1; version <= 2; version++ {
			again, err := readProxy(bytes.NewReader(proxyHeader(version, p)))
			want := p
			if !p.from.IsValid() {
				want = proxied{}
			}
			if err != nil || again != want {
				t.Fatalf("version %d of %v is read as %v %v", version, p, again, err)
			}
		}
	})
}

// TestProxyHeaderOfClients: on HTTP, on TLS and on tcp listeners it is the
// header that says who the client is.
func TestProxyHeaderOfClients(t *testing.T) {
	r := startRouter(t, Limits{})
	svc := r.service(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, req.Header.Get("X-Forwarded-For")+" "+req.Header.Get("Forwarded"))
	})))
	svc.Routes[0].ProxyProtocol = true
	r.apply([]model.TableService{svc})
	for version := 1; version <= 2; version++ {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		for n := range 2 { // the second request of a connection has no header
			head := proxyHeader(version, client6)
			if n > 0 {
				head = nil
			}
			_, _ = conn.Write(append(head, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"...))
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			if !strings.HasPrefix(string(b), `2001:db8::7 for="[2001:db8::7]"`) {
				t.Errorf("version %d, request %d: the client is %q", version, n, b)
			}
		}
		_ = conn.Close()
	}
	for _, bad := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY nonsense\r\n", "\x16\x03\x01"} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, bad)
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		if b, err := io.ReadAll(conn); len(b) > 0 || err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%q was answered %q, %v", bad, b, err)
		}
		_ = conn.Close()
	}
	if n := r.Counters().NoProxy; n != 3 {
		t.Errorf("%d connections without a header were counted", n)
	}
	access, err := net.Dial("tcp", r.address) // one that says nothing ends by itself
	if err != nil {
		t.Fatal(err)
	}
	defer access.Close()
	_ = access.SetReadDeadline(time.Now().Add(proxyTimeout + 3*time.Second))
	if _, err := access.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("a silent connection: %v", err)
	}
}

// TestProxyHeaderBeforeTLS: the header comes first, the handshake behind it.
func TestProxyHeaderBeforeTLS(t *testing.T) {
	r := startRouter(t, Limits{})
	svc := r.service(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, req.Header.Get("X-Forwarded-For")+" "+req.Header.Get("X-Forwarded-Proto"))
	})))
	svc.Routes[0].Host, svc.Routes[0].ProxyProtocol = "shop.example.com", true
	svc.Routes[0].TLS = newAuthority(t).issue(model.TLS{}, "shop.example.com")
	r.apply([]model.TableService{svc})
	for _, protocol := range []string{"http/1.1", "h2"} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(proxyHeader(2, client4))
		tc := tls.Client(conn, &tls.Config{ServerName: "shop.example.com", InsecureSkipVerify: true, NextProtos: []string{protocol}}) //nolint:gosec // the certificate is of no matter here
		p := &http.Protocols{}
		p.SetHTTP1(protocol != "h2")
		p.SetHTTP2(protocol == "h2")
		c := &http.Client{Transport: &http.Transport{Protocols: p, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return tc, tc.HandshakeContext(ctx) }}}
		if _, body := do(t, c, "GET", "https://shop.example.com/", nil); body != "192.0.2.7 https" {
			t.Errorf("%s: %q", protocol, body)
		}
		c.CloseIdleConnections()
	}
}

// TestProxyHeaderForServers: a tcp server is told who its client is, by the
// header of the declared version, also when the router was told itself.
func TestProxyHeaderForServers(t *testing.T) {
	for version := 1; version <= 2; version++ {
		for _, told := range []bool{false, true} {
			r := startRouter(t, Limits{})
			got := make(chan proxied, 1)
			up := scriptedServer(t, "db-aaaaaa", func(_ *scripted, _ int64, conn *net.TCPConn) {
				p, err := readProxy(conn)
				if err != nil {
					t.Error(err)
				}
				got <- p
				_, _ = io.Copy(conn, conn)
			})
			svc := r.service(model.TCP, up.Upstream)
			svc.ProxyProtocol, svc.Routes[0].ProxyProtocol = version, told
			r.apply([]model.TableService{svc})
			conn, err := net.Dial("tcp", r.address)
			if err != nil {
				t.Fatal(err)
			}
			want := proxied{netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(r.address)}
			if told {
				want = client6
				_, _ = conn.Write(proxyHeader(2, client6))
			}
			_, _ = io.WriteString(conn, "hello")
			closeWrite(conn)
			if b, _ := io.ReadAll(conn); string(b) != "hello" {
				t.Errorf("version %d: %q came back", version, b)
			}
			if p := <-got; p != want {
				t.Errorf("version %d, told %v: the server was told %v, want %v", version, told, p, want)
			}
			_ = conn.Close()
		}
	}
}

func TestProxyHeaderThatCannotBeMeant(t *testing.T) {
	r := startRouter(t, Limits{})
	svc := r.service(model.HTTP)
	svc.Routes = append(svc.Routes, model.Route{Listen: r.address, Path: "/a", ProxyProtocol: true})
	if _, err := r.Apply(model.Table{Epoch: 1, Generation: 1, Services: []model.TableService{svc}}); model.CodeOf(err) != model.Conflict {
		t.Errorf("a listener with and without a header: %v", err)
	}
	svc = r.service(model.TCP)
	svc.ProxyProtocol = 3
	if _, err := r.Apply(model.Table{Epoch: 1, Generation: 1, Services: []model.TableService{svc}}); model.CodeOf(err) != model.Invalid {
		t.Errorf("version 3: %v", err)
	}
}
