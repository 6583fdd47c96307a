package router

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// Counter is what went through the router for one server of one release of one
// service since the router started.
type Counter struct {
	Service  string         `json:"service"`
	Release  int            `json:"release"`
	Server   model.ServerID `json:"server"`
	Requests uint64         `json:"requests"`
	Status   [6]uint64      `json:"status"` // by first digit; 0: no answer was begun
	BytesIn  uint64         `json:"bytes_in"`
	BytesOut uint64         `json:"bytes_out"`
	Millis   float64        `json:"millis"` // sum of the durations
}

// Counters is everything the router counts.
type Counters struct {
	Router        string    `json:"router"`
	Counters      []Counter `json:"counters"`
	NoRoute       uint64    `json:"no_route"`       // answered 404 by the router
	NoServer      uint64    `json:"no_server"`      // answered 503 by the router
	Retried       uint64    `json:"retried"`        // sent elsewhere after a failure
	NoProxy       uint64    `json:"no_proxy"`       // connections closed: they did not begin with a PROXY header
	AccessDropped uint64    `json:"access_dropped"` // lines the access log could not take
	RouterMillis  int64     `json:"router_age_ms"`  // since the router started
}

type tallyKey struct {
	service string
	release int
	server  model.ServerID
}

// tally is the live form of a Counter.
type tally struct {
	requests, bytesIn, bytesOut atomic.Uint64
	nanos                       atomic.Int64
	status                      [6]atomic.Uint64
}

func (t *tally) add(status int, in, out int64, took time.Duration) {
	t.requests.Add(1)
	t.bytesIn.Add(uint64(max(0, in)))
	t.bytesOut.Add(uint64(max(0, out)))
	t.nanos.Add(int64(took))
	t.status[min(5, max(0, status/100))].Add(1)
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
		Router: r.id, Counters: []Counter{},
		NoRoute: r.tallies.noRoute.Load(), NoServer: r.tallies.noServer.Load(), Retried: r.tallies.retried.Load(), NoProxy: r.tallies.noProxy.Load(),
		AccessDropped: r.access.dropped.Load(),
		RouterMillis:  r.clock.Load() / int64(time.Millisecond),
	}
	for k, t := range r.tallies.byKey {
		c := Counter{
			Service: k.service, Release: k.release, Server: k.server,
			Requests: t.requests.Load(), BytesIn: t.bytesIn.Load(), BytesOut: t.bytesOut.Load(),
			Millis: float64(t.nanos.Load()) / float64(time.Millisecond),
		}
		for i := range c.Status {
			c.Status[i] = t.status[i].Load()
		}
		out.Counters = append(out.Counters, c)
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
