package router

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kiln/internal/model"
)

// TestHammerDispatch is the switch without HTTP around it: dispatches that
// linger between reading the routing and being counted, against switches. Once
// a switch is acknowledged, whoever is dispatched to a server that it took out
// was counted in flight by the acknowledgement.
func TestHammerDispatch(t *testing.T) {
	r := startRouter(t, Limits{})
	type flags struct{ out atomic.Bool }
	state := map[model.ServerID]*flags{}
	var all []model.Upstream
	for i := range 4 {
		u := model.Upstream{Server: model.ServerID(fmt.Sprintf("web-aaaaa%c", 'a'+i)), Release: 1, Address: fmt.Sprintf("127.0.0.1:%d", 10+i)}
		all = append(all, u)
		state[u.Server] = &flags{}
	}
	svc := r.service(model.HTTP, all...)
	normal := r.address
	r.apply([]model.TableService{svc})

	var stop atomic.Bool
	var breaches, dispatched atomic.Int64
	var load sync.WaitGroup
	linger := func(rt *routing) *service {
		s := rt.listeners[normal].any[0].service
		for range rand.IntN(4) {
			runtime.Gosched()
		}
		if rand.IntN(8) == 0 {
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
		}
		return s
	}
	for range 16 {
		load.Go(func() {
			for !stop.Load() {
				x := newExchange()
				if r.dispatch(x, linger) != found {
					continue
				}
				dispatched.Add(1)
				if state[x.backend.server.id].out.Load() {
					breaches.Add(1)
				}
				x.server.leave(x, endFinished)
			}
		})
	}
	for range 500 {
		in := rand.IntN(len(all))
		state[all[in].Server].out.Store(false)
		svc.Backends = all[in : in+1]
		st := r.apply([]model.TableService{svc})
		for i, u := range all {
			// Absent from the status: the record is gone, nothing is in flight.
			if a, _ := of(st, u.Server); i != in && a.InFlight.Total() == 0 {
				state[u.Server].out.Store(true)
			}
		}
	}
	stop.Store(true)
	load.Wait()
	if breaches.Load() > 0 {
		t.Errorf("%d of %d dispatches went to a server that an acknowledged switch had taken out", breaches.Load(), dispatched.Load())
	}
	if dispatched.Load() < 1000 {
		t.Errorf("only %d dispatches: that proves nothing", dispatched.Load())
	}
}

// TestPickPrefersTheLeastLoaded: whatever the counts, no backend that could
// have been chosen has less in flight, and failed or suspect ones come last.
func TestPickPrefersTheLeastLoaded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "backends")
		svc := &service{}
		var tried []*server
		for i := range n {
			s := &server{id: model.ServerID(fmt.Sprint(i))}
			s.count.Store(rapid.Int64Range(0, 3).Draw(t, "count"))
			if rapid.Bool().Draw(t, "suspect") {
				s.suspect.Store(100)
			}
			if rapid.IntRange(0, 3).Draw(t, "tried") == 0 {
				tried = append(tried, s)
			}
			svc.backends = append(svc.backends, backend{server: s})
		}
		b, ok := svc.pick(&exchange{tried: tried}, 50, time.Second)
		if ok != (len(tried) < n) {
			t.Fatalf("picked %v with %d of %d tried", ok, len(tried), n)
		}
		for _, o := range svc.backends {
			isTried := false
			for _, s := range tried {
				if s == b.server {
					t.Fatal("picked one that had failed")
				}
				isTried = isTried || s == o.server
			}
			if !ok || isTried {
				continue
			}
			mine, theirs := b.server.suspect.Load() > 50, o.server.suspect.Load() > 50
			if mine && !theirs || mine == theirs && o.server.count.Load() < b.server.count.Load() {
				t.Fatalf("picked %+v though %+v is better", b.server, o.server)
			}
		}
	})
}

// TestPickTakesTurns: equals are chosen in turn.
func TestPickTakesTurns(t *testing.T) {
	svc := &service{}
	for range 3 {
		svc.backends = append(svc.backends, backend{server: &server{}})
	}
	seen := map[*server]int{}
	for range 30 {
		b, _ := svc.pick(newExchange(), 0, time.Second)
		seen[b.server]++
	}
	for _, n := range seen {
		if n != 10 {
			t.Errorf("30 picks among three equals: %v", seen)
		}
	}
}
