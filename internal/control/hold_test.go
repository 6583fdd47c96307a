package control

import (
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// An action that fails is held back, longer each time and for five seconds at
// most; one that succeeds is free.
func TestHoldsGrowAndEnd(t *testing.T) {
	const key = reconcile.Key("stop/shop-aaaaaa")
	h := holds{}
	failed := reconcile.Outcome{Key: key, Err: model.Errorf(model.Unavailable, "not now")}
	now := model.Instant(time.Hour)
	for i, want := range []time.Duration{
		50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond,
		800 * time.Millisecond, 1600 * time.Millisecond, 3200 * time.Millisecond, 5 * time.Second, 5 * time.Second,
	} {
		h.note(failed, now)
		set := map[reconcile.Key]bool{}
		if next := h.active(set, now); !set[key] || next != now.Add(want) {
			t.Fatalf("after failure %d it is held back: %v, until %v; want %v", i+1, set[key], next.Sub(now), want)
		}
		now = now.Add(want)
		set = map[reconcile.Key]bool{}
		if h.active(set, now); set[key] {
			t.Fatalf("after failure %d it is held back for longer than %v", i+1, want)
		}
	}
	if why := h.failing()[key]; why != "not now" {
		t.Errorf("it fails because of %q", why)
	}
	h.note(failed, now)
	h.note(reconcile.Outcome{Key: key}, now)
	if len(h) != 0 {
		t.Error("it is held back after it succeeded")
	}
	h.note(failed, now)
	if h.active(map[reconcile.Key]bool{}, now.Add(2*time.Minute)); len(h) != 0 {
		t.Error("an action that nobody wants any more is remembered for ever")
	}
}
