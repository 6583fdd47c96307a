package logfile

import (
	"bytes"
	"sync"
	"time"
)

// queue holds the lines that wait for the disk.
type queue struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced when pending was taken
	filled  chan struct{} // holds a token when there is something to take
	pending []byte
	missed  missed
	stalled bool // the last wait for room was in vain
	closed  bool
}

// missed counts lines that found no room.
type missed struct {
	lines, bytes int
}

func newQueue() *queue {
	return &queue{changed: make(chan struct{}), filled: make(chan struct{}, 1)}
}

// add appends a copy of the lines. When there is no room it waits, but not
// longer than patience, and not at all when the last wait was in vain.
func (q *queue) add(lines []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wake()
	if len(q.pending)+len(lines) > maxPending && !q.stalled {
		q.awaitRoomLocked(len(lines))
	}
	if len(q.pending)+len(lines) > maxPending {
		q.stalled = true
		q.missed.lines += bytes.Count(lines, []byte("\n"))
		q.missed.bytes += len(lines)
		return
	}
	q.stalled = false
	q.pending = append(q.pending, lines...)
}

func (q *queue) awaitRoomLocked(n int) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for len(q.pending)+n > maxPending {
		changed := q.changed
		q.mu.Unlock()
		select {
		case <-changed:
			q.mu.Lock()
		case <-timeout.C:
			q.mu.Lock()
			return
		}
	}
}

// wake tells take that there is something.
func (q *queue) wake() {
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake()
}

// take waits for lines and returns all there are, and what was missed before
// them; false when there will be no more. The queue goes on with spare, which
// the caller no longer uses.
func (q *queue) take(spare []byte) ([]byte, missed, bool) {
	<-q.filled
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, lost := q.pending, q.missed
	q.pending, q.missed = spare[:0], missed{}
	close(q.changed)
	q.changed = make(chan struct{})
	return lines, lost, !q.closed
}
