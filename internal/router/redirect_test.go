package router

import (
	"net"
	"net/http"
	"testing"

	"kiln/internal/model"
)

func TestRedirects(t *testing.T) {
	r := startRouter(t, Limits{})
	ca := newAuthority(t)
	secure := freeAddress(t)
	_, port, _ := net.SplitHostPort(secure)
	files := ca.issue(model.TLS{}, "shop.test", "*.wild.test")
	plain := func(host, path, redirect string) model.Route {
		return model.Route{Listen: r.address, Host: host, Path: path, Redirect: redirect}
	}
	r.apply([]model.TableService{{
		Name: "web", Release: 7,
		Routes: []model.Route{
			{Listen: secure, Host: "shop.test", TLS: files},
			{Listen: secure, Host: "*.wild.test", TLS: files},
			plain("shop.test", "", "https"), plain("*.wild.test", "", "https"),
			plain("old.test", "", "https://new.test/"), plain("before.test", "", "https"),
			plain("part.test", "/moved", "http://part.test:8080"), plain("part.test", "", ""),
			plain("", "", "https"),
		},
		Backends: []model.Upstream{backendServer(t, "web-aaaaaa", text("hello"))},
	}})
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, c := range []struct {
		method, host, target string
		status               int
		location             string
	}{
		{"GET", "shop.test", "/a?b=c&d=%2F", 308, "https://shop.test:" + port + "/a?b=c&d=%2F"},
		{"POST", "shop.test:80", "/a", 308, "https://shop.test:" + port + "/a"},
		{"HEAD", "SHOP.test.", "/", 308, "https://shop.test:" + port + "/"},
		{"GET", "x.wild.test", "/a//b/", 308, "https://x.wild.test:" + port + "/a//b/"},
		{"GET", "old.test", "/a/b?c", 308, "https://new.test/a/b?c"},
		{"GET", "before.test", "/", 308, "https://before.test/"},
		{"GET", "part.test", "/moved/x", 308, "http://part.test:8080/moved/x"},
		{"GET", "part.test", "/movedaway", 200, ""},
		{"GET", "unknown.test", "/", 308, "https://unknown.test/"},
		{"GET", "evil.test/x", "/", 400, ""},
		{"GET", `a"b`, "/", 400, ""},
		{"GET", "[2001:db8::1]:80", "/", 308, "https://[2001:db8::1]/"},
	} {
		req, err := http.NewRequest(c.method, "http://"+r.address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.URL.Opaque = c.host, c.target
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", c.host, c.target, err)
		}
		res.Body.Close()
		if res.StatusCode != c.status || res.Header.Get("Location") != c.location {
			t.Errorf("%s %s%s: %d to %q, want %d to %q", c.method, c.host, c.target, res.StatusCode, res.Header.Get("Location"), c.status, c.location)
		}
	}
}

// A declared host stands for itself, whatever the request says.
func TestRedirectIgnoresForgedHost(t *testing.T) {
	d := newRedirect(&model.Route{Host: "shop.test", Redirect: "https"}, "")
	for _, forged := range []string{"evil.test", "shop.test@evil.test", "", "shop.test:80"} {
		if got := d.location(forged, "/a"); got != "https://shop.test/a" {
			t.Errorf("host %q: %s", forged, got)
		}
	}
	if got := d.location("shop.test", "/\u00e9\"<>\\ \r\n"); got != "https://shop.test/%C3%A9%22%3C%3E%5C%20%0D%0A" {
		t.Errorf("target: %s", got)
	}
	if got := d.location("shop.test", "//evil.test/"); got != "https://shop.test//evil.test/" {
		t.Errorf("two slashes: %s", got)
	}
	if got := d.location("shop.test", "*"); got != "https://shop.test/" {
		t.Errorf("OPTIONS *: %s", got)
	}
}
