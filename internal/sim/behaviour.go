package sim

import (
	"fmt"
	"strings"
	"time"

	"kiln/internal/engine/enginemem"
	"kiln/internal/model"
)

// behaviour is what the servers of an image do.
type behaviour struct {
	name     string
	healthy  bool
	warmUp   time.Duration // from running until healthy
	start    time.Duration // from accepted until running
	endAfter time.Duration
	code     int
	stubborn bool // ignores the stop signal
	invalid  bool // its validations fail
	drifts   bool // it changes itself after each start
}

const versions = 3

// behaviours lists what images there are; the first is what people hope for.
var behaviours = []behaviour{
	{name: "good", healthy: true, warmUp: 500 * time.Millisecond, start: 100 * time.Millisecond},
	{name: "slow", healthy: true, warmUp: 4 * time.Second, start: 3 * time.Second},
	{name: "stubborn", healthy: true, start: 50 * time.Millisecond, stubborn: true},
	{name: "fragile", healthy: true, start: 100 * time.Millisecond, endAfter: 45 * time.Second, code: 2},
	{name: "exits", start: 100 * time.Millisecond, endAfter: 200 * time.Millisecond, code: 1},
	{name: "deaf", start: 100 * time.Millisecond},
	{name: "invalid", healthy: true, start: 100 * time.Millisecond, invalid: true},
	{name: "stuck", start: 80 * time.Second},
	{name: "no user", start: time.Second},
	{name: "absent"},
	{name: "drifts", healthy: true, start: 100 * time.Millisecond, drifts: true},
}

// imageOf names the image with the behaviour: its digest tells which.
func imageOf(name string, version int) model.Digest {
	for i, b := range behaviours {
		if b.name == name {
			return model.Digest(fmt.Sprintf("sha256:%032x%032x", i, version))
		}
	}
	return ""
}

func behaviourOf(d model.Digest) behaviour {
	for i := range behaviours {
		if strings.HasPrefix(string(d), fmt.Sprintf("sha256:%032x", i)) {
			return behaviours[i]
		}
	}
	return behaviour{}
}

// lasts reports whether servers of the image can serve for good.
func (b behaviour) lasts() bool { return b.healthy && b.endAfter == 0 && !b.invalid }

func (w *world) programOf(b behaviour) func(model.ServerID, model.Template) (enginemem.Program, bool) {
	return func(model.ServerID, model.Template) (enginemem.Program, bool) {
		p := enginemem.Program{StartAfter: b.start, EndAfter: b.endAfter, Code: b.code}
		p.Signal = func(string) (int, time.Duration, bool) {
			return 0, w.between("signal", 0, 3*time.Second), !b.stubborn
		}
		return p, b.name != "no user"
	}
}
