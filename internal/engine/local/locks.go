package local

import (
	"context"
	"sync"

	"kiln/internal/model"
)

// keyedLocks is a lock for each server, which can be waited for with a context.
type keyedLocks struct {
	mu   sync.Mutex
	held map[model.ServerID]chan struct{} // closed when the lock is free again
}

func (k *keyedLocks) lock(ctx context.Context, id model.ServerID) (unlock func(), err error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[model.ServerID]chan struct{}{}
		}
		busy, taken := k.held[id]
		if !taken {
			free := make(chan struct{})
			k.held[id] = free
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, id)
				k.mu.Unlock()
				close(free)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// hints passes on that an observation is worth while. A subscriber that is slow
// gets one hint for many.
type hints struct {
	mu          sync.Mutex
	subscribers map[chan struct{}]struct{}
}

func (h *hints) subscribe(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	if h.subscribers == nil {
		h.subscribers = map[chan struct{}]struct{}{}
	}
	h.subscribers[c] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subscribers, c)
		close(c)
	})
	return c
}

func (h *hints) give() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.subscribers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
