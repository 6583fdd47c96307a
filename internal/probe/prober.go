package probe

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"kiln/internal/model"
)

// firstPause is how soon a server that has not passed once is asked again; the
// pause grows from there to the interval, so that one that starts quickly is
// not kept waiting for an interval that is meant for later. A command costs a
// process each time, so it begins slower.
const (
	firstPause     = 20 * time.Millisecond
	firstPauseExec = 200 * time.Millisecond
)

// Config is what a Prober works with.
type Config struct {
	Dialer Dialer
	Exec   Execer
	Now    func() model.Instant // stamps the observations
	Log    *slog.Logger
}

// Prober watches the health of servers. Its methods may be called at once.
type Prober struct {
	cfg     Config
	means   means
	changes chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	watches map[model.ServerID]*watch
}

// watch is the probing of one server.
type watch struct {
	target Target
	stop   context.CancelFunc
	tally  tally
}

// New returns a Prober that watches nothing yet. Close it.
func New(cfg Config) *Prober {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Prober{
		cfg: cfg, means: means{cfg.Dialer, cfg.Exec},
		changes: make(chan struct{}, 1), watches: map[model.ServerID]*watch{},
	}
}

// Sync makes the targets the ones that are watched. A server whose check is
// another than before starts as unknown again; one whose check is the same
// goes on.
func (p *Prober) Sync(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	wanted := make(map[model.ServerID]bool, len(targets))
	for _, t := range targets {
		wanted[t.Ref.ID] = true
		p.watchLocked(t)
	}
	for id, w := range p.watches {
		if !wanted[id] {
			w.stop()
			delete(p.watches, id)
		}
	}
}

func (p *Prober) watchLocked(t Target) {
	if w := p.watches[t.Ref.ID]; w != nil {
		if w.target.sameCheck(t) {
			w.target.Ref = t.Ref
			w.tally.proven = w.tally.proven || t.Proven
			return
		}
		w.stop()
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &watch{target: t, stop: stop, tally: newTally(t.Health, t.Proven)}
	p.watches[t.Ref.ID] = w
	p.running.Go(func() { p.run(ctx, w) })
}

// Health returns the standing results of all that is watched.
func (p *Prober) Health() map[model.ServerID]model.HealthObserved {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[model.ServerID]model.HealthObserved, len(p.watches))
	for id, w := range p.watches {
		all[id] = w.tally.seen
	}
	return all
}

// Changes returns a channel that holds a value after a status has changed.
func (p *Prober) Changes() <-chan struct{} { return p.changes }

// Close stops all probes and waits for them.
func (p *Prober) Close() {
	p.Sync(nil)
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.running.Wait()
}

// run probes one server until ctx ends.
func (p *Prober) run(ctx context.Context, w *watch) {
	pause := firstPause
	if p.targetOf(w).Health.Kind == model.CheckExec {
		pause = firstPauseExec
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		target := p.targetOf(w)
		passed, detail, why := (&unasked{means: p.means}).healthy(ctx, target)
		if ctx.Err() != nil {
			return
		}
		interval := jittered(positive(target.Health.Interval.D(), time.Second))
		if why != nil {
			p.cfg.Log.Warn("cannot ask a server; what is known of it stands", "server", string(target.Ref.ID), "error", why, "hint", model.Exhausted(why))
			timer.Reset(interval)
			continue
		}
		if p.record(w, passed, detail) {
			interval = min(interval, pause)
			pause += pause / 2
		}
		timer.Reset(max(0, interval-time.Since(began)))
	}
}

func (p *Prober) targetOf(w *watch) Target {
	p.mu.Lock()
	defer p.mu.Unlock()
	return w.target
}

// record takes a result and reports whether the server is still starting.
func (p *Prober) record(w *watch, passed bool, detail string) (starting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watches[w.target.Ref.ID] != w {
		return false
	}
	if w.tally.count(passed, detail, p.cfg.Now()) {
		p.cfg.Log.Info("health changed", "server", string(w.target.Ref.ID), "status", string(w.tally.seen.Status), "detail", detail)
		select {
		case p.changes <- struct{}{}:
		default:
		}
	}
	return w.tally.starting()
}

// jittered spreads the probes of many servers: up to a tenth less or more.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}
