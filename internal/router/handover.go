package router

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// A router is handed over to another one by three files and no coordinator that
// could die in between. Whoever holds the lock RunDir/router.lock takes
// connections; a router that finds it held waits for it, with every listener
// and the newest table ready. The one that serves gives the lock up when it is
// told to leave (or by its death), and the next has it within milliseconds,
// during which connections wait in the backlog of the sockets that both have.
// Each router can be spoken to all the time, at a socket of its own, and has to
// acknowledge every table until it has ended.

// phase is where a router stands in its life.
type phase int32

const (
	serving phase = iota // takes connections
	waiting              // for the lock
	leaving              // serves what it has, takes nothing new
)

// named returns the phase as the status says it.
func (p phase) named() model.RouterPhase {
	switch p {
	case waiting:
		return model.RouterWaiting
	case leaving:
		return model.RouterLeaving
	default:
		return model.RouterServing
	}
}

// Leave is how long what is in flight to a router that leaves may take, by
// drain class.
type Leave struct {
	Requests   model.Duration `json:"requests"`
	Streams    model.Duration `json:"streams"`
	WebSockets model.Duration `json:"websockets"`
}

// withDefaults returns the windows of a service that declares none.
func (l Leave) withDefaults() Leave {
	set(&l.Requests, model.Duration(30*time.Second))
	set(&l.Streams, model.Duration(2*time.Minute))
	set(&l.WebSockets, model.Duration(5*time.Minute))
	return l
}

// lockEvery is how often a waiting router tries to get the lock: connections
// wait for at most so long while nobody takes them.
const lockEvery = 5 * time.Millisecond

// tryLock takes the lock file if nobody has it. The lock goes with the process,
// however it ends.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, nil //nolint:nilerr // somebody has it, which is no error
	}
	return f, nil
}

// awaitTurn serves as soon as the router before does not any more. force says
// that it is known to take nothing new, though it still holds the lock.
func (r *Router) awaitTurn(ctx context.Context, path string) {
	t := time.NewTicker(lockEvery)
	defer t.Stop()
	for r.phase() != leaving {
		f, err := tryLock(path)
		if err != nil {
			r.log.Error("cannot take the router's lock", "error", err)
			return
		}
		if f != nil {
			r.holdLock(f)
			r.begin()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.forced:
			r.begin()
			t.Reset(time.Second)
		case <-t.C:
		}
	}
}

// holdLock keeps the lock until the router leaves or ends.
func (r *Router) holdLock(f *os.File) {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	if r.phase() == leaving {
		_ = f.Close()
		return
	}
	r.lock = f
}

// releaseLockLocked lets the next router serve. applyMu is held.
func (r *Router) releaseLockLocked() {
	if r.lock != nil {
		_ = r.lock.Close()
		r.lock = nil
	}
}

func (r *Router) phase() phase { return phase(r.standing.Load()) }

// begin takes connections, with the newest table there is: the router before
// may have taken one after this one had started.
func (r *Router) begin() {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	if r.phase() != waiting {
		return
	}
	r.standing.Store(int32(serving))
	stored, err := r.store.load()
	have := r.current.Load()
	switch {
	case err != nil:
		r.log.Error("cannot read the last table; waiting for a new one", "error", err)
	case stored != nil && have.newer(stored):
		r.takeStoredLocked(stored)
	case stored == nil || sameTable(stored, &have.table):
		r.binder.Retain(r.names.all(&have.table))
	default:
		r.binder.Retain(r.names.all(&have.table))
		if err := r.store.save(&have.table); err != nil {
			r.log.Error("cannot keep the table", "error", err)
		}
	}
	for _, l := range r.listeners {
		r.startLocked(l)
	}
	r.log.Info("router is serving", "router", r.id, "pid", os.Getpid())
}

// startLocked begins to take connections where this router is the one to do so.
// applyMu is held.
func (r *Router) startLocked(l *listener) {
	if l.started || r.phase() != serving {
		return
	}
	l.started = true
	r.serving.Go(l.serve)
}

// release says that an address is not needed any more. Only the router that
// serves may: the sockets are those of all.
func (r *Router) release(address string) {
	if r.phase() == serving {
		r.binder.Release(address)
	}
}

// Leave makes the router take nothing new and end when what it has has ended,
// at the latest after the windows. When it returns, the next router may serve.
func (r *Router) Leave(windows Leave) {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	before := r.phase()
	if before == leaving {
		return
	}
	r.standing.Store(int32(leaving))
	r.binder.Leave()
	for _, l := range r.listeners {
		l.close()
	}
	r.releaseLockLocked()
	if before == waiting {
		close(r.left)
		return
	}
	windows = windows.withDefaults()
	from := boottime() + int64(r.limits.Linger)
	r.farewell.Store(&model.Draining{
		Requests: from + int64(windows.Requests), Streams: from + int64(windows.Streams), WebSockets: from + int64(windows.WebSockets),
	})
	now := r.current.Load()
	for _, s := range r.records() {
		s.mu.Lock()
		d := s.drain
		s.mu.Unlock()
		if now.servers[s.id] == s {
			d = nil
		}
		s.setDrain(r.untilFarewell(d))
	}
	r.kickDrain()
	r.log.Info("router leaves; another one takes what is new", "router", r.id)
	listeners := make([]*listener, 0, len(r.listeners))
	for _, l := range r.listeners {
		listeners = append(listeners, l)
	}
	r.serving.Go(func() { r.sayFarewell(listeners, max(windows.Requests, windows.Streams, windows.WebSockets)) })
}

// untilFarewell returns the drain of a server: d, or what the router's own
// leaving makes of it.
func (r *Router) untilFarewell(d *model.Draining) *model.Draining {
	f := r.farewell.Load()
	if f == nil {
		return d
	}
	out := *f
	if d != nil {
		out = *d
		out.Requests, out.Streams, out.WebSockets = min(d.Requests, f.Requests), min(d.Streams, f.Streams), min(d.WebSockets, f.WebSockets)
	}
	return &out
}

// sayFarewell ends the clients' connections so that none loses a request: each
// answer says that it is the last of its connection, and only those that have
// been silent for long are closed without one. Then HTTP/2 is told to go away.
func (r *Router) sayFarewell(listeners []*listener, longest model.Duration) {
	defer close(r.left)
	ctx, cancel := context.WithTimeout(r.life, r.limits.Linger+time.Duration(longest)+stopGrace)
	defer cancel()
	// A connection that was just accepted, or has just shaken hands, is for a
	// moment counted nowhere: so it has to be quiet for a while.
	const while = 5
	quiet := 0
	for _, l := range listeners {
		l.clients.closing.Store(true)
	}
	r.until(ctx, func() bool {
		quiet++
		for _, l := range listeners {
			if l.clients.closeQuiet(int(r.limits.Linger/untilEvery)) > 0 || l.secure.pending.Load() > 0 || l.strangers.open() > 0 {
				quiet = 0
			}
		}
		return quiet >= while
	})
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() { l.stop(ctx) })
	}
	wg.Wait()
	r.until(ctx, func() bool { return r.inFlight() == 0 })
}

// untilEvery is how often until asks.
const untilEvery = 50 * time.Millisecond

// until returns when ok does true, or ctx has ended.
func (r *Router) until(ctx context.Context, ok func() bool) {
	t := time.NewTicker(untilEvery)
	defer t.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *Router) inFlight() int {
	n := 0
	for _, s := range r.records() {
		n += int(s.count.Load())
	}
	return n
}

// countersPath is where a router that has left leaves what it has counted.
func (r *Router) countersPath() string {
	return filepath.Join(r.store.dir, "counters-"+r.id+".json")
}

// bequeath leaves the counters to the next router.
func (r *Router) bequeath() {
	data, err := json.Marshal(r.Counters())
	if err == nil {
		err = os.WriteFile(r.countersPath()+".tmp", data, 0o600)
	}
	if err == nil {
		err = os.Rename(r.countersPath()+".tmp", r.countersPath())
	}
	if err != nil {
		r.log.Warn("cannot leave the counters to the next router", "error", err)
	}
}

// inherit takes the counters of routers that have left.
func (r *Router) inherit() {
	if r.phase() != serving {
		return
	}
	paths, err := filepath.Glob(filepath.Join(r.store.dir, "counters-*.json"))
	if err != nil {
		return
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		var c Counters
		err = cmp.Or(err, json.Unmarshal(data, &c), os.Remove(path))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			r.log.Warn("cannot take the counters of the router before", "error", err)
			_ = os.Remove(path)
			continue
		}
		if err == nil {
			r.mu.Lock()
			r.tallies.inherit(c)
			r.heirOf = append(r.heirOf, c.Router)
			r.mu.Unlock()
		}
	}
}

// inherit adds what another router has counted.
func (ts *tallies) inherit(c Counters) {
	for _, k := range c.Counters {
		t := ts.of(tallyKey{k.Service, k.Release, k.Server})
		counted := uint64(0)
		for i := range min(len(k.Buckets), len(t.buckets)) {
			t.buckets[i].Add(k.Buckets[i])
			counted += k.Buckets[i]
		}
		t.older.Add(k.Requests - min(counted, k.Requests))
		t.broken.Add(k.Broken)
		t.bytesIn.Add(k.BytesIn)
		t.bytesOut.Add(k.BytesOut)
		t.nanos.Add(int64(k.Millis * float64(time.Millisecond)))
		for i := range k.Status {
			t.status[i].Add(k.Status[i])
		}
	}
	ts.noRoute.Add(c.NoRoute)
	ts.noServer.Add(c.NoServer)
	ts.retried.Add(c.Retried)
	ts.noProxy.Add(c.NoProxy)
}
