package registry

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"

	"kiln/internal/model"
)

// quiet is how long nobody may have pushed before room is given back: what came
// without its manifest yet would be taken for nobody's.
const quiet = time.Hour

// changes is who changes the registry's content, and when somebody last did.
type changes struct {
	sync.RWMutex // held for reading by who changes something
	mu           sync.Mutex
	last         time.Time
	deleted      bool // since room was last given back
}

// begin notes a change; the function that it returns ends it.
func (c *changes) begin(method string) (end func()) {
	c.RLock()
	c.mu.Lock()
	c.last = time.Now()
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		c.last = time.Now()
		c.deleted = c.deleted || method == http.MethodDelete
		c.mu.Unlock()
		c.RUnlock()
	}
}

func (c *changes) due(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deleted && now.Sub(c.last) >= quiet
}

// Run gives the room of what was deleted back, at quiet times, until ctx ends.
// Storage that others may use, too, is left alone.
func (r *Registry) Run(ctx context.Context) {
	if !r.alone {
		return
	}
	tick := time.NewTicker(quiet / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !r.changes.due(now) {
				continue
			}
			if err := r.Collect(ctx); err != nil && model.CodeOf(err) != model.Conflict {
				r.log.Warn("the room of what was deleted from the registry cannot be given back", "error", err)
			}
		}
	}
}

// Collect removes what no manifest names. Who pushes waits meanwhile.
//
// Conflict: somebody pushes just now.
// Unavailable: the storage cannot be read or changed.
func (r *Registry) Collect(ctx context.Context) error {
	if !r.changes.TryLock() {
		return model.Errorf(model.Conflict, "cannot look for what nobody needs in the registry: somebody pushes")
	}
	defer r.changes.Unlock()
	_, err := r.storage.Stat(ctx, repositoriesRoot)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil // nothing was ever pushed
	}
	var all distribution.Namespace
	if err == nil {
		all, err = storage.NewRegistry(ctx, r.storage, storage.EnableDelete)
	}
	if err == nil {
		err = storage.MarkAndSweep(ctx, r.storage, all, storage.GCOpts{Quiet: true})
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot look for what nobody needs in the registry: %w", err)
	}
	r.changes.mu.Lock()
	defer r.changes.mu.Unlock()
	r.changes.deleted = false
	return nil
}
