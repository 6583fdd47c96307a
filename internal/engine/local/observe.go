package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// sampleEvery is the least time between two samples of what a server uses.
const sampleEvery = 5 * time.Second

// Observe implements engine.Engine.
func (e *Engine) Observe(ctx context.Context) (*model.Snapshot, error) {
	ctx, cancel := context.WithTimeout(e.scoped(ctx), 10*time.Second)
	defer cancel()
	images, err := e.preparedImages(ctx)
	if err != nil {
		return nil, err
	}
	// What is found belongs to a server that was there before or is after: one
	// that is made or removed meanwhile leaves no orphan.
	known := map[string]bool{}
	e.noteSixes(known)
	remains, err := e.remains(ctx)
	if err != nil {
		return nil, err
	}
	total, free, err := e.memory()
	if err != nil {
		return nil, err
	}
	addresses, err := e.network.free()
	if err != nil {
		return nil, err
	}
	e.sampleRunning()

	e.noteSixes(known)

	e.mu.Lock()
	defer e.mu.Unlock()
	s := &model.Snapshot{Images: images, Capacity: model.Capacity{
		MemoryTotal: total, MemoryFree: free, Addresses: addresses,
	}}
	for _, server := range e.servers {
		if !server.record.Trial {
			s.Servers = append(s.Servers, server.record.observed())
		}
	}
	slices.SortFunc(s.Servers, func(a, b model.Observed) int { return cmp.Compare(a.ID, b.ID) })
	for _, r := range remains {
		if !known[r.six] {
			s.Orphans = append(s.Orphans, r.String())
		}
	}
	return s, nil
}

// noteSixes adds the sixes of the servers that there are.
func (e *Engine) noteSixes(known map[string]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.servers {
		known[id.Six()] = true
	}
}

// remain is something on the machine that bears the mark of a server.
type remain struct {
	kind string
	name string
	six  string         // of the server's id
	id   model.ServerID // empty where only the six is known
}

func (r remain) String() string { return fmt.Sprintf("%s %s belongs to no server", r.kind, r.name) }

// remains lists everything that bears the mark of a server, known or not.
func (e *Engine) remains(ctx context.Context) ([]remain, error) {
	var found []remain
	add := func(kind string, names ...string) {
		for _, name := range names {
			if id := filepath.Base(name); model.ValidServerID(id) {
				found = append(found, remain{kind: kind, name: name, id: model.ServerID(id), six: model.ServerID(id).Six()})
			}
		}
	}
	links, err := e.network.links()
	if err != nil {
		return nil, err
	}
	for _, name := range links {
		found = append(found, remain{kind: "link", name: name, six: strings.TrimPrefix(name, e.linkPrefix())})
	}
	dirs := map[string]string{"network namespace": e.netnsDir(), "user namespace": e.usernsDir(), "log": e.logsDir(), "record": e.serversDir()}
	for _, root := range hierarchies() {
		dirs["control group "+filepath.Base(root)] = filepath.Join(root, e.cgroup())
	}
	for kind, dir := range dirs {
		names, err := namesIn(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", dir, err)
		}
		add(kind, names...)
	}
	containers, err := e.client.ContainerService().List(ctx, `labels."`+serverLabel+`"`)
	if err != nil {
		return nil, containerdError(err, "list the containers")
	}
	for _, c := range containers {
		add("container", c.ID)
	}
	return found, nil
}

func namesIn(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for i := range names {
		names[i] = filepath.Join(dir, names[i])
	}
	return names, err
}

// sweep removes what belongs to no server: what an engine left that was killed
// while it made or removed one.
func (e *Engine) sweep(ctx context.Context) error {
	ctx = e.scoped(ctx)
	remains, err := e.remains(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	e.noteSixes(known)
	for _, r := range remains {
		if known[r.six] {
			continue
		}
		e.Log.Info("removing an orphan", "kind", r.kind, "name", r.name)
		err := error(nil)
		if r.id != "" {
			err = e.remove(ctx, r.id)
		} else {
			err = removeLink(r.name)
		}
		if err != nil {
			e.Log.Warn("cannot remove an orphan", "kind", r.kind, "name", r.name, "error", err)
		}
	}
	return nil
}

// sampleRunning takes a sample of servers whose last is old.
func (e *Engine) sampleRunning() {
	now := time.Now()
	e.mu.Lock()
	var due []*server
	for _, s := range e.servers {
		if s.record.state() == model.Running && (s.stats == nil || now.Sub(s.stats.At) >= sampleEvery) {
			due = append(due, s)
		}
	}
	e.mu.Unlock()
	for _, s := range due {
		r := e.recordOf(s)
		e.keepSample(s, r, now)
	}
}

func (e *Engine) keepSample(s *server, r *record, now time.Time) {
	stats := e.sample(r.ID, now)
	if stats == nil {
		return
	}
	e.mu.Lock()
	s.stats = stats
	e.mu.Unlock()
}

// sampleEnded adds to the last sample of a server that has just ended what its
// control group still counts: the time it used to its end.
func (e *Engine) sampleEnded(s *server, r *record) {
	final := e.sample(r.ID, time.Now())
	if final == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.stats == nil {
		s.stats = final
		return
	}
	last := *s.stats
	last.CPUMicros = max(last.CPUMicros, final.CPUMicros)
	s.stats = &last
}
