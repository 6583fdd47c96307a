package router

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// exchange is one request on its way to a server and back, or one connection
// of a tcp service: the unit of accounting.
type exchange struct {
	start time.Time
	class atomic.Int32 // set by the one who carries it; read by all

	// Where it went. Written by dispatch, read by whoever carries it.
	backend backend
	service *service
	tried   []*server // servers that failed it
	trial   bool      // it finds out whether an ejected server can be reached again
	canary

	// Guarded by server.mu while it is in the server's list.
	server     *server
	prev, next *exchange
	closeAt    int64 // websocket: when to begin the polite close, boottime; 0: not drained

	// How others end it. A switch or a deadline may come at any time, so both
	// sides go through atomics: the ender sets wasCut and then breaks what is
	// there; the carrier puts something there and then looks at wasCut.
	wasCut   atomic.Bool
	toServer atomic.Pointer[breaker]
	toClient atomic.Pointer[breaker]
	tunnel   atomic.Pointer[webSocket]
}

// breaker wakes whoever is blocked on a connection, with an error.
type breaker struct{ trip func() }

func newExchange() *exchange { return &exchange{start: time.Now()} }

// classAt returns the drain class: what is open long enough is a stream.
func (x *exchange) classAt(now time.Time) class {
	c := class(x.class.Load())
	if c == classRequest && now.Sub(x.start) >= streamAfter {
		return classStream
	}
	return c
}

// become moves x to another class.
func (x *exchange) become(c class) { x.class.Store(int32(c)) }

// cut ends x now. It may be called more than once, and from any goroutine that
// found x in its server's list under the server's lock.
func (x *exchange) cut() {
	x.wasCut.Store(true)
	for _, p := range []*atomic.Pointer[breaker]{&x.toServer, &x.toClient} {
		if b := p.Load(); b != nil {
			b.trip()
		}
	}
}

// breakable makes b what a cut trips, and trips it if the cut has been.
func (x *exchange) breakable(p *atomic.Pointer[breaker], b *breaker) {
	p.Store(b)
	if b != nil && x.wasCut.Load() {
		b.trip()
	}
}

// dialContext returns a context that ends with ctx, and when x is cut.
func (x *exchange) dialContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	x.breakable(&x.toServer, &breaker{trip: cancel})
	return ctx, cancel
}

// verdict says why a dispatch found no server.
type verdict int

const (
	found verdict = iota
	noRoute
	noServer // the service has none
	moved    // the route is a redirect
)

// dispatch picks the server for x and counts x in flight to it, in one step as
// seen from a switch. lookup finds the service in a routing.
//
// The switch stores the new routing and then counts what is in flight. Here x
// is counted first and the routing read again afterwards. Go's atomics and
// locks have one order for all: if the second read still returns the old
// routing it came before the store, and so did the count, which the switch
// therefore sees. Otherwise the count is undone, nothing has been sent, and
// the new routing decides. So once the switch has stored, every dispatch that
// holds an older routing is either counted in flight or will read the new one,
// whatever it was waiting for. Retries come through here as well.
func (r *Router) dispatch(x *exchange, lookup func(*routing) *service) verdict {
	for {
		t := r.current.Load()
		svc := lookup(t)
		if svc == nil {
			return noRoute
		}
		x.service = svc
		if svc.redirect != nil {
			return moved
		}
		b, ok := svc.pick(x, r.clock.Load(), r.limits.DialTimeout)
		if !ok {
			return noServer
		}
		b.server.enter(x)
		if r.current.Load() == t {
			x.backend = b
			return found
		}
		b.server.leave(x, endUndone)
	}
}

// undo takes x back from a server to which nothing was sent.
func (x *exchange) undo() {
	x.toServer.Store(nil)
	x.server.leave(x, endUndone)
	x.wasCut.Store(false)
}

// turn is the round-robin position among equals.
type turn struct{ n atomic.Uint32 }

// pick returns the backend for x with the least in flight, in turn among
// equals. Those that have failed x are left out. Of the others it prefers those
// that are not ejected, then those on x's side of a split, then those that have
// failed nobody a moment ago: it returns one as long as there is one.
func (s *service) pick(x *exchange, now int64, patience time.Duration) (backend, bool) {
	n := len(s.backends)
	if n == 0 {
		return backend{}, false
	}
	toNew := s.split != nil && s.split.toNew(x)
	start := int(s.turn.n.Add(1)-1) % n
	for {
		best, least, worst := -1, int64(0), 0
		for i := range n {
			at := start + i
			if at >= n {
				at -= n
			}
			b := &s.backends[at]
			if len(x.tried) > 0 && slices.Contains(x.tried, b.server) {
				continue
			}
			standing := b.server.standing(now)
			if s.split != nil && (b.release == s.split.Release) != toNew {
				standing += standsAside
			}
			count := b.server.count.Load()
			if best < 0 || standing < worst || (standing == worst && count < least) {
				best, least, worst = at, count, standing
			}
		}
		if best < 0 {
			return backend{}, false
		}
		b := s.backends[best]
		x.trial = false
		if worst < standsOut && b.server.ejected() {
			if x.trial = b.server.claimTrial(now, patience); !x.trial {
				continue // somebody else tries it, or has brought it back
			}
		}
		return b, true
	}
}
