package router

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/model"
)

// watched is a server that knows when nobody may reach it.
type watched struct {
	model.Upstream
	arrived   atomic.Int64 // requests that have reached it
	forbidden atomic.Bool  // a switch without it was acknowledged, and nothing is in flight
	breaches  *atomic.Int64
}

func (w *watched) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	w.arrived.Add(1)
	if w.forbidden.Load() {
		w.breaches.Add(1)
	}
	_, _ = io.Copy(io.Discard, req.Body)
	if ms := req.URL.Query().Get("ms"); ms != "" {
		d, _ := time.ParseDuration(ms + "ms")
		time.Sleep(d)
	}
	if w.forbidden.Load() {
		w.breaches.Add(1)
	}
	_, _ = io.WriteString(rw, string(w.Server))
}

// TestHammerAcknowledgedSwitch switches between random sets of servers under
// load, over both protocols and with retries (one address of each table has
// nobody listening, so dials fail and go elsewhere). After each
// acknowledgement it holds every server that the table does not have to it:
// not more requests arrive than were reported in flight, and none once nothing
// is. It has to fail when dispatch does not read the routing again.
func TestHammerAcknowledgedSwitch(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		t.Run(string(protocol), func(t *testing.T) { hammer(t, protocol) })
	}
}

func hammer(t *testing.T, protocol model.Protocol) {
	r := startRouter(t, Limits{})
	var breaches atomic.Int64
	pool := make([]*watched, 6)
	for i := range pool {
		w := &watched{breaches: &breaches}
		w.Upstream = backendServer(t, fmt.Sprintf("web-aaaaa%c", 'a'+i), w)
		pool[i] = w
	}
	dead := model.Upstream{Server: "web-zzzzzz", Release: 1, Address: freeAddress(t)}
	r.serve(protocol, pool[0].Upstream)

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var load sync.WaitGroup
	var served, failed atomic.Int64
	for i := range 8 {
		load.Go(func() { pound(ctx, t, r, i, &served, &failed) })
	}
	switches := 0
	for ctx.Err() == nil {
		switchAndCheck(t, r, protocol, pool, dead)
		switches++
	}
	load.Wait()
	t.Logf("%d switches, %d requests, %d failed", switches, served.Load(), failed.Load())
	if breaches.Load() > 0 {
		t.Errorf("%d requests reached a server after an acknowledged switch without it", breaches.Load())
	}
	if failed.Load() > 0 {
		t.Errorf("%d requests failed", failed.Load())
	}
	if switches < 50 || served.Load() < 200 {
		t.Errorf("only %d switches and %d requests: that proves nothing", switches, served.Load())
	}
}

// switchAndCheck applies a random non-empty set and holds the others to it.
func switchAndCheck(t *testing.T, r *testRouter, protocol model.Protocol, pool []*watched, dead model.Upstream) {
	in := map[model.ServerID]bool{}
	backends := []model.Upstream{dead}
	for _, i := range rand.Perm(len(pool))[:1+rand.IntN(3)] {
		pool[i].forbidden.Store(false)
		in[pool[i].Server] = true
		backends = append(backends, pool[i].Upstream)
	}
	var out []*watched
	var draining []model.Draining
	later := boottime() + int64(time.Minute)
	for _, w := range pool {
		if !in[w.Server] {
			out = append(out, w)
			draining = append(draining, model.Draining{Server: w.Server, Address: w.Address, Requests: later, Streams: later, WebSockets: later})
		}
	}
	st := r.apply([]model.TableService{r.service(protocol, backends...)}, draining...)
	// What has arrived is read after the acknowledgement: each that arrives
	// from now on must be among those reported in flight.
	type bound struct {
		w     *watched
		limit int64
	}
	var bounds []bound
	for _, w := range out {
		a, _ := of(st, w.Server)
		if a.InFlight.Total() == 0 {
			w.forbidden.Store(true)
		}
		bounds = append(bounds, bound{w, w.arrived.Load() + int64(a.InFlight.Total())})
	}
	time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
	for _, b := range bounds {
		if n := b.w.arrived.Load(); n > b.limit {
			t.Errorf("%d requests reached %s, %d were in flight when the switch was acknowledged", n, b.w.Server, b.limit)
		}
	}
	st = r.Status()
	for _, w := range out {
		if a, _ := of(st, w.Server); a.InFlight.Total() == 0 {
			w.forbidden.Store(true)
		}
	}
}

// pound sends requests of all kinds until ctx ends.
func pound(ctx context.Context, t *testing.T, r *testRouter, worker int, served, failed *atomic.Int64) {
	c := client(t, worker%2 == 1)
	for n := 0; ctx.Err() == nil; n++ {
		method, url, body := "GET", r.url("/"), io.Reader(nil)
		switch n % 4 {
		case 1:
			url += fmt.Sprintf("?ms=%d", rand.IntN(8))
		case 2:
			method, body = "POST", strings.NewReader("a small body")
		case 3:
			method, body = "POST", struct{ io.Reader }{strings.NewReader(strings.Repeat("chunked ", 100))}
		}
		req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), method, url, body)
		if err != nil {
			t.Error(err)
			return
		}
		res, err := c.Do(req)
		if err != nil {
			failed.Add(1)
			t.Logf("%s %s: %v", method, url, err)
			continue
		}
		out, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 {
			failed.Add(1)
			t.Logf("%s %s: %s %q %v", method, url, res.Status, out, err)
		}
		served.Add(1)
	}
}

// TestSlowDialMeetsSwitch lets the switch come while a request waits for its
// connection: the request has to end up at a server of the new table.
func TestSlowDialMeetsSwitch(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		t.Run(string(protocol), func(t *testing.T) {
			r := startRouter(t, Limits{})
			old := stalledServer(t, "web-oldold")
			fresh := backendServer(t, "web-newnew", text("new"))
			r.serve(protocol, old.Upstream)
			c := client(t, false)
			answer := make(chan string, 1)
			go func() {
				_, body := do(t, c, "POST", r.url("/"), strings.NewReader("x"))
				answer <- body
			}()
			eventually(t, "the request waits for its connection", func() bool {
				a, _ := of(r.Status(), "web-oldold")
				return a.InFlight.Total() == 1
			})
			time.Sleep(20 * time.Millisecond) // it is dialling now
			later := boottime() + int64(time.Minute)
			st := r.apply([]model.TableService{r.service(protocol, fresh)},
				model.Draining{Server: "web-oldold", Address: old.Address, Requests: later, Streams: later, WebSockets: later})
			if a, _ := of(st, "web-oldold"); a.InFlight.Total() != 1 {
				t.Fatalf("the acknowledgement hides the waiting request: %+v", a)
			}
			old.open()
			if body := <-answer; body != "new" {
				t.Errorf("the request was answered %q", body)
			}
			if n := old.requests.Load(); n > 0 {
				t.Errorf("%d requests reached the old server", n)
			}
		})
	}
}

// stalled is a server whose backlog is full, so that connecting takes until it
// begins to accept.
type stalled struct {
	model.Upstream
	l        net.Listener
	fillers  []net.Conn
	requests atomic.Int64
	opened   sync.Once
	server   *http.Server
}

func stalledServer(t *testing.T, id string) *stalled {
	t.Helper()
	l := listenBacklog(t, 0)
	s := &stalled{l: l, Upstream: model.Upstream{Server: model.ServerID(id), Release: 1, Address: l.Addr().String()}}
	// A backlog of n takes n+1 connections; the next one's SYN is dropped.
	for range 8 {
		conn, err := net.DialTimeout("tcp", s.Address, 50*time.Millisecond)
		if err != nil {
			break
		}
		s.fillers = append(s.fillers, conn)
	}
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s.server = &http.Server{ReadHeaderTimeout: time.Minute, Protocols: p, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.requests.Add(1)
		_, _ = io.WriteString(w, "old")
	})}
	t.Cleanup(func() { _ = s.server.Close(); _ = l.Close() })
	return s
}

// open begins to accept.
func (s *stalled) open() {
	s.opened.Do(func() {
		for _, c := range s.fillers {
			_ = c.Close()
		}
		go func() { _ = s.server.Serve(s.l) }()
	})
}
