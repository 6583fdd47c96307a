package main

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func open(t *testing.T, env map[string]string) *httptest.Server {
	t.Helper()
	m, err := mistakesFromEnv(func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(newShop(m))
	t.Cleanup(srv.Close)
	return srv
}

func TestSelftestPasses(t *testing.T) {
	srv := open(t, nil)
	var out bytes.Buffer
	if err := selftest(srv.Listener.Addr().String(), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "all well") {
		t.Errorf("selftest said %q", &out)
	}
}

func TestSelftestFailsOnAnUnhealthyShop(t *testing.T) {
	srv := open(t, map[string]string{"SHOP_FAIL_HEALTH": "500"})
	err := selftest(srv.Listener.Addr().String(), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("selftest of an unhealthy shop: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for mistake, want := range map[string]int{"": 200, "500": 500, "redirect": 302} {
		res, err := client.Get(open(t, map[string]string{"SHOP_FAIL_HEALTH": mistake}).URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("SHOP_FAIL_HEALTH=%q: %d, want %d", mistake, res.StatusCode, want)
		}
	}
	if _, err := mistakesFromEnv(func(string) string { return "x" }); err == nil {
		t.Error("SHOP_EXIT=x was accepted")
	}
}

func TestBoundsAreHeld(t *testing.T) {
	srv := open(t, nil)
	for _, path := range []string{"/big?bytes=999999999", "/slow?ms=-1", "/stream?events=x"} {
		res, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s answered %d", path, res.StatusCode)
		}
	}
}

func TestServeSaysWhyItCannot(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	err = serve(mistakes{listen: taken.Addr().String()}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "cannot serve on") {
		t.Errorf("serve on a taken port: %v", err)
	}
}
