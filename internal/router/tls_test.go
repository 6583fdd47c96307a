package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"kiln/internal/model"
)

// secureService returns a service with a route by TLS.
func (r *testRouter) secureService(name, host string, t model.TLS, backends ...model.Upstream) model.TableService {
	return model.TableService{
		Name: name, Release: 1, Protocol: model.HTTP,
		Routes: []model.Route{{Listen: r.address, Host: host, TLS: t}}, Backends: backends,
	}
}

func TestTLSCarriesBothVersions(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	echo := func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s", req.Header.Get("X-Forwarded-Proto"), req.Header.Get("Forwarded"), req.Host)
	}
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		svc := r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"), backendServer(t, "web-aaaaaa", http.HandlerFunc(echo)))
		svc.Protocol = protocol
		r.apply([]model.TableService{svc})
		for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
			client := ca.client(r.address)
			tr, _ := client.Transport.(*http.Transport)
			if tr.ForceAttemptHTTP2 = version == "HTTP/2.0"; !tr.ForceAttemptHTTP2 {
				tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
			}
			res, err := client.Get("https://shop.test/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if want := `https|for=127.0.0.1;host="shop.test";proto=https|shop.test`; string(body) != want || res.Proto != version {
				t.Errorf("%s to %s: %s %q, want %q", version, protocol, res.Proto, body, want)
			}
		}
	}
}

func TestCertificateByName(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	b := backendServer(t, "web-aaaaaa", text("hello"))
	services := []model.TableService{
		r.secureService("first", "first.test", ca.issue(model.TLS{}, "first.test"), b),
		r.secureService("exact", "a.shop.test", ca.issue(model.TLS{}, "a.shop.test")),
		r.secureService("wild", "*.shop.test", ca.issue(model.TLS{}, "*.shop.test")),
	}
	r.apply(services)
	for name, want := range map[string]string{
		"first.test": "first.test", "a.shop.test": "a.shop.test", "A.Shop.test": "a.shop.test", "b.shop.test": "*.shop.test",
		"x.b.shop.test": "first.test", "unknown.test": "first.test", "": "first.test",
	} {
		cert, err := ca.shown(r.address, name)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if cert.DNSNames[0] != want {
			t.Errorf("%q: shown that of %s, want %s", name, cert.DNSNames[0], want)
		}
	}
	services = append(services, r.secureService("any", "", ca.issue(model.TLS{}, "any.test")))
	r.apply(services)
	if cert, err := ca.shown(r.address, "unknown.test"); err != nil || cert.DNSNames[0] != "any.test" {
		t.Errorf("with a route for any host: %v, %v", cert, err)
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	files := ca.issue(model.TLS{}, "shop.test")
	r.apply([]model.TableService{r.secureService("web", "shop.test", files, backendServer(t, "web-aaaaaa", text("hello")))})
	serial := func() int64 {
		cert, err := ca.shown(r.address, "shop.test")
		if err != nil {
			t.Fatal(err)
		}
		return cert.SerialNumber.Int64()
	}
	before := serial()
	ca.issue(files, "shop.test")
	eventually(t, "the renewed certificate is shown", func() bool { return serial() == before+1 })

	if err := os.WriteFile(files.Cert, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.certs.renew()
	if got := serial(); got != before+1 {
		t.Errorf("after a broken renewal %d is shown, want %d still", got, before+1)
	}
	wantTrouble(t, r, "web", "the certificate before stays in use: cannot use certificate "+files.Cert)
	// Another service's table must not fail on it either.
	other := r.secureService("other", "other.test", ca.issue(model.TLS{}, "other.test"))
	r.apply([]model.TableService{r.secureService("web", "shop.test", files), other})
	if got := serial(); got != before+1 {
		t.Errorf("after the next table %d is shown, want %d still", got, before+1)
	}
	ca.issue(files, "shop.test")
	eventually(t, "the mended certificate is shown", func() bool { return serial() == before+3 })
	if got := r.Status().Troubles; len(got) > 0 {
		t.Errorf("the mended certificate is a trouble still: %v", got)
	}
}

// wantTrouble wants one trouble, of the service, that begins with the words.
func wantTrouble(t *testing.T, r *testRouter, service, words string) {
	t.Helper()
	got := r.Status().Troubles
	if len(got) != 1 || got[0].Service != service || !strings.HasPrefix(got[0].What, words) {
		t.Errorf("troubles are %q, want one of %s: %q…", got, service, words)
	}
}

func TestCertificateOutOfTime(t *testing.T) {
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for _, c := range []struct {
		from, until time.Duration
		want        string
	}{
		{-60 * day, 30 * day, ""},
		{-84 * day, 6 * day, "is valid until 2026-11-27T00:00:00Z only"},
		{-4 * day, 2 * day, ""}, // short-lived: a sixth is a day
		{-90 * day, -day, "is not valid since 2026-11-20T00:00:00Z"},
		{0, 90 * day, ""},
		{day, 90 * day, "is not valid before 2026-11-22T00:00:00Z"},
	} {
		if got := outOfTime(&x509.Certificate{NotBefore: now.Add(c.from), NotAfter: now.Add(c.until)}, now); got != c.want {
			t.Errorf("valid from %s to %s: %q, want %q", c.from, c.until, got, c.want)
		}
	}
}

func TestCertificateNotValidYet(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	ca.from = 48 * time.Hour
	files := ca.issue(model.TLS{}, "shop.test")
	r.apply([]model.TableService{r.secureService("web", "shop.test", files, backendServer(t, "web-aaaaaa", text("hello")))})
	wantTrouble(t, r, "web", "the certificate "+files.Cert+" for shop.test is not valid before "+time.Now().Add(ca.from-time.Hour).UTC().Format("2006-01-"))
	ca.from = 0
	ca.issue(files, "shop.test")
	r.certs.renew()
	if got := r.Status().Troubles; len(got) > 0 {
		t.Errorf("a valid certificate is a trouble: %v", got)
	}
}

// TestSchemeIsTheConnections: a client by TLS that writes the scheme http is one
// by TLS all the same: to the servers, and to the rule that a connection is for
// the hosts of its certificate.
func TestSchemeIsTheConnections(t *testing.T) {
	rec := recordingServer(t)
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	r.apply([]model.TableService{
		r.secureService("shop", "shop.test", ca.issue(model.TLS{}, "shop.test"), rec.Upstream),
		r.secureService("other", "other.test", ca.issue(model.TLS{}, "other.test")),
	})
	for host, want := range map[string]string{"shop.test": "200", "other.test": "421"} {
		c := dialH2(t, ca, r.address)
		c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		c.scheme, c.host = "http", host
		if err := c.request(1); err != nil {
			t.Fatal(err)
		}
		got := ""
		err := c.until(func(f http2.Frame) bool {
			if h, ok := f.(*http2.MetaHeadersFrame); ok {
				got = h.PseudoValue("status")
			}
			return got != ""
		})
		if err != nil || got != want {
			t.Errorf("%s: answered %q, %v, want %s", host, got, err, want)
		}
		if seen := rec.take(); (want == "200") != strings.Contains(seen, "\r\nX-Forwarded-Proto: https\r\n") || strings.Contains(seen, "=http\r\n") {
			t.Errorf("%s: the server was sent %q", host, seen)
		}
	}
}

func TestTableIsRefusedForItsCertificate(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	good, other := ca.issue(model.TLS{}, "shop.test"), ca.issue(model.TLS{}, "shop.test")
	b := backendServer(t, "web-aaaaaa", text("hello"))
	r.apply([]model.TableService{r.secureService("web", "shop.test", good, b)})
	plain := model.TableService{Name: "plain", Routes: []model.Route{{Listen: r.address, Host: "plain.test"}}}
	acme := func(host string) model.TableService {
		return r.secureService("new", host, model.TLS{ACME: model.ACME{Directory: "https://127.0.0.1:1/dir"}})
	}
	for want, svc := range map[string]model.TableService{
		"no such file":                      r.secureService("new", "new.test", model.TLS{Cert: "/nowhere/cert.pem", Key: good.Key}),
		"does not match":                    r.secureService("new", "new.test", model.TLS{Cert: good.Cert, Key: other.Key}),
		"it is for shop.test":               r.secureService("new", "new.test", good),
		"both TLS and plain":                plain,
		"absolute paths":                    r.secureService("new", "new.test", model.TLS{Cert: "cert.pem", Key: "key.pem"}),
		`for host "*.new.test" by HTTP-01`:  acme("*.new.test"),
		`no authority gives a certificate`:  acme(""),
		"ACME is for names":                 acme("192.0.2.1"),
		"names certificate files and an":    r.secureService("new", "new.test", model.TLS{Cert: good.Cert, Key: good.Key, ACME: model.ACME{Email: "a@b"}}),
		"is no https URL":                   r.secureService("new", "new.test", model.TLS{ACME: model.ACME{Directory: "http://ca.example.com/dir"}}),
		"cannot read acme roots":            r.secureService("new", "new.test", model.TLS{ACME: model.ACME{Roots: "/nowhere/roots.pem"}}),
		"redirects to itself":               {Name: "new", Routes: []model.Route{{Listen: r.address, Host: "new.test", TLS: good, Redirect: "https"}}},
		`redirects to "ftp://new.test"`:     {Name: "new", Routes: []model.Route{{Listen: r.address, Host: "shop.test", Path: "/x", TLS: good, Redirect: "ftp://new.test"}}},
		"redirects, and its service speaks": {Name: "new", Protocol: model.TCP, Routes: []model.Route{{Listen: freeAddress(t), Redirect: "https"}}},
	} {
		fresh := freeAddress(t)
		services := []model.TableService{
			r.secureService("web", "shop.test", good, b), svc,
			{Name: "further", Routes: []model.Route{{Listen: fresh}}},
		}
		_, err := r.Apply(model.Table{Epoch: r.epoch, Generation: r.gen + 1, Services: services})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if st := r.Status(); st.Generation != r.gen {
			t.Fatalf("%s: the table was taken all the same", want)
		}
		if conn, err := net.Dial("tcp", fresh); err == nil {
			conn.Close()
			t.Errorf("%s: a listener of the refused table is open", want)
		}
	}
	res, err := ca.client(r.address).Get("https://shop.test/")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("the table in use: %v %v", res, err)
	}
	res.Body.Close()
}

func TestMisdirectedRequest(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	both := ca.issue(model.TLS{}, "a.test", "b.test")
	b := backendServer(t, "web-aaaaaa", text("hello"))
	r.apply([]model.TableService{
		{Name: "a", Routes: []model.Route{{Listen: r.address, Host: "a.test", TLS: both}, {Listen: r.address, Host: "b.test", TLS: both}}, Backends: []model.Upstream{b}},
		r.secureService("c", "c.test", ca.issue(model.TLS{}, "c.test")),
	})
	for _, c := range []struct {
		name, host string
		want       int
	}{
		{"a.test", "a.test", 200},
		{"a.test", "b.test", 200}, // one certificate for both
		{"a.test", "A.test:443", 200},
		{"a.test", "c.test", 421},
		{"c.test", "a.test", 421},
		{"", "a.test", 200}, // the first certificate
		{"", "c.test", 421},
		{"c.test", "unknown.test", 404},
	} {
		for _, alpn := range []string{"h2", "http/1.1"} {
			client := ca.client(r.address)
			tr, _ := client.Transport.(*http.Transport)
			tr.TLSClientConfig = &tls.Config{ServerName: c.name, InsecureSkipVerify: true, NextProtos: []string{alpn}}
			tr.ForceAttemptHTTP2 = alpn == "h2"
			if c.name == "" {
				tr.TLSClientConfig.ServerName = "127.0.0.1" // no name is sent for an address
			}
			req, err := http.NewRequest(http.MethodGet, "https://somewhere.test/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = c.host
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != c.want {
				t.Errorf("%s: connection for %q, request for %q: %d, want %d", alpn, c.name, c.host, res.StatusCode, c.want)
			}
		}
	}
}

// lineServer starts a server that answers a line with its name and the line.
func lineServer(t testing.TB, id string) model.Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, _ := bufio.NewReader(conn).ReadString('\n')
				fmt.Fprintf(conn, "%s: %s", id, line)
			}()
		}
	}()
	return model.Upstream{Server: model.ServerID(id), Release: 1, Address: l.Addr().String()}
}

func TestTLSEndsForTCP(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	service := func(name, host string) model.TableService {
		svc := r.secureService(name, host, ca.issue(model.TLS{}, host), lineServer(t, name+"-aaaaaa"))
		svc.Protocol = model.TCP
		return svc
	}
	said := func(name string) string {
		conn, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"postgresql"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "hello\n")
		_ = conn.CloseWrite() // the router closes at once where no service is meant
		got, _ := io.ReadAll(conn)
		return string(got)
	}
	first, second := service("db", "db.test"), service("mq", "mq.test")
	r.apply([]model.TableService{first})
	for _, name := range []string{"db.test", "unknown.test", ""} {
		if got := said(name); got != "db-aaaaaa: hello\n" {
			t.Errorf("one service, name %q: %q", name, got)
		}
	}
	r.apply([]model.TableService{first, second})
	for name, want := range map[string]string{"db.test": "db-aaaaaa: hello\n", "mq.test": "mq-aaaaaa: hello\n", "unknown.test": "", "": ""} {
		if got := said(name); got != want {
			t.Errorf("two services, name %q: %q, want %q", name, got, want)
		}
	}
}

func TestHandshakesAreBounded(t *testing.T) {
	const most = 4
	r := startRouter(t, Limits{Handshakes: most, HandshakeTimeout: 300 * time.Millisecond})
	ca := newAuthority(t)
	r.apply([]model.TableService{r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"), backendServer(t, "web-aaaaaa", text("hello")))})
	var silent []net.Conn
	for range most + 2 {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
		// In turn, so that which one is the oldest is known.
		eventually(t, "the handshake has begun", func() bool {
			s := r.listeners[r.address].secure
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.waiting.Len() == min(most, len(silent))
		})
	}
	if cert, err := ca.shown(r.address, "shop.test"); err != nil || cert == nil {
		t.Errorf("an honest client while others say nothing: %v", err)
	}
	for i, conn := range silent {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("silent connection %d: %v, want its end", i, err)
		}
	}
}

func TestOnlyModernTLS(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	r.apply([]model.TableService{r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"))})
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: ca.pool, ServerName: "shop.test", MinVersion: version, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: ca.pool, ServerName: "shop.test", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}})
		want := slices.Contains(suites(), suite.ID) && strings.Contains(suite.Name, "_ECDSA_") // the test's key is one
		if (err == nil) != want {
			t.Errorf("%s: %v, want accepted %v", suite.Name, err, want)
		}
		if err == nil {
			conn.Close()
		}
	}
}

func TestRouterComesBackWithBrokenCertificate(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	broken, whole := ca.issue(model.TLS{}, "broken.test"), ca.issue(model.TLS{}, "whole.test")
	b := backendServer(t, "web-aaaaaa", text("hello"))
	table := []model.TableService{r.secureService("broken", "broken.test", broken), r.secureService("whole", "whole.test", whole, b)}
	r.apply(table)
	if err := os.Remove(broken.Cert); err != nil {
		t.Fatal(err)
	}
	again := startRouterIn(t, r.dir, Limits{})
	again.address, again.gen = freeAddress(t), r.gen
	for i := range table {
		table[i].Routes[0].Listen = again.address
	}
	if err := again.store.save(&model.Table{Epoch: 1, Generation: r.gen, Services: table}); err != nil {
		t.Fatal(err)
	}
	again.resume()
	if _, err := ca.shown(again.address, "broken.test"); err == nil {
		t.Error("a certificate is shown whose file is gone")
	}
	if _, err := ca.shown(again.address, "whole.test"); err != nil {
		t.Errorf("the other host: %v", err)
	}
	wantTrouble(t, again, "broken", "cannot read certificate: open "+broken.Cert)
	again.apply(table) // another deployment goes on
	ca.issue(broken, "broken.test")
	eventually(t, "the certificate that came back is shown", func() bool {
		_, err := ca.shown(again.address, "broken.test")
		return err == nil
	})
}

func TestWebSocketByTLS(t *testing.T) {
	r := startRouter(t, Limits{})
	frame := []byte{0x81, 0x85, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'}
	ca := newAuthority(t)
	echo := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.CopyN(conn, rw, int64(len(frame)))
		_, _ = io.Copy(io.Discard, rw) // the goodbye is not echoed
	})
	st := r.apply([]model.TableService{r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"), backendServer(t, "web-aaaaaa", echo))})
	conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: ca.pool, ServerName: "shop.test", NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", res, err)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(frame))
	if _, err := io.ReadFull(br, got); err != nil || string(got) != string(frame) {
		t.Fatalf("%q %v", got, err)
	}
	// The drain says goodbye through TLS as well.
	now := boottime()
	r.apply([]model.TableService{r.secureService("web", "shop.test", r.current.Load().table.Services[0].Routes[0].TLS)},
		model.Draining{Server: st.Servers[0].Server, Requests: now + int64(time.Second), Streams: now + int64(time.Second), WebSockets: now + int64(time.Second)})
	head := make([]byte, 4)
	if _, err := io.ReadFull(br, head); err != nil || head[0] != 0x88 || int(head[2])<<8|int(head[3]) != serviceRestart {
		t.Fatalf("% x %v, want a close with 1012", head, err)
	}
}

func TestStopSaysGoAway(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	arrived, answer := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-answer
		fmt.Fprint(w, "whole")
	})
	r.apply([]model.TableService{r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"), backendServer(t, "web-aaaaaa", slow))})
	got := make(chan string, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://shop.test/", nil)
		if err != nil {
			got <- err.Error()
			return
		}
		res, err := ca.client(r.address).Do(req)
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		got <- fmt.Sprint(res.Proto, string(body), err)
	}()
	<-arrived
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	eventually(t, "the listener is closed", func() bool {
		_, err := net.Dial("tcp", r.address)
		return err != nil
	})
	close(answer)
	if s := <-got; s != "HTTP/2.0whole<nil>" {
		t.Errorf("the request in flight: %s", s)
	}
	<-stopped
}
