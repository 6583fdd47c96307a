package sim

import (
	"context"
	"time"

	"kiln/internal/engine"
	"kiln/internal/engine/enginemem"
	"kiln/internal/model"
)

// watched is the engine as a daemon sees it. Every call is judged before it
// reaches the world.
type watched struct {
	*enginemem.Engine
	w *world
}

func (w *world) newEngine() *watched {
	return &watched{w: w, Engine: enginemem.New(w.machine, enginemem.Options{
		Clock: w.wall, Wait: w.wait, Fault: w.engineFault,
	})}
}

// Provision implements engine.Engine.
func (e *watched) Provision(ctx context.Context, ref engine.Ref, t model.Template) error {
	e.w.judgeProvision(ref, t)
	if len(e.w.armed[string(enginemem.OpProvision)]) > 0 && e.w.armed[string(enginemem.OpProvision)][0] == "provision late" {
		e.w.meet(string(enginemem.OpProvision))
		late := enginemem.New(e.w.machine, enginemem.Options{Clock: e.w.wall, Wait: e.w.wait})
		e.w.after(e.w.between("late", time.Second, 3*time.Minute), func() {
			_ = late.Provision(context.WithoutCancel(ctx), ref, t) // nobody waits for it any more
		})
		return e.w.wait(ctx, hang)
	}
	return e.Engine.Provision(ctx, ref, t)
}

// Stop implements engine.Engine.
func (e *watched) Stop(ctx context.Context, ref engine.Ref, signal string, grace time.Duration) error {
	e.w.judgeStop(ref)
	return e.Engine.Stop(ctx, ref, signal, grace)
}

// Destroy implements engine.Engine.
func (e *watched) Destroy(ctx context.Context, ref engine.Ref) error {
	e.w.judgeDestroy(ref)
	return e.Engine.Destroy(ctx, ref)
}

// hang is longer than any deadline.
const hang = time.Hour

// engineFault says how a call of the engine goes.
func (w *world) engineFault(op enginemem.Op, _ model.ServerID) enginemem.Fault {
	name := string(op)
	if op == enginemem.OpObserve {
		if w.now < w.blind {
			return enginemem.Fault{Err: model.Errorf(model.Unavailable, "cannot observe: the engine does not answer")}
		}
		return enginemem.Fault{}
	}
	f := enginemem.Fault{Before: w.between(name, time.Millisecond, 200*time.Millisecond), After: w.between(name, 1, 50*time.Millisecond)}
	switch w.meet(name) {
	case name + " fails":
		f.Err = model.Errorf(model.Unavailable, "cannot %s: the engine does not answer", name)
	case name + " hangs":
		f.Before = hang
	case name + " refused":
		f.Err = model.Errorf(model.Invalid, "cannot %s: this machine has no such thing", name)
	case name + " lies":
		f.Err, f.Happens = model.Errorf(model.Internal, "cannot tell what became of %s", name), true
	case name + " hangs after":
		f.After = hang
	}
	return f
}

// engineFaults lists the faults that engineFault knows, by operation.
var engineFaults = map[string][]string{
	"prepare":   {"prepare fails", "prepare hangs", "prepare lies"},
	"provision": {"provision fails", "provision hangs", "provision lies", "provision hangs after", "provision late"},
	"stop":      {"stop fails", "stop hangs", "stop lies", "stop hangs after"},
	"collect":   {"collect fails", "collect hangs"},
	"disturb":   {"disturb fails", "disturb hangs", "disturb lies", "disturb hangs after", "disturb refused"},
	"calm":      {"calm fails", "calm hangs", "calm lies"},
	"destroy":   {"destroy fails", "destroy hangs", "destroy lies", "destroy hangs after"},
}

// routerFault is how a call of the router goes.
type routerFault struct {
	before, after time.Duration
	refuse        bool
	lie           error
}

var routerFaults = []string{"router refuses", "router hangs", "router hangs after", "router lies", "router slow"}

func (w *world) routerFault() routerFault {
	f := routerFault{before: w.between("apply", 1, 20*time.Millisecond), after: w.between("apply", 1, 50*time.Millisecond)}
	switch w.meet("router") {
	case "router refuses":
		f.refuse = true
	case "router hangs":
		f.before = hang
	case "router hangs after":
		f.after = hang
	case "router lies":
		f.lie = model.Errorf(model.Internal, "cannot tell what the router did")
	case "router slow":
		f.after = w.between("slow", time.Second, 25*time.Second)
	}
	return f
}

func (w *world) journalBefore() error {
	if w.meet("append") == "" {
		return nil
	}
	return model.Errorf(model.Unavailable, "cannot append to the journal: no space left on device")
}

// errAppendLies is what an append says whose events are stored all the same.
var errAppendLies error = model.Errorf(model.Internal, "cannot tell whether the journal holds the events")

func (w *world) journalAfter() error {
	if w.meet("appended") == "" {
		return nil
	}
	return errAppendLies
}
