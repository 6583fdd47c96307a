package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// drift is what the engine remembers of how servers are watched.
type drift struct {
	mu          sync.Mutex
	territories map[model.ServerID]*territory
	layers      map[string]*layer                           // by directory
	images      map[model.Digest][]ocispec.Descriptor       // their layers, uppermost first
	blobs       map[model.Digest][]ocispec.Descriptor       // of images, the manifest first
	stamps      map[string]string                           // of blobs that were compared with their digests, by file
	strangers   map[model.ServerID]map[string]model.Finding // processes that were seen, by key
	arriving    map[process]time.Time                       // processes that still run the runtime, since when
	walked      time.Time                                   // when all processes were looked at

	walking sync.Mutex    // one walk at a time
	changes atomic.Uint64 // of servers' records
}

const (
	walkFresh    = 2 * time.Second // how old a look at all processes may be to stand for another
	strangerKept = 5 * time.Second // how long a process is told of that has ended
	mostKept     = maxFindings / 5 // processes of one server that are told of
)

// Inspect implements engine.Inspector.
func (e *Engine) Inspect(ctx context.Context, id model.ServerID, depth engine.Depth) ([]model.Finding, error) {
	ctx = e.scoped(ctx)
	_, r := e.lookup(id)
	if r == nil {
		return nil, model.Errorf(model.NotFound, "cannot inspect %s: there is no such server", id)
	}
	if r.state() != model.Running {
		return nil, nil // what does not run is replaced anyway
	}
	var found []model.Finding
	var errs []error
	for _, detect := range []func() ([]model.Finding, error){
		func() ([]model.Finding, error) { return e.inspectUpper(r) },
		func() ([]model.Finding, error) { return e.inspectLayers(ctx, r, depth) },
		func() ([]model.Finding, error) { return e.inspectProcesses(r, depth) },
		func() ([]model.Finding, error) { return e.inspectConfiguration(r) },
	} {
		some, err := detect()
		found = append(found, some...)
		errs = append(errs, err)
	}
	if !r.Process.runs(e.boot) {
		return nil, nil // what was seen of it may be its end
	}
	now := time.Now().UTC()
	for i := range found {
		if found[i].At.IsZero() {
			found[i].At = now
		}
	}
	if err := errors.Join(errs...); err != nil {
		return found, model.Errorf(model.Unavailable, "cannot look at all of %s: %w", id, err)
	}
	return found, nil
}

// inspectProcesses returns the processes that do not belong to the server.
func (e *Engine) inspectProcesses(r *record, depth engine.Depth) ([]model.Finding, error) {
	since := time.Now()
	if depth == engine.Glance {
		since = since.Add(-walkFresh)
	}
	if r.StartedAt.After(since) {
		since = r.StartedAt // what was seen before says nothing of it
	}
	if _, err := e.walk(since); err != nil {
		return nil, err
	}
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	var found []model.Finding
	for _, f := range e.drift.strangers[r.ID] {
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b model.Finding) int { return strings.Compare(a.Key(), b.Key()) })
	return found, nil
}

// walk looks at all processes of the machine, unless that was done since then. It
// returns the servers of which it has news.
func (e *Engine) walk(since time.Time) ([]model.ServerID, error) {
	e.drift.walking.Lock()
	defer e.drift.walking.Unlock()
	e.drift.mu.Lock()
	done := e.drift.walked.After(since)
	e.drift.mu.Unlock()
	if done {
		return nil, nil
	}
	began := time.Now()
	found, err := e.survey().walk()
	if err != nil {
		return nil, fmt.Errorf("cannot look at the processes of servers: %w", err)
	}
	news := e.noteStrangers(found)
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	e.drift.walked = began
	e.forgetLocked(began)
	return news, nil
}

// noteStrangers remembers what was seen of processes, and returns the servers
// of which that is news.
func (e *Engine) noteStrangers(found []model.Finding) []model.ServerID {
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	var news []model.ServerID
	if e.drift.strangers == nil {
		e.drift.strangers = map[model.ServerID]map[string]model.Finding{}
	}
	for _, f := range found {
		of := e.drift.strangers[f.Server]
		if of == nil {
			of = map[string]model.Finding{}
			e.drift.strangers[f.Server] = of
		}
		key := f.Key()
		if _, known := of[key]; !known {
			if len(of) >= mostKept {
				continue
			}
			news = append(news, f.Server)
		}
		of[key] = f
	}
	slices.Sort(news)
	return slices.Compact(news)
}

// forgetLocked forgets processes that have ended a while ago, and servers that
// are gone.
func (e *Engine) forgetLocked(now time.Time) {
	for id, of := range e.drift.strangers {
		for key, f := range of {
			if now.Sub(f.At) > strangerKept {
				delete(of, key)
			}
		}
		if len(of) == 0 {
			delete(e.drift.strangers, id)
		}
	}
	for p, first := range e.drift.arriving {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID)); err != nil && now.Sub(first) > patience {
			delete(e.drift.arriving, p)
		}
	}
	for id, t := range e.drift.territories {
		if !t.record.Process.runs(e.boot) {
			delete(e.drift.territories, id)
		}
	}
}
