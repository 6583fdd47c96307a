package router

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"kiln/internal/model"
)

// showHeaders answers with the request's head as the server saw it.
func showHeaders(w http.ResponseWriter, req *http.Request) {
	h := req.Header.Clone()
	h.Set("Seen-Host", req.Host)
	h.Set("Seen-Target", req.RequestURI)
	w.Header().Set("X-Answer", "kept")
	w.Header().Set("Keep-Alive", "timeout=1")
	w.Header().Set("X-Hop", "dropped")
	w.Header().Set("Connection", "X-Hop")
	w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
	_ = json.NewEncoder(w).Encode(h)
}

func TestHeaders(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		r := startRouter(t, Limits{})
		r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(showHeaders)))
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/a%2Fb/../c?q=%20;x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.example.com:8080"
		for k, v := range map[string]string{
			"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil", "X-Forwarded-Port": "1",
			"Forwarded": "for=6.6.6.6", "X-Real-Ip": "6.6.6.6", "X_forwarded_for": "6.6.6.6", "X-Forwarded_For": "6.6.6.6", "X_Real_IP": "6.6.6.6",
			"Connection": "X-Mine, keep-alive", "X-Mine": "hop", "Keep-Alive": "x", "Proxy-Connection": "x", "Proxy-Authorization": "secret",
			"Te": "gzip, trailers", "Cookie": "c=1", "X-Custom": "kept", "User-Agent": "",
		} {
			req.Header[http.CanonicalHeaderKey(k)] = []string{v}
		}
		res, body := doRequest(t, client(t, false), req)
		var seen http.Header
		if err := json.Unmarshal([]byte(body), &seen); err != nil {
			t.Fatalf("%s %q: %v", res.Status, body, err)
		}
		want := map[string]string{
			"Seen-Host": "shop.example.com:8080", "Seen-Target": "/a%2Fb/../c?q=%20;x",
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "shop.example.com:8080",
			"Forwarded": `for=127.0.0.1;host="shop.example.com:8080";proto=http`,
			"Te":        "trailers", "Cookie": "c=1", "X-Custom": "kept", "Accept-Encoding": "",
		}
		for k, v := range want {
			if got := strings.Join(seen[k], "|"); got != v {
				t.Errorf("%s: %s is %q, want %q", protocol, k, got, v)
			}
			delete(seen, k)
		}
		if len(seen) > 0 {
			t.Errorf("%s: the server saw also %v", protocol, seen)
		}
		if res.Header.Get("X-Answer") != "kept" || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Keep-Alive") != "" {
			t.Errorf("%s: the client saw %v", protocol, res.Header)
		}
		if protocol == model.HTTP && res.Header.Get("X-Hop") != "" {
			t.Errorf("a hop-by-hop header of the server reached the client")
		}
	}
}

// TestUpgradeRequired: an answer that says that another protocol is required
// says which, by both ways of HTTP/1.1, and by HTTP/2 says nothing that must not
// be there.
func TestUpgradeRequired(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header()["Upgrade"] = []string{"websocket, x/1"}
		w.Header().Set("Connection", "Upgrade, X-Hop")
		w.Header().Set("X-Hop", "dropped")
		if req.URL.Path == "/required" {
			w.WriteHeader(http.StatusUpgradeRequired)
		}
	})))
	for _, c := range []struct {
		name, head, path string
		passed           bool
	}{
		{"short way", " HTTP/1.1", "/required", true},
		{"long way", " HTTP/1.1\r\nTe: trailers", "/required", true},
		{"HTTP/1.0", " HTTP/1.0\r\nConnection: keep-alive", "/required", false},
		{"short way, another status", " HTTP/1.1", "/", false},
		{"long way, another status", " HTTP/1.1\r\nTe: trailers", "/", false},
	} {
		conn, br := dialRouter(t, r)
		_, _ = io.WriteString(conn, "GET "+c.path+c.head+"\r\nHost: x\r\n\r\n")
		res, _ := answerOf(t, br, "GET")
		upgrade, connection := res.Header.Get("Upgrade") == "websocket, x/1", hasToken(res.Header["Connection"], "upgrade")
		if upgrade != c.passed || connection != c.passed || res.Header.Get("X-Hop") != "" || res.Close {
			t.Errorf("%s: %s %v", c.name, res.Status, res.Header)
		}
	}
	res, _ := do(t, client(t, true), "GET", r.url("/required"), nil)
	if res.StatusCode != http.StatusUpgradeRequired || res.Header["Upgrade"] != nil || res.Header["Connection"] != nil {
		t.Errorf("HTTP/2: %s %v", res.Status, res.Header)
	}
}

// TestRefusalsInJSON: the form follows what the client accepts.
func TestRefusalsInJSON(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP)
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.url(`/"quoted"`), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	res, body := doRequest(t, client(t, false), req)
	var e struct{ Code, Error string }
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Code != "no_server" || res.StatusCode != 503 {
		t.Errorf("%s %q %v", res.Status, body, err)
	}
	if res, body := do(t, client(t, false), "HEAD", r.url("/"), nil); res.StatusCode != 503 || body != "" {
		t.Errorf("HEAD: %s %q", res.Status, body)
	}
}
