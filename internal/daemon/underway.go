package daemon

import (
	"context"
	"sync"

	"kiln/internal/model"
)

// underway is work on images that goes on beside what asked for it: one after the
// other for each image.
type underway struct {
	mu   sync.Mutex
	last map[model.Digest]*work // that was asked for last
}

// work is on one image.
type work struct {
	done   chan struct{} // closed when it is
	wanted chan struct{} // closed when somebody waits for it
	waits  bool          // whether that is closed
}

// begin notes work on an image. It is to be done after before (nil: at once), and
// ended by calling end. Once somebody waits for it, wanted is closed.
func (u *underway) begin(d model.Digest) (before, wanted <-chan struct{}, end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[model.Digest]*work{}
	}
	w := &work{done: make(chan struct{}), wanted: make(chan struct{})}
	if earlier := u.last[d]; earlier != nil {
		before = earlier.done
	}
	u.last[d] = w
	return before, w.wanted, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		close(w.done)
		if u.last[d] == w {
			delete(u.last, d)
		}
	}
}

// settled waits until what was asked for is done.
func (u *underway) settled(ctx context.Context, d model.Digest) {
	u.mu.Lock()
	w := u.last[d]
	if w != nil && !w.waits {
		w.waits = true
		close(w.wanted)
	}
	u.mu.Unlock()
	if w == nil {
		return
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}
