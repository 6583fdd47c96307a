package enginemem

import (
	"context"
	"slices"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Op names a method of the engine.
type Op string

// The operations.
const (
	OpObserve   Op = "observe"
	OpPrepare   Op = "prepare"
	OpProvision Op = "provision"
	OpStop      Op = "stop"
	OpCollect   Op = "collect"
	OpDestroy   Op = "destroy"
	OpExec      Op = "exec"
)

// Fault is what goes wrong in one call. The zero value is nothing.
type Fault struct {
	Before time.Duration // passes before anything happens
	After  time.Duration // passes between what happens and the return
	Err    error         // is returned instead
	// Happens says that the call is carried out although Err is returned.
	Happens bool
}

// Options are what an engine depends on. The zero value is real time without
// faults.
type Options struct {
	Clock func() time.Time
	// Wait returns after the time, or an error when ctx has ended.
	Wait func(ctx context.Context, d time.Duration) error
	// Fault is asked at each call.
	Fault func(op Op, id model.ServerID) Fault
}

// Engine implements engine.Engine and engine.Watcher over a world.
type Engine struct {
	world *World
	Options
}

var (
	_ engine.Engine  = (*Engine)(nil)
	_ engine.Watcher = (*Engine)(nil)
)

// New returns an engine over the world. Several may use one world, as daemons
// of several epochs do.
func New(w *World, o Options) *Engine {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	if o.Fault == nil {
		o.Fault = func(Op, model.ServerID) Fault { return Fault{} }
	}
	return &Engine{world: w, Options: o}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call carries out one operation between the times of its fault.
func (e *Engine) call(ctx context.Context, op Op, id model.ServerID, do func() error) error {
	fault := e.Fault(op, id)
	if err := e.pause(ctx, fault.Before); err != nil {
		return err
	}
	if fault.Err != nil && !fault.Happens {
		return fault.Err
	}
	if err := do(); err != nil {
		return err
	}
	if err := e.pause(ctx, fault.After); err != nil {
		return err
	}
	return fault.Err
}

func (e *Engine) pause(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	return e.Wait(ctx, d)
}

// Observe implements engine.Engine.
func (e *Engine) Observe(ctx context.Context) (*model.Snapshot, error) {
	var snapshot *model.Snapshot
	err := e.call(ctx, OpObserve, "", func() error {
		e.world.mu.Lock()
		defer e.world.mu.Unlock()
		snapshot = e.world.snapshotLocked(e.Clock())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return snapshot, nil
}

func (w *World) snapshotLocked(at time.Time) *model.Snapshot {
	snapshot := &model.Snapshot{
		Servers:  w.observedLocked(at),
		Capacity: model.Capacity{MemoryTotal: w.memory, MemoryFree: w.memory, Addresses: addresses - len(w.servers)},
	}
	for _, s := range w.servers {
		snapshot.Capacity.MemoryFree -= s.template.Resources.Memory
	}
	for digest, i := range w.images {
		if i.prepared {
			snapshot.Images = append(snapshot.Images, digest)
		}
	}
	slices.Sort(snapshot.Images)
	return snapshot
}

// Prepare implements engine.Engine.
func (e *Engine) Prepare(ctx context.Context, digest model.Digest) error {
	return e.call(ctx, OpPrepare, "", func() error {
		e.world.mu.Lock()
		defer e.world.mu.Unlock()
		i := e.world.images[digest]
		if i == nil {
			return model.Errorf(model.NotFound, "cannot prepare image %s: there is none", digest.Short())
		}
		i.prepared = true
		return nil
	})
}

// Provision implements engine.Engine.
func (e *Engine) Provision(ctx context.Context, ref engine.Ref, t model.Template) error {
	return e.call(ctx, OpProvision, ref.ID, func() error {
		return e.mutate(ctx, ref, func(s *server) error {
			if s == nil {
				return e.world.provisionLocked(ref, t, e.Clock())
			}
			if s.hash != t.Hash() {
				return model.Errorf(model.Conflict, "cannot provision server %s: it exists with another template", ref.ID)
			}
			return nil
		})
	})
}

func (w *World) provisionLocked(ref engine.Ref, t model.Template, at time.Time) error {
	i := w.images[t.Image]
	if i == nil || !i.prepared {
		return model.Errorf(model.Precondition, "cannot provision server %s: image %s is not prepared", ref.ID, t.Image.Short())
	}
	if t.User != "" && t.User != "root" && !slices.Contains(i.Users, t.User) {
		return model.Errorf(model.Invalid, "cannot provision server %s: the image has no user %q", ref.ID, t.User)
	}
	program, exists := i.Program(ref.ID, t)
	if !exists {
		return model.Errorf(model.Invalid, "cannot provision server %s: the image has no such command: %q", ref.ID, slices.Concat(t.Entrypoint, t.Command))
	}
	address, err := w.addressLocked()
	if err != nil {
		return err
	}
	w.insertLocked(&server{
		id: ref.ID, epoch: ref.Epoch, template: t, hash: t.Hash(), program: program, address: address, accepted: at,
	})
	return nil
}

// Stop implements engine.Engine.
func (e *Engine) Stop(ctx context.Context, ref engine.Ref, signal string, grace time.Duration) error {
	return e.call(ctx, OpStop, ref.ID, func() error {
		return e.mutate(ctx, ref, func(s *server) error {
			if s == nil || s.ended(e.Clock()) != nil {
				return nil
			}
			return e.stopLocked(ctx, s, signal, grace)
		})
	})
}

// stopLocked lets go of the lock while it waits; the server is busy meanwhile.
func (e *Engine) stopLocked(ctx context.Context, s *server, signal string, grace time.Duration) error {
	if signal == "" {
		signal = "SIGTERM"
		if i := e.world.images[s.template.Image]; i != nil && i.StopSignal != "" {
			signal = i.StopSignal
		}
	}
	code, after, ends := 0, time.Duration(0), true
	if s.program.Signal != nil {
		code, after, ends = s.program.Signal(signal)
	}
	exit := model.Exit{Known: true, Code: code}
	if !ends || after > grace {
		after, exit = grace, model.Exit{Known: true, Code: 137, Signal: "SIGKILL"}
	}
	e.world.mu.Unlock()
	err := e.pause(ctx, after)
	e.world.mu.Lock()
	if err != nil {
		return err
	}
	if s.ended(e.Clock()) == nil {
		exit.At = e.Clock()
		s.exit = &exit
		e.world.hintLocked()
	}
	return nil
}

// Collect implements engine.Engine.
func (e *Engine) Collect(ctx context.Context, ref engine.Ref) (*engine.Evidence, error) {
	var evidence *engine.Evidence
	err := e.call(ctx, OpCollect, ref.ID, func() error {
		e.world.mu.Lock()
		defer e.world.mu.Unlock()
		s := e.world.serverLocked(ref.ID)
		if s == nil {
			return model.Errorf(model.NotFound, "cannot collect evidence of server %s: it is absent", ref.ID)
		}
		evidence = s.evidence(e.Clock())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return evidence, nil
}

func (s *server) evidence(at time.Time) *engine.Evidence {
	evidence := &engine.Evidence{Observed: s.observed(at)}
	if evidence.Observed.State == model.Starting {
		return evidence
	}
	const keep = 1000
	evidence.Log = slices.Clone(s.program.Lines[max(0, len(s.program.Lines)-keep):])
	for i := range evidence.Log {
		evidence.Log[i].At = evidence.Observed.StartedAt
	}
	return evidence
}

// Destroy implements engine.Engine.
func (e *Engine) Destroy(ctx context.Context, ref engine.Ref) error {
	return e.call(ctx, OpDestroy, ref.ID, func() error {
		return e.mutate(ctx, ref, func(s *server) error {
			if s == nil {
				return nil
			}
			if s.ended(e.Clock()) == nil {
				return model.Errorf(model.Precondition, "cannot destroy server %s: it runs", ref.ID)
			}
			e.world.removeLocked(s)
			return nil
		})
	})
}

// Exec implements engine.Engine.
func (e *Engine) Exec(ctx context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error) {
	var result engine.ExecResult
	err := e.call(ctx, OpExec, ref.ID, func() error {
		run := e.execOf(ref.ID)
		if run == nil {
			return model.Errorf(model.Precondition, "cannot run %q in server %s: it does not run", x.Command, ref.ID)
		}
		r, after, exists := run(x.Command)
		if !exists {
			return model.Errorf(model.Invalid, "cannot run %q in server %s: there is no such command", x.Command, ref.ID)
		}
		if after < 0 {
			after = 1<<63 - 1
		}
		if err := e.pause(ctx, after); err != nil {
			return err
		}
		limit := int(x.Limit)
		if limit == 0 {
			limit = 64 << 10
		}
		r.Output = r.Output[max(0, len(r.Output)-limit):]
		result = r
		return nil
	})
	return result, err
}

// execOf returns how commands run in the server; nil: it does not run.
func (e *Engine) execOf(id model.ServerID) func([]string) (engine.ExecResult, time.Duration, bool) {
	e.world.mu.Lock()
	defer e.world.mu.Unlock()
	s := e.world.serverLocked(id)
	if s == nil || s.observed(e.Clock()).State != model.Running {
		return nil
	}
	if s.program.Exec == nil {
		return func([]string) (engine.ExecResult, time.Duration, bool) { return engine.ExecResult{}, 0, false }
	}
	return s.program.Exec
}

// Watch implements engine.Watcher.
func (e *Engine) Watch(ctx context.Context) <-chan struct{} {
	w := e.world
	hints := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchers[hints] = true
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watchers, hints)
		close(hints)
	})
	return hints
}

// busyPoll is how often a mutation looks whether the one before it has ended.
const busyPoll = 5 * time.Millisecond

// mutate carries out a mutation of one server, nil when it is absent, under
// the lock and after the mutations of the same server that came before.
func (e *Engine) mutate(ctx context.Context, ref engine.Ref, do func(*server) error) error {
	w := e.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if ref.Epoch < w.epoch {
			return model.Errorf(model.Conflict, "cannot change server %s: epoch %d has taken over from epoch %d", ref.ID, w.epoch, ref.Epoch)
		}
		w.epoch = ref.Epoch
		s := w.serverLocked(ref.ID)
		if s == nil {
			return do(nil)
		}
		if !s.busy {
			s.busy = true
			err := do(s)
			s.busy = false
			if err == nil {
				s.epoch = ref.Epoch
			}
			return err
		}
		w.mu.Unlock()
		err := e.Wait(ctx, busyPoll)
		w.mu.Lock()
		if err != nil {
			return err
		}
	}
}
