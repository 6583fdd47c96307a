package control

import (
	"time"

	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// An action that failed may be decided again at once, where nothing else
// follows from the failure. It is held back here, longer each time, so that
// what is down is not hammered.
const (
	holdFirst = 50 * time.Millisecond
	holdMost  = 5 * time.Second
)

// hold keeps an action back.
type hold struct {
	until    model.Instant
	failures int
	why      string // of the latest failure
}

// holds are the actions that are kept back.
type holds map[reconcile.Key]hold

// note takes in how an action ended.
func (h holds) note(out reconcile.Outcome, now model.Instant) {
	if out.Err == nil {
		delete(h, out.Key)
		return
	}
	n := h[out.Key].failures
	wait := holdMost
	if n < 7 { // 50 ms doubled six times is 3.2 s
		wait = holdFirst << n
	}
	h[out.Key] = hold{until: now.Add(wait), failures: n + 1, why: out.Err.Message}
}

// active adds the keys that are still kept back to set, forgets those whose
// action nobody wanted for a while, and returns when the next comes free (0:
// none is kept back).
func (h holds) active(set map[reconcile.Key]bool, now model.Instant) model.Instant {
	const forget = time.Minute
	var next model.Instant
	for key, held := range h {
		switch {
		case held.until > now:
			set[key] = true
			if next == 0 || held.until < next {
				next = held.until
			}
		case now.Sub(held.until) > forget:
			delete(h, key)
		}
	}
	return next
}

// failing says why actions failed that are still wanted.
func (h holds) failing() map[reconcile.Key]string {
	why := make(map[reconcile.Key]string, len(h))
	for key, held := range h {
		why[key] = held.why
	}
	return why
}
