package router

import (
	"sync"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// class is the drain class of an exchange.
type class int32

const (
	classRequest class = iota
	classStream
	classWebSocket
)

func (c class) String() string {
	switch c {
	case classStream:
		return "stream"
	case classWebSocket:
		return "websocket"
	default:
		return "request"
	}
}

// streamAfter is how long an exchange may be open before it counts as a stream.
const streamAfter = 30 * time.Second

// serverKey tells records apart. An id has one address for life; should a
// table say otherwise, the two are not mixed up.
type serverKey struct {
	id       model.ServerID
	address  string
	protocol model.Protocol
}

// server is the accounting record of one server, and the way to it. It lives
// as long as a table names the server, or something is in flight to it; tables
// share it, so that a switch loses no count.
type server struct {
	id       model.ServerID
	address  string
	protocol model.Protocol
	upstream upstream

	out     atomic.Bool  // the current table does not send new requests here
	count   atomic.Int64 // len of open, for picking without the lock
	suspect atomic.Int64 // router clock until which others are preferred
	ejection

	mu       sync.Mutex
	open     *exchange // head of the list of what is in flight
	drain    *model.Draining
	finished uint64
	cut      uint64
}

// enter counts x in flight to the server.
func (s *server) enter(x *exchange) {
	s.mu.Lock()
	x.server, x.next, x.prev = s, s.open, nil
	if s.open != nil {
		s.open.prev = x
	}
	s.open = x
	s.mu.Unlock()
	s.count.Add(1)
}

// ending is how an exchange left its server.
type ending int

const (
	endUndone   ending = iota // it never was: the table changed, or it goes elsewhere
	endFinished               // by itself, well or badly
	endCut                    // by a drain deadline
)

// leave takes x out of what is in flight. From its return on nobody but the
// caller can reach x or the connection it uses.
func (s *server) leave(x *exchange, how ending) {
	s.mu.Lock()
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		s.open = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	}
	x.server, x.next, x.prev = nil, nil, nil
	switch how {
	case endFinished:
		s.finished++
	case endCut:
		s.cut++
	case endUndone:
	}
	s.mu.Unlock()
	s.count.Add(-1)
}

// account returns what the server's record says now.
func (s *server) account(now time.Time) model.RouterServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := model.RouterServer{Server: s.id, Finished: s.finished, Cut: s.cut, Ejected: s.ejected()}
	for x := s.open; x != nil; x = x.next {
		switch x.classAt(now) {
		case classRequest:
			a.InFlight.Requests++
		case classStream:
			a.InFlight.Streams++
		case classWebSocket:
			a.InFlight.WebSockets++
		}
	}
	return a
}

// idle reports whether nothing is in flight to the server.
func (s *server) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open == nil
}

// setDrain starts, changes or (nil) cancels the server's drain.
func (s *server) setDrain(d *model.Draining) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain != nil && d != nil && *s.drain == *d {
		return // the same drain in a further table: the websockets keep their times
	}
	s.drain = d
	s.spreadLocked()
}
