package router

import (
	"sync"
	"time"
)

// stall gives a client of HTTP/2 up that lets nothing of an answer move: it may
// keep a stream's window shut while its connection moves. It does not outlive the
// handler, whose writer net/http takes away.
type stall struct {
	limit time.Duration
	timer *time.Timer

	mu   sync.Mutex
	over bool
}

// stall is how long a piece of an answer may take to be sent by HTTP/2. It waits
// for the connection, too, which may be slow for all of its streams.
func (l *Limits) stall() time.Duration { return 5 * l.BodyIdle }

func newStall(limit time.Duration, trip func()) *stall {
	s := &stall{limit: limit}
	s.timer = time.AfterFunc(limit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.over {
			trip()
		}
	})
	s.timer.Stop() // until something is being written
	return s
}

// during bounds what write does.
func (s *stall) during(write func()) {
	s.timer.Reset(s.limit)
	defer s.timer.Stop()
	write()
}

// end returns when the client is not given up any more.
func (s *stall) end() {
	s.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}
