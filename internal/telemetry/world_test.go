package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// world is what a Telemetry sees in a test: its fields are changed at will, and
// its time passes when it is told.
type world struct {
	t       testing.TB
	mu      sync.Mutex
	now     model.Now
	state   *model.State
	usage   map[model.ServerID]engine.Usage
	traffic []model.RouterTraffic
	err     error
	log     bytes.Buffer
}

const image = model.Digest("sha256:1111111111111111111111111111111111111111111111111111111111111111")

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, state: model.NewState(), usage: map[model.ServerID]engine.Usage{},
		now: model.Now{Wall: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), Elapsed: model.Instant(time.Hour)},
	}
	w.state.Services["shop"] = &model.Service{
		Name: "shop", InService: 2, Servers: map[model.ServerID]*model.Server{},
		Releases: []*model.Release{{Service: "shop", Number: 1}, {
			Service: "shop", Number: 2, Template: model.Template{Image: image}, Provenance: model.Provenance{Commit: "c0ffee"},
			Policy: model.Policy{Servers: 2},
		}},
	}
	return w
}

// server adds one that serves.
func (w *world) server(id model.ServerID) {
	w.state.Services["shop"].Servers[id] = &model.Server{
		ID: id, Service: "shop", Release: 2, Phase: model.PhaseServing, Health: model.Healthy, StartedAt: w.now.Wall, Address: "198.18.0.2:80",
	}
	w.usage[id] = engine.Usage{CPU: time.Second, Memory: 1 << 20, MemoryLimit: 1 << 30, PIDs: 3}
}

func (w *world) Usage(context.Context) (map[model.ServerID]engine.Usage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.usage, w.err
}

func (w *world) Traffic(context.Context) ([]model.RouterTraffic, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.traffic, w.err
}

func (w *world) View(f func(*model.State, *model.Snapshot)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.state, nil)
}

func (w *world) Now() model.Now {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.Wall, w.now.Elapsed = w.now.Wall.Add(d), w.now.Elapsed.Add(d)
}

// telemetry returns one with an open database, which the test collects into by
// itself.
func (w *world) telemetry(dir string) (*Telemetry, *store) {
	w.t.Helper()
	tl := New(Config{
		Dir: dir, Meter: w, Traffic: w, State: w, Clock: w, Version: "1.2.3",
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	st, err := openStore(dir, tl.cfg.Retention, tl.cfg.MaxBytes, tl.clockJumped, tl.cfg.Log)
	if err != nil {
		w.t.Fatal(err)
	}
	tl.store.Store(st)
	return tl, st
}

// counted is a router's counters for one server: so many requests of a
// millisecond.
func counted(router string, id model.ServerID, requests uint64) model.RouterTraffic {
	buckets := make([]uint64, len(model.LatencyBounds())+1)
	buckets[0] = requests
	return model.RouterTraffic{Router: router, Counters: []model.Traffic{{
		Service: "shop", Release: 2, Server: id, Requests: requests, Status: [6]uint64{2: requests},
		Buckets: buckets, Millis: float64(requests),
	}}}
}

// value asks for the one number that the query comes to.
func (w *world) value(tl *Telemetry, query string) string {
	w.t.Helper()
	a, err := tl.Query(w.t.Context(), query, w.Now().Wall)
	if err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
	lines := strings.Split(a.Result.String(), "\n")
	if len(lines) != 1 {
		w.t.Fatalf("%s: %s", query, a.Result)
	}
	_, v, _ := strings.Cut(lines[0], "=> ")
	v, _, _ = strings.Cut(v, " @")
	return v
}

// get asks the handler.
func get(t *testing.T, tl *Telemetry, target string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	tl.Handler().ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func at(path string, pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return fmt.Sprintf("%s?%s", path, v.Encode())
}
