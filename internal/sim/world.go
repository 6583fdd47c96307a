// Package sim runs the real decisions and the real shell around them under
// simulated time, against an engine, routers and a journal that fail, hang, lie
// and come back, with crashes between any two steps. After every step
// independent code checks the promises. A seed reproduces a run exactly.
package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"kiln/internal/engine/enginemem"
	"kiln/internal/model"
)

// genesis is the wall clock at the beginning of every run.
var genesis = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// bootLead is what CLOCK_BOOTTIME shows when a boot is over.
const bootLead = 10 * time.Second

// world is everything outside of the daemon, and what is true in it.
type world struct {
	schedule
	seed    uint64
	sources map[string]*rand.PCG
	cover   Coverage
	broken  *Violation

	driftedFor map[string]int           // servers of a template that were replaced for drift with each start
	driftedAt  map[string]time.Duration // the last of them

	machine *enginemem.World
	bootAt  time.Duration
	boots   int
	skew    time.Duration // of the wall clock that daemons see
	journal *journal
	routers fleet
	daemon  *daemon // nil: none runs
	asleep  *daemon // one that was replaced and does not know it
	epoch   uint64

	armed     map[string][]string // faults that the next call of a kind meets
	blind     time.Duration       // the engine cannot be observed before this time
	facts     map[model.ServerID]*facts
	ghosts    []enginemem.Remains      // vanished, and may return
	strangers uint64                   // servers ever made that no journal knows
	acks      []promise                // what was promised to clients
	content   []model.Digest           // images on the disk, in the order in which they came
	written   map[model.Digest]bool    // images whose removal the journal has, since they came
	left      map[string]model.Instant // when each template last left service, by service and hash
	jumped    model.Instant            // when the journal last had a jump of the wall clock
	doomed    model.DeploymentID       // the last deployment of which a server failed in service
	calmed    bool                     // nothing goes wrong any more
	pulse     time.Duration            // how long the daemon waits for hints
	fleet     []model.Finding          // what inspections of the fleet find
}

// facts is what is true of one server, whatever the journal says.
type facts struct {
	healthy   bool // some prober has found it healthy as its release asks
	passed    map[string]bool
	sick      time.Duration   // unhealthy before this time
	unhealthy time.Duration   // when a prober last said so
	wasGone   bool            // it has ended or vanished at some time
	named     bool            // some router may send requests to it
	unnamed   []time.Duration // when each time the last router stopped to
	recorded  bool            // its death record is durable
	lost      time.Duration   // when it failed in service, by itself
	drift     []model.Finding // what inspections find
	served    bool            // every router had acknowledged it
	told      bool            // it was told to leave the rotation,
	least     int             // when so many were promised to stay
}

// left returns when the server left every router's table after the request had
// been sent to it. False: it has not.
func (f *facts) left(q request) (time.Duration, bool) {
	for _, at := range f.unnamed {
		if at >= q.began {
			return at, true
		}
	}
	return 0, false
}

// promise is a command that was acknowledged.
type promise struct {
	service string
	release int
	id      model.DeploymentID
}

// Violation is a promise that did not hold.
type Violation struct {
	Promise int // of DESIGN 4; 0: the program itself failed
	At      time.Duration
	Message string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("promise %d, at %s: %s", v.Promise, v.At, v.Message)
}

func newWorld(seed uint64) *world {
	w := &world{
		seed: seed, sources: map[string]*rand.PCG{}, cover: Coverage{},
		machine: enginemem.NewWorld(8 << 30), bootAt: -bootLead, boots: 1, journal: newJournal(seed%4 == 0),
		left: map[string]model.Instant{}, armed: map[string][]string{}, facts: map[model.ServerID]*facts{}, pulse: time.Second,
		driftedFor: map[string]int{}, driftedAt: map[string]time.Duration{}, written: map[model.Digest]bool{},
	}
	w.routers.w = w
	w.journal.before, w.journal.after, w.journal.noted = w.journalBefore, w.journalAfter, w.noted
	return w
}

// imageOf is what Prepare finds of an image with the behaviour.
func (w *world) imageOf(b behaviour) enginemem.Image { return enginemem.Image{Program: w.programOf(b)} }

// violate notes the first promise that did not hold.
func (w *world) violate(promise int, format string, args ...any) {
	if w.broken == nil {
		w.broken = &Violation{Promise: promise, At: w.now, Message: fmt.Sprintf(format, args...)}
	}
}

// draw returns the next number of a stream of its own, so that what happens in
// one place does not depend on how often another place draws.
func (w *world) draw(stream string) uint64 {
	source := w.sources[stream]
	if source == nil {
		h := fnv.New64a()
		_, _ = h.Write([]byte(stream)) // a hash cannot fail
		source = rand.NewPCG(w.seed, h.Sum64())
		w.sources[stream] = source
	}
	return source.Uint64()
}

// chance is true once in n.
func (w *world) chance(stream string, n uint64) bool { return w.draw(stream)%n == 0 }

// between draws a time.
func (w *world) between(stream string, low, high time.Duration) time.Duration {
	return low + time.Duration(w.draw(stream)%uint64(high-low))
}

func (w *world) wall() time.Time { return genesis.Add(w.now) }

// boottime is CLOCK_BOOTTIME.
func (w *world) boottime() model.Instant { return model.Instant(w.now - w.bootAt) }

// simulated translates a point of CLOCK_BOOTTIME, far ones to the end of time.
func (w *world) simulated(i model.Instant) time.Duration {
	const far = 1 << 60
	if i > far {
		return far
	}
	return w.bootAt + time.Duration(i)
}

func (w *world) bootID() string { return fmt.Sprintf("boot-%d", w.boots) }

func (w *world) fact(id model.ServerID) *facts {
	f := w.facts[id]
	if f == nil {
		f = &facts{passed: map[string]bool{}}
		w.facts[id] = f
	}
	return f
}

// observed returns the truth about a server, or nil.
func (w *world) observed(id model.ServerID) *model.Observed {
	return w.machine.Server(id, w.wall())
}

func (w *world) runs(id model.ServerID) bool {
	o := w.observed(id)
	return o != nil && o.State == model.Running
}

// fit is the truth about the health of a server.
func (w *world) fit(id model.ServerID) bool {
	o := w.observed(id)
	if o == nil || o.State != model.Running || w.now < w.fact(id).sick || w.suffers(id) {
		return false
	}
	t, _ := w.machine.Template(id)
	b := behaviourOf(t.Image)
	return b.healthy && !w.wall().Before(o.StartedAt.Add(b.warmUp))
}

// arm makes the next call of a kind meet the fault.
func (w *world) arm(call, fault string) { w.armed[call] = append(w.armed[call], fault) }

// meet takes the fault that the call has to meet; "": none.
func (w *world) meet(call string) string {
	waiting := w.armed[call]
	if len(waiting) == 0 {
		return ""
	}
	w.armed[call] = waiting[1:]
	w.cover.met("fault", waiting[0])
	return waiting[0]
}

// sorted returns the servers of which the world knows something, so that
// nothing depends on the order of a map.
func (w *world) sorted() []model.ServerID {
	ids := make([]model.ServerID, 0, len(w.facts))
	for id := range w.facts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
