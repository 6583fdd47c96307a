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
	last map[model.Digest]chan struct{} // of the work that was asked for last; closed when it is done
}

// begin notes work on an image. It is to be done after before (nil: at once), and
// ended by calling end.
func (u *underway) begin(d model.Digest) (before <-chan struct{}, end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[model.Digest]chan struct{}{}
	}
	done := make(chan struct{})
	if earlier := u.last[d]; earlier != nil {
		before = earlier
	}
	u.last[d] = done
	return before, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		close(done)
		if u.last[d] == done {
			delete(u.last, d)
		}
	}
}

// settled waits until what was asked for is done.
func (u *underway) settled(ctx context.Context, d model.Digest) {
	u.mu.Lock()
	done := u.last[d]
	u.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
