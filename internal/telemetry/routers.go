package telemetry

import (
	"cmp"
	"maps"
	"slices"

	"kiln/internal/model"
)

// routers adds up what the routers have counted. There is one, and while it is
// handed over to another process two; the heir takes over the counts of the one
// that leaves. Between the end of the one and that moment the sums would fall for
// an instant, which looks as if everything began again at 0: what a leaving router
// was last seen to have is counted until an heir says that it has it.
type routers struct {
	left map[string]model.RouterTraffic // were leaving when last seen, by id
}

// counters are the sums.
type counters struct {
	byServer map[model.ServerID]map[int]model.Traffic // and by release
	rest     model.RouterTraffic                      // what is of no server
}

// of returns the counters of a server, by release.
func (c counters) of(id model.ServerID) []model.Traffic {
	return slices.SortedFunc(maps.Values(c.byServer[id]), func(a, b model.Traffic) int { return cmp.Compare(a.Release, b.Release) })
}

// sum adds up. heard says that every router has answered.
func (r *routers) sum(seen []model.RouterTraffic, heard bool) counters {
	out := counters{byServer: map[model.ServerID]map[int]model.Traffic{}}
	if !heard {
		return out
	}
	if r.left == nil {
		r.left = map[string]model.RouterTraffic{}
	}
	for _, t := range seen {
		delete(r.left, t.Router)
		for _, id := range t.HeirOf {
			delete(r.left, id)
		}
	}
	for _, t := range r.left {
		out.add(t)
	}
	for _, t := range seen {
		out.add(t)
		if t.Leaving {
			r.left[t.Router] = t
		}
	}
	return out
}

func (c *counters) add(t model.RouterTraffic) {
	c.rest.NoRoute += t.NoRoute
	c.rest.NoServer += t.NoServer
	c.rest.Retried += t.Retried
	for _, k := range t.Counters {
		if c.byServer[k.Server] == nil {
			c.byServer[k.Server] = map[int]model.Traffic{}
		}
		have, ok := c.byServer[k.Server][k.Release]
		if ok {
			k = plus(have, k)
		}
		c.byServer[k.Server][k.Release] = k
	}
}

// plus adds two routers' counters of the same server and release.
func plus(a, b model.Traffic) model.Traffic {
	a.Requests += b.Requests
	a.Broken += b.Broken
	a.BytesIn += b.BytesIn
	a.BytesOut += b.BytesOut
	a.Millis += b.Millis
	for i := range a.Status {
		a.Status[i] += b.Status[i]
	}
	buckets := make([]uint64, max(len(a.Buckets), len(b.Buckets)))
	copy(buckets, a.Buckets)
	for i, n := range b.Buckets {
		buckets[i] += n
	}
	a.Buckets = buckets
	return a
}
