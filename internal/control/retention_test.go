package control

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kiln/internal/model"
)

// shelf keeps images; while it is broken it removes none.
type shelf struct {
	images  []string
	broken  bool
	listing func() // called while it lists
}

func (s *shelf) Objects(context.Context) ([]model.Object, error) {
	var list []model.Object
	for _, id := range s.images {
		list = append(list, model.Object{Kind: model.ObjectImage, ID: id})
	}
	if s.listing != nil {
		s.listing()
	}
	return list, nil
}

func (s *shelf) Remove(_ context.Context, o model.Object) error {
	if s.broken {
		return model.Errorf(model.Unavailable, "cannot remove %s", o.ID)
	}
	s.images = slices.DeleteFunc(s.images, func(id string) bool { return id == o.ID })
	return nil
}

// book is a journal that keeps nothing: the state is what counts here.
type book struct{}

func (book) Append(context.Context, uint64, uint64, []model.Event) error { return nil }

type standing struct{ now *model.Now }

func (s standing) Now() model.Now { return *s.now }

const old = "sha256:aa"

// newTestRetention has one image that nothing holds any more.
func newTestRetention(t *testing.T, s *shelf) (*Retention, *Control) {
	t.Helper()
	now := &model.Now{Elapsed: 1, Wall: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)}
	c := New(Config{Journal: book{}, Clock: standing{now}, State: model.NewState(), Epoch: 1, Log: slog.New(slog.DiscardHandler)})
	add(t, c.Do)
	now.Elapsed, now.Wall = now.Elapsed.Add(25*time.Hour), now.Wall.Add(25*time.Hour)
	return NewRetention(RetentionConfig{
		Control: c, Clock: standing{now}, Log: slog.New(slog.DiscardHandler),
		Sources: []Source{{Kind: model.ObjectImage, Inventory: s}},
	}), c
}

func add(t *testing.T, do func(context.Context, string, Command) error) {
	t.Helper()
	err := do(t.Context(), "ann", func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, error) {
		return []model.Payload{model.ImageAdded{Image: model.Image{Digest: old, Source: "build"}}}, nil
	})
	if err != nil {
		t.Error(err)
	}
}

func removedAt(c *Control) (at time.Time) {
	c.View(func(s *model.State, _ *model.Snapshot) { at = s.Images[old].RemovedAt })
	return at
}

// A removal that was written down and interrupted is finished at the start, and
// by the next sweep; it is written down once.
func TestRemovalIsFinished(t *testing.T) {
	for name, again := range map[string]func(*Retention, context.Context) error{
		"start": (*Retention).resume,
		"sweep": func(r *Retention, ctx context.Context) error { _, err := r.Sweep(ctx, "ann"); return err },
	} {
		s := &shelf{images: []string{old, "sha256:unknown"}, broken: true}
		r, c := newTestRetention(t, s)
		swept, err := r.Sweep(t.Context(), "ann")
		if err != nil || len(swept.Failed) != 1 || removedAt(c).IsZero() {
			t.Fatalf("%s: a removal that fails: %+v, %v; removed at %s", name, swept.Failed, err, removedAt(c))
		}
		var seq uint64
		c.View(func(st *model.State, _ *model.Snapshot) { seq = st.Seq })
		s.broken = false
		if err := again(r, t.Context()); err != nil || slices.Contains(s.images, old) {
			t.Errorf("%s: %v, there still is %v", name, err, s.images)
		}
		c.View(func(st *model.State, _ *model.Snapshot) {
			if name == "start" && (st.Seq != seq || !slices.Contains(s.images, "sha256:unknown")) {
				t.Errorf("the start has written %d events down, and left %v", st.Seq-seq, s.images)
			}
		})
	}
}

// An image that is added again after its removal was written down stays; one
// whose content went meanwhile is refused.
func TestAddedAgainStays(t *testing.T) {
	s := &shelf{images: []string{old}, broken: true}
	r, c := newTestRetention(t, s)
	if _, err := r.Sweep(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	s.broken = false
	add(t, func(ctx context.Context, actor string, command Command) error {
		return r.Admit(ctx, actor, command, func() bool { return slices.Contains(s.images, old) })
	})
	if err := r.resume(t.Context()); err != nil || !slices.Contains(s.images, old) || !removedAt(c).IsZero() {
		t.Errorf("an image that was added again is removed: %v, %v", s.images, err)
	}
	err := r.Admit(t.Context(), "ann", nil, func() bool { return false })
	if model.CodeOf(err) != model.Unavailable {
		t.Errorf("an image whose content is gone is added: %v", err)
	}
}

// What is asked for while a sweep lists comes before its verdicts.
func TestCommandBesideSweep(t *testing.T) {
	s := &shelf{images: []string{old}}
	r, c := newTestRetention(t, s)
	s.listing = func() {
		s.listing = nil
		err := c.Do(t.Context(), "ann", func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, error) {
			return []model.Payload{model.ImagePinned{Digest: old, Pinned: true, By: "ann"}}, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Sweep(t.Context(), "ann"); err != nil || len(s.images) != 1 {
		t.Errorf("what was pinned beside the sweep went: %v, %v", s.images, err)
	}
	err := c.Do(t.Context(), "ann", func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, error) {
		return []model.Payload{model.ImagePinned{Digest: old, By: "ann"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if dry := r.Survey(t.Context()); len(dry.Kept) != 1 || dry.Kept[0].Keep || len(s.images) != 1 || !removedAt(c).IsZero() {
		t.Errorf("a survey changed something: %+v, %v", dry.Kept, s.images)
	}
	if _, err := r.Sweep(t.Context(), "ann"); err != nil || len(s.images) != 0 {
		t.Errorf("what nothing holds stays: %v, %v", s.images, err)
	}
}

// What others stand on goes after them.
func TestChildrenFirst(t *testing.T) {
	var ids []string
	for _, o := range childrenFirst([]model.Object{
		{ID: "base"}, {ID: "leaf", Parents: []string{"middle"}}, {ID: "middle", Parents: []string{"base", "elsewhere"}},
	}) {
		ids = append(ids, o.ID)
	}
	if !slices.Equal(ids, []string{"leaf", "middle", "base"}) {
		t.Errorf("the order is %v", ids)
	}
}

// bubble is the clock of a synctest.
type bubble struct{ begun time.Time }

func (b bubble) Now() model.Now {
	return model.Now{Elapsed: model.Instant(time.Since(b.begun)), Wall: time.Now()}
}

type noRooms struct{}

func (noRooms) Rooms() ([]model.Disk, error) { return nil, nil }

// What comes is in the survey soon after, without anybody asking; and while
// nothing comes nobody looks.
func TestSurveyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, looked := bubble{time.Now()}, 0
		s := &shelf{listing: func() { looked++ }}
		c := New(Config{Journal: book{}, Clock: clock, State: model.NewState(), Epoch: 1, Log: slog.New(slog.DiscardHandler)})
		r := NewRetention(RetentionConfig{
			Control: c, Clock: clock, Log: slog.New(slog.DiscardHandler), Rooms: noRooms{},
			Sources: []Source{{Kind: model.ObjectImage, Inventory: s}},
		})
		go r.Run(t.Context())
		time.Sleep(time.Minute)
		synctest.Wait()
		before := looked
		s.images = []string{old}
		add(t, c.Do)
		time.Sleep(surveySoon + lookEvery)
		synctest.Wait()
		if n := len(r.Last().Kept); n != 1 {
			t.Errorf("the survey knows of %d images instead of 1", n)
		}
		if looked != before+1 {
			t.Errorf("it was listed %d times instead of once", looked-before)
		}
	})
}
