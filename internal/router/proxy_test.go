package router

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

// client returns a client of its own for a test. h2 speaks HTTP/2 in clear.
func client(t testing.TB, h2 bool) *http.Client {
	p := &http.Protocols{}
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: p, MaxIdleConnsPerHost: 64, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func do(t testing.TB, c *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return doRequest(t, c, req)
}

func doRequest(t testing.TB, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	return res, string(b)
}

// sumHandler answers with the checksum of what it got.
func sumHandler(w http.ResponseWriter, req *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, req.Body)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	w.Header().Set("X-Length", hex.EncodeToString([]byte{byte(n)}))
	_, _ = io.WriteString(w, hex.EncodeToString(h.Sum(nil)))
}

func TestBodiesArriveWhole(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		r := startRouter(t, Limits{})
		r.serve(protocol, backendServer(t, "web-aaaaaa", http.HandlerFunc(sumHandler)), backendServer(t, "web-bbbbbb", http.HandlerFunc(sumHandler)))
		for _, h2 := range []bool{false, true} {
			c := client(t, h2)
			for _, size := range []int{0, 1, 4095, 4096, 65536, 65537, 3 << 20} {
				for _, chunked := range []bool{false, true} {
					data := make([]byte, size)
					_, _ = rand.Read(data)
					sum := sha256.Sum256(data)
					var body io.Reader = bytes.NewReader(data)
					if chunked {
						body = struct{ io.Reader }{body}
					}
					res, got := do(t, c, "POST", r.url("/up"), body)
					if res.StatusCode != 200 || got != hex.EncodeToString(sum[:]) {
						t.Errorf("%s, h2 client %v, %d bytes, chunked %v: %s %q", protocol, h2, size, chunked, res.Status, got)
					}
				}
			}
		}
		st := r.Status()
		for _, s := range st.Servers {
			if s.InFlight.Total() != 0 {
				t.Errorf("%s has %+v in flight when all is done", s.Server, s.InFlight)
			}
		}
	}
}

func TestNoRouteAndNoServer(t *testing.T) {
	r := startRouter(t, Limits{})
	svc := r.service(model.HTTP)
	svc.Routes[0].Host = "shop.example.com"
	r.apply([]model.TableService{svc})
	c := client(t, false)
	res, body := do(t, c, "GET", r.url("/x"), nil)
	if res.StatusCode != 404 || !strings.Contains(body, "no route") {
		t.Errorf("unknown host: %s %q", res.Status, body)
	}
	req, _ := http.NewRequestWithContext(context.Background(), "GET", r.url("/"), nil)
	req.Host = "shop.example.com"
	res, body = doRequest(t, c, req)
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("no server: %s %q", res.Status, body)
	}
}
