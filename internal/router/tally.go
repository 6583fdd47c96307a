package router

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

type (
	// Counter is what went through the router for one server.
	Counter = model.Traffic
	// Counters is everything the router counts.
	Counters = model.RouterTraffic
)

type tallyKey struct {
	service string
	release int
	server  model.ServerID
}

// tally is the live form of a Counter. Every request goes into one of the
// buckets, which together count them.
type tally struct {
	bytesIn, bytesOut atomic.Uint64
	nanos             atomic.Int64
	status            [6]atomic.Uint64
	buckets           [len(latencyBounds) + 1]atomic.Uint64 // by the first bound that is not less; the last has none
	broken            atomic.Uint64                         // answers that the server began and did not end
	older             atomic.Uint64                         // requests that a router before counted and put in no bucket
}

// latencyBounds are model.LatencyBounds, as an array: who counts a request walks
// over a few words that lie together.
var latencyBounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

func (t *tally) add(status int, in, out int64, took time.Duration) {
	t.bytesIn.Add(uint64(max(0, in)))
	t.bytesOut.Add(uint64(max(0, out)))
	t.nanos.Add(int64(took))
	t.status[min(5, max(0, status/100))].Add(1)
	i := 0
	for i < len(latencyBounds) && took > latencyBounds[i] {
		i++
	}
	t.buckets[i].Add(1)
}

// breaks counts an answer that the server did not end.
func (t *tally) breaks() {
	if t != nil { // a redirect is nobody's
		t.broken.Add(1)
	}
}

func (t *tally) counter(k tallyKey) Counter {
	c := Counter{
		Service: k.service, Release: k.release, Server: k.server,
		BytesIn: t.bytesIn.Load(), BytesOut: t.bytesOut.Load(),
		Millis:  float64(t.nanos.Load()) / float64(time.Millisecond),
		Buckets: make([]uint64, len(t.buckets)), Broken: t.broken.Load(), Requests: t.older.Load(),
	}
	for i := range c.Status {
		c.Status[i] = t.status[i].Load()
	}
	for i := range c.Buckets {
		c.Buckets[i] = t.buckets[i].Load()
		c.Requests += c.Buckets[i]
	}
	return c
}

// keptTallies is how many counters of servers that are gone are kept, so that
// whoever collects them sees their last values.
const keptTallies = 256

// tallies are all counters. Its owner's lock guards the map.
type tallies struct {
	byKey                               map[tallyKey]*tally
	gone                                []tallyKey
	noRoute, noServer, retried, noProxy *atomic.Uint64
}

func newTallies() tallies {
	return tallies{
		byKey:   map[tallyKey]*tally{},
		noRoute: new(atomic.Uint64), noServer: new(atomic.Uint64), retried: new(atomic.Uint64), noProxy: new(atomic.Uint64),
	}
}

func (ts *tallies) of(k tallyKey) *tally {
	t := ts.byKey[k]
	if t == nil {
		t = &tally{}
		ts.byKey[k] = t
	}
	return t
}

// prune forgets the oldest counters that next does not use.
func (ts *tallies) prune(next *routing) {
	used := map[tallyKey]bool{}
	for _, s := range next.table.Services {
		for _, u := range s.Backends {
			used[tallyKey{s.Name, u.Release, u.Server}] = true
		}
	}
	ts.gone = slices.DeleteFunc(ts.gone, func(k tallyKey) bool { return used[k] })
	for k := range ts.byKey {
		if !used[k] && !slices.Contains(ts.gone, k) {
			ts.gone = append(ts.gone, k)
		}
	}
	for len(ts.gone) > keptTallies {
		delete(ts.byKey, ts.gone[0])
		ts.gone = ts.gone[1:]
	}
}

// Counters returns what was counted, sorted by service, release and server.
func (r *Router) Counters() Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Counters{
		Router: r.id, HeirOf: slices.Clone(r.heirOf), Leaving: r.phase() == leaving, Counters: []Counter{},
		NoRoute: r.tallies.noRoute.Load(), NoServer: r.tallies.noServer.Load(), Retried: r.tallies.retried.Load(), NoProxy: r.tallies.noProxy.Load(),
		AccessDropped: r.access.dropped.Load(),
		RouterMillis:  r.clock.Load() / int64(time.Millisecond),
	}
	for k, t := range r.tallies.byKey {
		out.Counters = append(out.Counters, t.counter(k))
	}
	slices.SortFunc(out.Counters, func(a, b Counter) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Release, b.Release), cmp.Compare(a.Server, b.Server))
	})
	return out
}

func sortServers(s []model.RouterServer) {
	slices.SortFunc(s, func(a, b model.RouterServer) int { return cmp.Compare(a.Server, b.Server) })
}

func contains(s []string, v string) bool { return slices.Contains(s, v) }
