package router

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A server to which no connection can be had is left out of choice for a
// while, longer each time: probes find out later, and then the table says so.
const (
	firstEjection   = time.Second
	longestEjection = 10 * time.Second
)

// ejection is whether a server is left out of choice because it could not be
// reached. It is a preference only: where every server is ejected, all are
// tried.
type ejection struct {
	// until is the router clock up to which the server is not chosen; 0: it is
	// not ejected. Once it has passed one request at a time tries the server.
	until atomic.Int64

	mu   sync.Mutex
	wait time.Duration
}

// ejected reports whether the server could not be reached when it was last tried.
func (s *server) ejected() bool { return s.ejection.until.Load() != 0 }

// claimTrial says whether the server may be chosen, though it was ejected:
// its time is over, and nobody else tries it now.
func (s *server) claimTrial(now int64, patience time.Duration) bool {
	until := s.ejection.until.Load()
	return until != 0 && until <= now && s.ejection.until.CompareAndSwap(until, now+int64(patience))
}

// The standings of a server when one is chosen: the least is the best.
const (
	standsWell    = 0
	standsSuspect = 1 // failed somebody a moment ago
	standsAside   = 2 // on the other side of a split
	standsOut     = 4 // ejected
)

// standing returns how the server stands at the router clock now.
func (s *server) standing(now int64) int {
	switch {
	case s.ejection.until.Load() > now:
		return standsOut
	case s.suspect.Load() > now:
		return standsSuspect
	default:
		return standsWell
	}
}

// reached notes that a connection to the server was had, or an answer.
func (r *Router) reached(s *server) {
	if !s.ejected() {
		return
	}
	s.ejection.mu.Lock()
	back := s.ejection.until.Swap(0) != 0
	s.ejection.wait = 0
	s.ejection.mu.Unlock()
	if back {
		r.log.Info("server can be reached again", "server", string(s.id), "address", s.address)
	}
}

// unreached notes that a connection to the server could not be had. Of many
// that fail at once only the first counts, and of later ones the trial.
func (r *Router) unreached(s *server, trial bool, err error) {
	if !blames(err) {
		return
	}
	s.ejection.mu.Lock()
	now, until := r.clock.Load(), s.ejection.until.Load()
	first := until == 0
	if first || trial || until <= now {
		s.ejection.wait = min(longestEjection, max(firstEjection, 2*s.ejection.wait))
		s.ejection.until.Store(now + int64(s.ejection.wait))
	}
	s.ejection.mu.Unlock()
	if first {
		r.log.Warn("server cannot be reached; requests go to others", "server", string(s.id), "address", s.address, "error", err)
	}
}

// blames reports whether the error of a dial is the server's, and not one of
// this process or of a client that has left.
func blames(err error) bool {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, context.Canceled)
}

// dialServer opens a connection to the server that x was dispatched to: it
// ends early when the client leaves, the exchange is cut, or the time is up.
func (r *Router) dialServer(ctx context.Context, x *exchange) (net.Conn, error) {
	ctx, cancel := x.dialContext(ctx)
	defer cancel()
	d := net.Dialer{
		Timeout:         r.limits.DialTimeout,
		Control:         onLink,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 4},
	}
	s := x.backend.server
	conn, err := d.DialContext(ctx, "tcp", s.address)
	if err != nil {
		r.unreached(s, x.trial, err)
		return nil, err
	}
	r.reached(s)
	return conn, nil
}
