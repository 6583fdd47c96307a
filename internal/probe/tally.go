package probe

import (
	"kiln/internal/model"
)

// tally turns single results into a health.
//
//	unknown ── passes in a row ──▶ healthy ◀── passes in a row ──┐
//	   │                              └── fails in a row ──▶ unhealthy
//	   └── fails in a row, if it was proven before ──────────────▶┘
//
// A server that was never healthy stays unknown however often it fails: how
// long it may take to start is not decided here.
type tally struct {
	needPasses, needFails int

	passes, fails int // in a row
	proven        bool
	seen          model.HealthObserved
}

func newTally(h model.Health, proven bool) tally {
	return tally{
		needPasses: positive(h.Passes, 1), needFails: positive(h.Fails, 1), proven: proven,
		seen: model.HealthObserved{Status: model.HealthUnknown},
	}
}

// count takes one result and reports whether the status has changed.
func (t *tally) count(passed bool, detail string, at model.Instant) bool {
	before := t.seen.Status
	if passed {
		t.passes, t.fails = t.passes+1, 0
	} else {
		t.passes, t.fails = 0, t.fails+1
	}
	switch {
	case t.passes >= t.needPasses:
		t.seen.Status, t.proven = model.Healthy, true
	case t.fails >= t.needFails && t.proven:
		t.seen.Status = model.Unhealthy
	}
	t.seen.At, t.seen.Detail = at, detail
	return t.seen.Status != before
}

// starting reports whether the server has not passed once.
func (t *tally) starting() bool {
	return t.seen.Status == model.HealthUnknown && !t.proven && t.passes == 0
}
