package router

import (
	"context"
	"math/rand/v2"
	"time"
)

// spreadOver returns the part of a window over which the polite close of
// websockets is spread, so that their clients do not all come back at once. The
// rest, a tenth or what an answer may take, is for frames under way to end and
// for the answers; where the window is short, half of it.
func spreadOver(window int64) int64 {
	window = max(0, window)
	return window - min(window/2, max(window/10, int64(closeWait)))
}

// spreadLocked gives every websocket of a draining server the time of its
// polite close, evenly between now and the deadline.
func (s *server) spreadLocked() {
	n := int64(0)
	for x := s.open; x != nil; x = x.next {
		if class(x.class.Load()) == classWebSocket {
			n++
		}
	}
	if n == 0 {
		return
	}
	now := boottime()
	i := int64(0)
	for x := s.open; x != nil; x = x.next {
		if class(x.class.Load()) != classWebSocket {
			continue
		}
		x.closeAt = 0
		if s.drain != nil {
			x.closeAt = now + spreadOver(s.drain.WebSockets-now)/(2*n)*(2*i+1)
		}
		i++
	}
}

// becomeWebSocket moves x to the class, and gives it its time if the server is
// being drained already.
func (x *exchange) becomeWebSocket(t *webSocket) {
	s := x.server
	s.mu.Lock()
	defer s.mu.Unlock()
	x.become(classWebSocket)
	x.tunnel.Store(t)
	if s.drain != nil {
		now := boottime()
		x.closeAt = now + rand.Int64N(spreadOver(s.drain.WebSockets-now)+1)
	}
}

// due returns the boottime at which x has to be looked at, under drain d.
func (s *server) dueLocked(x *exchange, now time.Time) (cutAt, closeAt int64) {
	switch x.classAt(now) {
	case classStream:
		return s.drain.Streams, 0
	case classWebSocket:
		return s.drain.WebSockets, x.closeAt
	default:
		return s.drain.Requests, 0
	}
}

// endDue cuts what has reached its deadline and begins the polite close of the
// websockets whose time has come. It returns when to look again, or 0.
func (s *server) endDue(wall time.Time, now int64) (next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain == nil {
		return 0
	}
	sooner := func(at int64) {
		if next == 0 || at < next {
			next = at
		}
	}
	for x := s.open; x != nil; x = x.next {
		cutAt, closeAt := s.dueLocked(x, wall)
		if cutAt <= now {
			if t := x.tunnel.Load(); t != nil {
				t.lastWord()
			}
			x.cut()
			continue
		}
		sooner(cutAt)
		if closeAt == 0 {
			continue
		}
		if closeAt > now {
			sooner(closeAt)
		} else if t := x.tunnel.Load(); t != nil {
			t.beginClose()
			x.closeAt = 0
		}
	}
	return next
}

// drainLoop ends what outlives its deadline, until ctx ends.
func (r *Router) drainLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		if next := r.endDue(); next > 0 {
			// A websocket that was just opened, or a request that has become
			// a stream, is seen within the second without being announced.
			wait = min(time.Second, max(time.Millisecond, time.Duration(next-boottime())))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.drainKick:
		}
	}
}

// endDue does what is due on every server.
func (r *Router) endDue() (next int64) {
	wall, now := time.Now(), boottime()
	for _, s := range r.records() {
		if at := s.endDue(wall, now); at > 0 && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}
