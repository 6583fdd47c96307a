package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// How often retention looks, elapsed time.
const (
	lookEvery   = 5 * time.Second  // at the disks
	surveyEvery = 10 * time.Minute // at what there is, for status; and while the disk is low, to remove
	surveySoon  = 15 * time.Second // the same, after images or servers came or went
	sweepFirst  = time.Hour        // after the daemon has started
	sweepEvery  = 24 * time.Hour
)

// Source is where the objects of one kind are kept.
type Source struct {
	Kind model.ObjectKind
	engine.Inventory
	// Ready reports whether it can be listed as things are; nil: always. If not,
	// something has to be started for it, and just to see what there is what was
	// listed last counts.
	Ready func(ctx context.Context) bool
}

// batch is implemented by inventories that remove many objects at once.
type batch interface {
	RemoveAll(ctx context.Context, objects []model.Object) error
}

// Rooms looks at the disks that kiln writes to, that of the images first.
type Rooms interface {
	Rooms() ([]model.Disk, error)
}

// RetentionConfig is what a Retention works with.
type RetentionConfig struct {
	Control *Control
	Sources []Source
	Rooms   Rooms
	Clock   Clock
	Log     *slog.Logger
}

// Retention removes what nothing holds any more, by itself and when it is
// asked. What goes is decided on the same state as every command, and written
// down before anything is removed: a rollback that was accepted before keeps its
// image, one that comes after is refused.
type Retention struct {
	cfg RetentionConfig

	sweeping sync.Mutex // one sweep at a time
	removing sync.Mutex // no image is added while one is removed

	mu   sync.Mutex
	last Survey
	seen map[model.ObjectKind][]model.Object // of the sources that are not always ready, when they were listed last
}

// Survey is all that is kept on the disk, with a verdict on each.
type Survey struct {
	At      time.Time
	Kept    []model.Kept
	Missing []string // sources that could not be listed, and why
	Failed  []string // after a sweep: what could not be removed, and why
}

// NewRetention returns a Retention. It does nothing by itself before Run.
func NewRetention(cfg RetentionConfig) *Retention {
	return &Retention{cfg: cfg, seen: map[model.ObjectKind][]model.Object{}}
}

// Run watches the disks, sweeps once a day and while the disk is low, and first
// finishes what a crash has interrupted. It returns when ctx ends.
func (r *Retention) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	if err := r.resume(ctx); err != nil && ctx.Err() == nil {
		r.cfg.Log.Warn("cannot finish the removal of images", "error", err)
	}
	now := r.cfg.Clock.Now().Elapsed
	sweep, survey, soon, seen := now.Add(sweepFirst), now, now, r.extent()
	for {
		low, worse := r.look(ctx)
		now, there := r.cfg.Clock.Now().Elapsed, r.extent()
		if there != seen && now >= soon {
			survey = min(survey, now)
		}
		if now >= survey || now >= sweep || worse {
			soon, seen = now.Add(surveySoon), there
		}
		switch {
		case now >= sweep, worse, low && now >= survey:
			if _, err := r.Sweep(ctx, "kiln"); err != nil && ctx.Err() == nil {
				r.cfg.Log.Warn("cannot remove what is not needed any more", "error", err)
			}
			sweep, survey = r.cfg.Clock.Now().Elapsed.Add(sweepEvery), r.cfg.Clock.Now().Elapsed.Add(surveyEvery)
		case now >= survey:
			r.note(r.survey(ctx, false))
			survey = now.Add(surveyEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// extent is, in short, what is kept and for whom.
type extent struct{ images, servers, releases int }

// extent changes when a survey would show something else.
func (r *Retention) extent() (e extent) {
	r.cfg.Control.View(func(s *model.State, _ *model.Snapshot) {
		for _, img := range s.Images {
			if img.RemovedAt.IsZero() {
				e.images++
			}
		}
		for _, svc := range s.Services {
			e.servers += len(svc.Servers)
			e.releases += svc.InService
		}
	})
	return e
}

// look writes down how the disks stand, if that has changed. worse: it is lower
// than before.
func (r *Retention) look(ctx context.Context) (low, worse bool) {
	rooms, err := r.cfg.Rooms.Rooms()
	if err != nil {
		r.cfg.Log.Warn("cannot look at the disk", "error", err)
		return false, false
	}
	err = r.cfg.Control.Do(ctx, "kiln", func(s *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		events := reconcile.NoteDisk(s, rooms)
		low = s.Disk != nil && s.Disk.State != model.DiskWell
		for _, p := range events {
			if changed, ok := p.(model.DiskChanged); ok {
				worse = changed.Disk.State == model.DiskShort || changed.Disk.State == model.DiskLow && !low
				low = changed.Disk.State != model.DiskWell
				r.cfg.Log.Warn("the room on the disk has changed", "path", changed.Disk.Path, "state", string(changed.Disk.State),
					"free_bytes", changed.Disk.Free, "total_bytes", changed.Disk.Total)
			}
		}
		return events, nil
	})
	if err != nil && ctx.Err() == nil { // the journal may be what has no room
		r.cfg.Log.Warn("cannot write down how the disk stands", "error", err)
	}
	return low, worse
}

// Survey lists all that is kept, and says of each object whether it stays. It
// changes nothing.
func (r *Retention) Survey(ctx context.Context) Survey {
	s := r.survey(ctx, true)
	r.note(s)
	return s
}

// Last returns the latest survey; its zero value: there was none yet.
func (r *Retention) Last() Survey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (r *Retention) note(s Survey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = s
}

func (r *Retention) survey(ctx context.Context, whole bool) Survey {
	objects, missing := r.list(ctx, whole)
	s := Survey{Missing: missing}
	now := r.cfg.Clock.Now()
	r.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		s.At, s.Kept = now.Wall, reconcile.Retain(st, objects, now)
	})
	return s
}

// list asks every source what it holds.
func (r *Retention) list(ctx context.Context, whole bool) (objects []model.Object, missing []string) {
	for _, source := range r.cfg.Sources {
		found, err := r.objects(ctx, source, whole)
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", source.Kind, err))
			continue
		}
		objects = append(objects, found...)
	}
	return objects, missing
}

func (r *Retention) objects(ctx context.Context, source Source, whole bool) ([]model.Object, error) {
	if source.Ready == nil {
		return source.Objects(ctx)
	}
	if !whole && !source.Ready(ctx) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.seen[source.Kind], nil
	}
	found, err := source.Objects(ctx)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen[source.Kind] = found
	}
	return found, err
}

// Sweep removes what nothing holds. What could not be removed is in the
// result; the error is that nothing could be written down, and so nothing was.
func (r *Retention) Sweep(ctx context.Context, actor string) (Survey, error) {
	r.sweeping.Lock()
	defer r.sweeping.Unlock()
	objects, missing := r.list(ctx, true)
	out := Survey{Missing: missing}
	err := r.cfg.Control.Do(ctx, actor, func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		out.At, out.Kept = now.Wall, reconcile.Retain(s, objects, now)
		return reconcile.Removal(s, out.Kept), nil
	})
	if err != nil {
		return Survey{}, err
	}
	out.Failed = r.remove(ctx, out.Kept) // what could not be removed is kept
	r.note(r.survey(ctx, false))
	return out, nil
}

// resume finishes the removal of images that are written down as removed.
func (r *Retention) resume(ctx context.Context) error {
	r.sweeping.Lock()
	defer r.sweeping.Unlock()
	for _, source := range r.cfg.Sources {
		if source.Kind != model.ObjectImage {
			continue
		}
		objects, err := source.Objects(ctx)
		if err != nil {
			return err
		}
		for _, o := range objects {
			if err := r.removeImage(ctx, source, o, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes what goes, source by source, and says what could not be: that
// is kept after all.
func (r *Retention) remove(ctx context.Context, kept []model.Kept) (failed []string) {
	for _, source := range r.cfg.Sources {
		var gone []model.Object
		for _, k := range kept {
			if !k.Keep && k.Kind == source.Kind {
				gone = append(gone, k.Object)
			}
		}
		if len(gone) == 0 {
			continue
		}
		errs := r.removeFrom(ctx, source, gone)
		for i := range kept {
			k := &kept[i]
			if err := errs[k.ID]; err != nil && k.Kind == source.Kind && !k.Keep {
				k.Keep, k.Reason = true, "it could not be removed: "+err.Error()
			}
		}
		if err := errors.Join(slices.Collect(maps.Values(errs))...); err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", source.Kind, err))
		}
	}
	return failed
}

// removeFrom removes objects of one source, and returns what went wrong by their
// ids.
func (r *Retention) removeFrom(ctx context.Context, source Source, objects []model.Object) map[string]error {
	errs := map[string]error{}
	if many, ok := source.Inventory.(batch); ok {
		if err := many.RemoveAll(ctx, objects); err != nil {
			for _, o := range objects {
				errs[o.ID] = err
			}
		}
		return errs
	}
	for _, o := range childrenFirst(objects) {
		var err error
		if o.Kind == model.ObjectImage {
			err = r.removeImage(ctx, source, o, true)
		} else {
			err = source.Remove(ctx, o)
		}
		if err != nil {
			errs[o.ID] = err
		}
	}
	return errs
}

// removeImage removes an image that is written down as removed, unless it was
// added again since; with unknown also one that the journal does not know. It
// holds up who adds one, not commands.
func (r *Retention) removeImage(ctx context.Context, source Source, o model.Object, unknown bool) error {
	r.removing.Lock()
	defer r.removing.Unlock()
	goes := false
	r.cfg.Control.View(func(s *model.State, _ *model.Snapshot) {
		img := s.Images[model.Digest(o.ID)]
		goes = img == nil && unknown || img != nil && !img.RemovedAt.IsZero()
	})
	if !goes {
		return nil
	}
	if err := source.Remove(ctx, o); err != nil {
		return err
	}
	r.cfg.Log.Info("image removed", "image", o.ID, "bytes", o.Bytes)
	return nil
}

// Admit carries out a command that adds an image. here reports whether its
// content is there: a removal may have been under way while it was made.
func (r *Retention) Admit(ctx context.Context, actor string, command Command, here func() bool) error {
	r.removing.Lock()
	defer r.removing.Unlock()
	if !here() {
		return model.Errorf(model.Unavailable, "cannot add the image: retention removed it while it was made").
			WithHint("do the same again: it is kept now that it is wanted")
	}
	return r.cfg.Control.Do(ctx, actor, command)
}

// childrenFirst puts objects before those that they stand on.
func childrenFirst(objects []model.Object) []model.Object {
	depth := map[string]int{}
	byID := map[string]model.Object{}
	for _, o := range objects {
		byID[o.ID] = o
	}
	var visit func(id string, seen int) int
	visit = func(id string, seen int) int {
		o, known := byID[id]
		if d, done := depth[id]; done || !known || seen > len(objects) {
			return d
		}
		most := 0
		for _, p := range o.Parents {
			most = max(most, visit(p, seen+1)+1)
		}
		depth[id] = most
		return most
	}
	for _, o := range objects {
		visit(o.ID, 0)
	}
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b model.Object) int { return depth[b.ID] - depth[a.ID] })
	return sorted
}
