package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// Result is what a run has shown.
type Result struct {
	Coverage Coverage
	Broken   *Violation // nil: every promise held
	Steps    int        // of control: observe, decide, write down, act
	Trace    string     // the journal in words, if the simulation is traced
}

// Simulation runs scripts.
type Simulation struct {
	book *playbook
	// Steps is how often every run makes control observe, decide and act, at
	// least.
	Steps int
	// Traced asks for Result.Trace.
	Traced bool
}

// New returns a Simulation whose runs have at least so many steps.
func New(steps int) *Simulation { return &Simulation{book: newPlaybook(), Steps: steps} }

// Script returns the script of a seed. Every operation is followed by several
// steps, so it has fewer of them.
func (s *Simulation) Script(seed uint64) Script { return s.book.newScript(seed, max(2, s.Steps*2/5)) }

// Run plays a script. The same seed and script give the same run.
func (s *Simulation) Run(seed uint64, script Script) (result Result) {
	w := newWorld(seed)
	defer func() {
		if r := recover(); r != nil {
			w.broken = &Violation{At: w.now, Message: fmt.Sprintf("panic: %v\n%s", r, debug.Stack())}
		}
		w.close()
		result = Result{Coverage: w.cover, Broken: w.broken, Steps: w.stepsOfControl()}
		if s.Traced {
			result.Trace = w.journal.trace()
		}
	}()
	w.routers.start()
	if seed%8 == 5 { // two machines
		w.routers.start()
	}
	w.startDaemon()
	for _, o := range script {
		w.play(w.now + o.after)
		if v, known := s.book.byName[o.verb]; known && w.broken == nil {
			w.occur(v, o.n)
		} else if !known && o.verb != nothing {
			w.violate(0, "the script asks for %q, which nobody can do", o.verb)
		}
		if w.broken != nil {
			return result
		}
		w.cover.met("count", "steps")
	}
	for n := w.stepsOfControl(); n < s.Steps && w.broken == nil; n = w.stepsOfControl() {
		w.play(w.now + time.Second)
	}
	w.calm()
	return result
}

// stepsOfControl counts how often control has observed, decided and acted.
func (w *world) stepsOfControl() int { return w.cover[[2]string{"count", "steps of control"}] }

func (w *world) occur(v verb, n uint64) {
	happened := v.do(w, n)
	switch {
	case v.fault != "" && happened:
		w.cover.met(kindFault, v.fault)
	case !v.isFault() && happened:
		w.cover.met("command", v.name)
	}
	w.noteNames()
}

// play lets time pass until the given instant.
func (w *world) play(until time.Duration) {
	w.pulse = max(time.Second, (until-w.now)/6)
	for w.broken == nil {
		next, task := w.next()
		if w.daemon != nil && (!task || w.daemon.due <= next) {
			if w.daemon.due > until {
				break
			}
			w.now = max(w.now, w.daemon.due)
			w.step()
			continue
		}
		if !task || next > until {
			break
		}
		w.run()
	}
	w.now = max(w.now, until)
}

// calm ends everything that goes wrong, and lets kiln finish.
func (w *world) calm() {
	clear(w.armed)
	w.calmed = true
	w.blind = 0
	for _, f := range w.facts {
		f.sick = 0
	}
	for _, r := range w.routers.live {
		r.silent = 0
	}
	const patience = 40 * time.Minute
	for end := w.now + patience; w.now < end && w.broken == nil; {
		w.play(w.now + time.Minute)
		if w.daemon != nil && len(w.queue) == 0 && w.unsettled() == "" {
			break
		}
	}
	if w.broken == nil && w.daemon != nil {
		w.judgeState(w.daemon)
		w.judgeEnd()
	}
}

// Minimise drops from a script whatever is not needed to break a promise,
// until the time or the tries are used up.
func (s *Simulation) Minimise(seed uint64, script Script, tries int) (Script, *Violation) {
	broken := s.Run(seed, script).Broken
	for size := max(1, len(script)/2); size >= 1 && tries > 0; {
		dropped := false
		for at := 0; at < len(script) && tries > 0; tries-- {
			shorter := without(script, at, size)
			if b := s.Run(seed, shorter).Broken; b != nil && b.Promise == broken.Promise {
				script, broken, dropped = shorter, b, true
				continue
			}
			at += size
		}
		if !dropped || size > 1 {
			size /= 2
		}
	}
	return script, broken
}

// without returns the script without some operations; time passes as before.
func without(script Script, at, size int) Script {
	shorter := append(Script{}, script[:at]...)
	end := min(at+size, len(script))
	passed := time.Duration(0)
	for _, o := range script[at:end] {
		passed += o.after
	}
	if rest := script[end:]; len(rest) > 0 {
		first := rest[0]
		first.after += passed
		shorter = append(append(shorter, first), rest[1:]...)
	}
	return shorter
}

// Seeds draws n seeds that follow from one.
func Seeds(first uint64, n int) []uint64 {
	r := rand.New(rand.NewPCG(first, first))
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = r.Uint64() >> 16
	}
	return seeds
}
