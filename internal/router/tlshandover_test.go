package router

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/model"
)

// TestHandOverByTLS: handshakes, requests on kept connections that nobody may
// repeat, and HTTP/2 outlive one hand-over after another.
func TestHandOverByTLS(t *testing.T) {
	p := newProcesses(t)
	p.startKeeper()
	p.awaitRouter("")
	ca := newAuthority(t)
	p.gen++
	_, err := p.router.Apply(t.Context(), model.Table{Epoch: 1, Generation: p.gen, Services: []model.TableService{{
		Name: "web", Release: 1, Protocol: model.HTTP, Backends: []model.Upstream{answers(t, "web-aaaaaa")},
		Routes: []model.Route{{Listen: p.address, Host: "shop.test", TLS: ca.issue(model.TLS{}, "shop.test")}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var served, failed atomic.Int64
	var load sync.WaitGroup
	press := func(what string, h2, keep bool) {
		c := ca.client(p.address)
		tr, _ := c.Transport.(*http.Transport)
		if !h2 {
			tr.ForceAttemptHTTP2, tr.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
		}
		tr.DisableKeepAlives = !keep
		load.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if err := echoOnce(c, fmt.Sprintf("body %d", n), h2); err != nil && failed.Add(1) < 10 {
					t.Errorf("%s: %v", what, err)
				}
				served.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	press("HTTP/1.1, kept", false, true)
	press("HTTP/1.1, fresh", false, false)
	press("HTTP/2, kept", true, true)
	press("HTTP/2, fresh", true, false)
	for last := p.awaitRouter("").ID; p.gen <= 4; p.gen++ {
		time.Sleep(200 * time.Millisecond)
		if err := p.succession().Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		last = p.awaitRouter(last).ID
	}
	time.Sleep(100 * time.Millisecond)
	stop.Store(true)
	load.Wait()
	p.one()
	t.Logf("%d served, %d failed", served.Load(), failed.Load())
	if served.Load() < 100 {
		t.Errorf("only %d served: that proves nothing", served.Load())
	}
}

// echoOnce posts the body and wants it back. By HTTP/1.1 the client has no way
// to send it again.
func echoOnce(c *http.Client, body string, again bool) error {
	var src io.Reader = strings.NewReader(body)
	if !again {
		src = struct{ io.Reader }{src}
	}
	req, err := http.NewRequest(http.MethodPost, "https://shop.test/echo", src)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err == nil && string(got) != body {
		err = fmt.Errorf("%s %q", res.Status, got)
	}
	return err
}
