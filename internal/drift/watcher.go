// Package drift has servers compared with their templates, again and again, and
// keeps what was found. It decides nothing: what follows from a finding is
// package reconcile's.
//
// Each server is glanced at when its engine raises an alarm, and every interval
// of its policy besides; servers of the same interval in one go, as they share
// what is looked at. Once a day every byte of an image's layers is read, one
// image at a time, so slowly that nobody notices.
package drift

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// How often the work is looked for, and the least between two looks at the same
// server, however often there is alarm.
const (
	tick     = time.Second
	hurry    = 250 * time.Millisecond
	leastGap = 500 * time.Millisecond
)

// settle is how long after a disturbance a server is left alone: what was seen of
// it meanwhile is forgotten then.
const settle = 7 * time.Second

// The fleet is looked at this often, besides alarms.
const fleetInterval = 30 * time.Second

// Every byte is read again after wholeEvery; a first time wholeFirst after an
// image was first seen; one that could not be read, after wholeAgain.
const (
	wholeEvery = 23 * time.Hour
	wholeFirst = time.Minute
	wholeAgain = 10 * time.Minute
)

// Target is a server that is watched.
type Target struct {
	Server   model.ServerID
	Image    model.Digest
	Interval time.Duration
	Muted    bool // it is disturbed on purpose: what would be seen of it is no drift
}

// Config is what a Watcher works with.
type Config struct {
	Inspector engine.Inspector
	Sentinel  engine.Sentinel      // nil: there are no alarms
	Targets   func() []Target      // who is to be watched now
	Now       func() model.Instant // elapsed time
	Log       *slog.Logger
}

// Watcher keeps what the latest inspections have found. Its methods may be called
// at once.
type Watcher struct {
	cfg     Config
	changes chan struct{}

	mu      sync.Mutex
	targets map[model.ServerID]Target
	looked  map[model.ServerID]model.Instant // when the latest look began
	urgent  map[model.ServerID]bool          // "": the fleet
	found   map[model.ServerID][]model.Finding
	muted   map[model.ServerID]model.Instant // when it was last disturbed
	fleet   []model.Finding
	fleetAt model.Instant
	whole   map[model.Digest]model.Instant // when every byte is due
	failing map[model.ServerID]string      // what could not be looked at, so that it is said once
}

// New returns a Watcher that watches nothing until it runs.
func New(cfg Config) *Watcher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{
		cfg: cfg, changes: make(chan struct{}, 1),
		targets: map[model.ServerID]Target{}, looked: map[model.ServerID]model.Instant{}, urgent: map[model.ServerID]bool{},
		muted: map[model.ServerID]model.Instant{}, found: map[model.ServerID][]model.Finding{}, whole: map[model.Digest]model.Instant{}, failing: map[model.ServerID]string{},
	}
}

// Changes returns a channel that holds a value after something else was found
// than before.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Standing returns what the latest inspections have found.
func (w *Watcher) Standing() model.Inspections {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := model.Inspections{Servers: make(map[model.ServerID][]model.Finding, len(w.found)), Fleet: w.fleet, FleetAt: w.fleetAt}
	maps.Copy(out.Servers, w.found)
	return out
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { w.patiently(ctx) })
	var alarms <-chan model.ServerID
	if w.cfg.Sentinel != nil {
		alarms = w.cfg.Sentinel.Alarms(ctx)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case id, open := <-alarms:
			if !open {
				alarms = nil
				continue
			}
			w.mu.Lock()
			w.urgent[id] = true
			w.mu.Unlock()
		case <-timer.C:
		}
		timer.Reset(w.round(ctx))
	}
}

// round looks at whatever is due and returns when to look for work again.
func (w *Watcher) round(ctx context.Context) time.Duration {
	for _, id := range w.due() {
		if ctx.Err() != nil {
			return tick
		}
		if id == "" {
			w.lookAtFleet(ctx)
		} else {
			_, _ = w.look(ctx, id, engine.Glance) // it was said
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.urgent) > 0 {
		return hurry
	}
	return tick
}

// due brings the targets up to date and returns who is to be looked at now.
func (w *Watcher) due() []model.ServerID {
	targets := w.cfg.Targets()
	now := w.cfg.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retargetLocked(targets, now)
	var due []model.ServerID
	for id, t := range w.targets {
		last, looked := w.looked[id]
		switch {
		case t.Muted:
		case !looked, w.urgent[id] && now.Sub(last) >= leastGap, turn(now, t.Interval) != turn(last, t.Interval):
			due = append(due, id)
		}
	}
	slices.Sort(due)
	for id := range w.urgent {
		if _, watched := w.targets[id]; !watched && id != "" {
			delete(w.urgent, id)
		}
	}
	if w.fleetAt == 0 || turn(now, fleetInterval) != turn(w.fleetAt, fleetInterval) || (w.urgent[""] && now.Sub(w.fleetAt) >= tick) {
		due = append(due, "")
	}
	return due
}

// turn numbers the intervals since the beginning of time: servers of the same
// interval have their turn together.
func turn(at model.Instant, interval time.Duration) int64 {
	return int64(at) / int64(max(interval, tick))
}

func (w *Watcher) retargetLocked(targets []Target, now model.Instant) {
	clear(w.targets)
	for _, t := range targets {
		if t.Muted {
			w.muted[t.Server] = now
		} else if at, was := w.muted[t.Server]; was {
			if t.Muted = now.Sub(at) < settle; !t.Muted {
				delete(w.muted, t.Server)
			}
		}
		w.targets[t.Server] = t
	}
	gone := func(id model.ServerID) bool { _, is := w.targets[id]; return !is }
	for id := range w.looked {
		if gone(id) {
			delete(w.looked, id)
			delete(w.muted, id)
			delete(w.found, id)
			delete(w.failing, id)
		}
	}
}

// look inspects a server and keeps what is found.
func (w *Watcher) look(ctx context.Context, id model.ServerID, depth engine.Depth) ([]model.Finding, error) {
	began := w.cfg.Now()
	w.mu.Lock()
	delete(w.urgent, id)
	if depth == engine.Glance {
		w.looked[id] = began
	}
	w.mu.Unlock()
	found, err := w.cfg.Inspector.Inspect(ctx, id, depth)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.complainLocked(id, err)
	if model.CodeOf(err) == model.NotFound {
		return nil, err
	}
	if _, watched := w.targets[id]; !watched {
		return found, err
	}
	before := w.found[id]
	if err != nil {
		// What could not be looked at stands as it was.
		found = union(found, before)
		if len(found) == 0 {
			return found, err
		}
	}
	found = sinceFirst(found, before)
	w.found[id] = found
	if !sameFindings(found, before) {
		w.changed()
	}
	return found, err
}

func (w *Watcher) lookAtFleet(ctx context.Context) {
	began := max(w.cfg.Now(), 1)
	w.mu.Lock()
	delete(w.urgent, "")
	w.mu.Unlock()
	found, err := w.cfg.Inspector.InspectFleet(ctx)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.complainLocked("", err)
	if err != nil {
		found = union(found, w.fleet)
	}
	found = sinceFirst(found, w.fleet)
	if !sameFindings(found, w.fleet) {
		w.changed()
	}
	w.fleet, w.fleetAt = found, began
}

// complainLocked says what could not be looked at, once.
func (w *Watcher) complainLocked(id model.ServerID, err error) {
	switch {
	case err == nil, model.CodeOf(err) == model.NotFound:
		delete(w.failing, id)
	case w.failing[id] != err.Error():
		w.failing[id] = err.Error()
		w.cfg.Log.Warn("cannot compare everything with its template", "server", string(id), "error", err)
	}
}

// changed tells who waits.
func (w *Watcher) changed() {
	select {
	case w.changes <- struct{}{}:
	default:
	}
}

// Verify compares the server with its template now, byte for byte.
func (w *Watcher) Verify(ctx context.Context, id model.ServerID) ([]model.Finding, error) {
	found, err := w.look(ctx, id, engine.Whole)
	if err != nil {
		return nil, err
	}
	return found, nil
}

// patiently reads every byte of each image in its turn.
func (w *Watcher) patiently(ctx context.Context) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		image, server := w.dueImage()
		if server == "" {
			continue
		}
		began := w.cfg.Now()
		_, err := w.look(ctx, server, engine.Patient)
		next := began.Add(wholeEvery)
		if err != nil {
			next = w.cfg.Now().Add(wholeAgain)
		}
		w.mu.Lock()
		w.whole[image] = next
		w.mu.Unlock()
	}
}

// dueImage returns an image whose bytes are due, and a server of it.
func (w *Watcher) dueImage() (model.Digest, model.ServerID) {
	now := w.cfg.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	var image model.Digest
	var server model.ServerID
	used := map[model.Digest]bool{}
	for id, t := range w.targets {
		used[t.Image] = true
		due, known := w.whole[t.Image]
		if !known {
			w.whole[t.Image] = now.Add(wholeFirst)
			continue
		}
		if !t.Muted && due <= now && (server == "" || due < w.whole[image] || (t.Image == image && id < server)) {
			image, server = t.Image, id
		}
	}
	for d := range w.whole {
		if !used[d] {
			delete(w.whole, d)
		}
	}
	return image, server
}

// sinceFirst gives what was found before the time at which it was first seen.
func sinceFirst(found, before []model.Finding) []model.Finding {
	known := make(map[string]time.Time, len(before))
	for _, f := range before {
		known[f.Key()] = f.At
	}
	out := slices.Clone(found)
	for i := range out {
		if at, seen := known[out[i].Key()]; seen {
			out[i].At = at
		}
	}
	slices.SortStableFunc(out, func(a, b model.Finding) int { return a.At.Compare(b.At) })
	return out
}

func union(a, b []model.Finding) []model.Finding {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(a, b model.Finding) int { return strings.Compare(a.Key(), b.Key()) })
	return slices.CompactFunc(all, func(a, b model.Finding) bool { return a.Key() == b.Key() })
}

func sameFindings(a, b []model.Finding) bool {
	if len(a) != len(b) {
		return false
	}
	known := make(map[string]bool, len(a))
	for _, f := range a {
		known[f.Key()+"\x00"+f.Session] = true
	}
	return !slices.ContainsFunc(b, func(f model.Finding) bool { return !known[f.Key()+"\x00"+f.Session] })
}
