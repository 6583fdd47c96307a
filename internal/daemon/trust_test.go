package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"kiln/internal/api"
)

// TestLooksAreShared: a look stands for who asked before it began, unless it broke
// off because another one gave up.
func TestLooksAreShared(t *testing.T) {
	v, looks := &verdict{}, 0
	bad := errors.New("unsigned")
	look := func(ctx context.Context, asked time.Time, says error) error {
		return v.look(ctx, asked, func() error { looks++; return says })
	}
	before := time.Now()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := look(gone, before, gone.Err()); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up is told %v", err)
	}
	if err := look(t.Context(), before, nil); err != nil || looks != 2 {
		t.Errorf("another is told %v after %d looks", err, looks)
	}
	if err := look(t.Context(), before, bad); err != nil || looks != 2 {
		t.Errorf("a third is told %v after %d looks", err, looks)
	}
	if err := look(t.Context(), time.Now().Add(time.Hour), bad); !errors.Is(err, bad) || looks != 3 {
		t.Errorf("who asks later is told %v after %d looks", err, looks)
	}
}

// TestResultsAreRemembered: what passed and is written down is not asked again.
func TestResultsAreRemembered(t *testing.T) {
	passed, failed := api.ImageCheck{Name: "a", Passed: true}, api.ImageCheck{Name: "b"}
	for name, c := range map[string]struct {
		list []api.ImageCheck
		lost error
		want bool
	}{
		"passed":            {[]api.ImageCheck{passed}, nil, true},
		"failed":            {[]api.ImageCheck{passed, failed}, nil, false},
		"could not be kept": {[]api.ImageCheck{passed}, errors.New("the registry fails"), false},
	} {
		var known checks
		known.remember("x", c.list, c.lost)
		if _, is := known.known("x"); is != c.want {
			t.Errorf("%s: remembered is %t", name, is)
		}
	}
}
