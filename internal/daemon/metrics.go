package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"kiln/internal/model"
	"kiln/internal/router"
	"kiln/internal/telemetry"
)

// Traffic implements telemetry.Traffic. A router that is gone has no counters;
// one that is silent makes the answer incomplete, and an error.
func (r routers) Traffic(ctx context.Context) ([]model.RouterTraffic, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var all []model.RouterTraffic
	var errs []error
	for _, c := range router.All(r.runDir) {
		wg.Go(func() {
			t, err := c.Counters(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				all = append(all, t)
			case !router.Gone(err):
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// failures counts the requests that failed. The routers are asked at most once a
// second, however often it is asked.
type failures struct {
	metrics *telemetry.Telemetry

	mu   sync.Mutex
	at   time.Time
	last map[model.ServerID]uint64
}

// Failed implements control.Failed. Where the routers do not answer, what they
// last said stands.
func (f *failures) Failed() map[model.ServerID]uint64 {
	const often, patience = time.Second, 2 * time.Second
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.at) < often {
		return f.last
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if now, err := f.metrics.Failed(ctx); err == nil {
		f.last = now
	}
	f.at = time.Now()
	return f.last
}

// startMetrics keeps metrics, and serves them where that is wanted.
func (d *daemon) startMetrics(ctx context.Context) {
	d.running.Go(func() { d.keepMetrics(ctx) })
	if d.cfg.MetricsListen != "" {
		d.running.Go(func() { d.serveMetrics(ctx) })
	}
}

// keepMetrics keeps metrics until ctx ends.
func (d *daemon) keepMetrics(ctx context.Context) {
	if err := d.metrics.Run(ctx); err != nil {
		d.cfg.Log.Error("no metrics are kept", "error", err)
	}
}

func (d *daemon) newMetrics(state telemetry.State) *telemetry.Telemetry {
	return telemetry.New(telemetry.Config{
		Dir: filepath.Join(d.cfg.DataDir, "metrics"), Meter: d.engine, Traffic: newRouters(d.runDir), State: state, Clock: d.clock,
		Version: d.cfg.Version, Retention: d.cfg.MetricsRetention, MaxBytes: d.cfg.MetricsSize, Log: d.cfg.Log,
	})
}

// serveMetrics answers questions about metrics on an address of their own, until
// ctx ends.
func (d *daemon) serveMetrics(ctx context.Context) {
	listen := func(ctx context.Context) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.MetricsListen)
	}
	d.serveAgain(ctx, "metrics", listen, &http.Server{
		Handler: d.metrics.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	})
}
