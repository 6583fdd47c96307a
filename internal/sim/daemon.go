package sim

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"kiln/internal/control"
	"kiln/internal/model"
)

// daemon is one life of the daemon: the real control over the fakes.
type daemon struct {
	w        *world
	control  *control.Control
	epoch    uint64
	offset   model.Instant
	bootID   string
	tasks    []*task
	due      time.Duration // when it steps next
	state    *model.State
	retain   *control.Retention
	sweeping bool // a sweep is under way
}

// Now implements control.Clock.
func (d *daemon) Now() model.Now {
	return model.Now{Elapsed: d.elapsed(d.w.now), Wall: d.w.wall().Add(d.w.skew), BootID: d.bootID}
}

func (d *daemon) elapsed(at time.Duration) model.Instant {
	return model.Instant(at-d.w.bootAt) + d.offset
}

// at translates elapsed time to simulated time.
func (d *daemon) at(i model.Instant) time.Duration { return d.w.bootAt + time.Duration(i-d.offset) }

// startDaemon opens the journal with a new epoch and begins to step.
func (w *world) startDaemon() {
	if w.daemon != nil {
		return
	}
	state, err := w.journal.open()
	if err != nil {
		w.violate(9, "the journal cannot be replayed: %v", err)
		return
	}
	if equal, err := same(state, w.journal.replay); err != nil || !equal {
		w.violate(9, "two replays of the journal differ (%v)", err)
	}
	w.epoch++
	d := &daemon{w: w, epoch: w.epoch, offset: state.BootOffset, bootID: w.bootID(), state: state}
	if state.BootID != d.bootID {
		d.offset = state.Elapsed - w.boottime()
	}
	started := []model.Payload{model.DaemonStarted{Epoch: d.epoch, Version: "sim", BootID: d.bootID, BootOffset: d.offset}}
	if state.Seq == 0 {
		started = []model.Payload{model.InstanceCreated{Instance: "simsim"}, started[0]}
	}
	for _, p := range started {
		now := d.Now()
		e := model.Event{Seq: state.Seq + 1, Epoch: d.epoch, At: now.Wall, Elapsed: now.Elapsed, Actor: "kiln", Data: p}
		if err := w.journal.Append(context.Background(), d.epoch, state.Seq, []model.Event{e}); err != nil {
			w.after(time.Second, w.startDaemon) // the supervisor tries again
			return
		}
		if err := state.Apply(e); err != nil {
			w.violate(9, "a daemon cannot start on its own journal: %v", err)
			return
		}
	}
	d.control = control.New(control.Config{
		Engine: w.newEngine(), Journal: w.journal, Router: &w.routers, Prober: &prober{w: w, d: d, targets: map[model.ServerID]*probe{}},
		Validator: validator{w}, Recorder: recorder{w}, Clock: d, Spawn: d.spawn,
		Zones: zones{w}, Drift: inspector{w, d}, State: state, Epoch: d.epoch, Log: slog.New(slog.DiscardHandler),
	})
	d.retain = d.newRetention()
	w.daemon, d.due = d, w.now
}

// spawn runs an action as a task that the daemon waits for.
func (d *daemon) spawn(f func()) {
	var t *task
	t = d.w.spawn(0, f, func() {
		d.tasks = slices.DeleteFunc(d.tasks, func(other *task) bool { return other == t })
		d.due = min(d.due, d.w.now+time.Millisecond)
	})
	d.tasks = append(d.tasks, t)
}

// step lets the daemon do one round, and judges what came of it.
func (w *world) step() {
	d := w.daemon
	wake, err := d.control.Step(context.Background())
	w.cover.met("count", "steps of control")
	d.due = w.now + w.pulse
	if wake != 0 {
		d.due = min(d.due, max(d.at(wake), w.now+5*time.Millisecond))
	}
	if err == nil {
		w.judgeStep(d, wake)
		w.judgeChaos()
		if d.state.Seq == w.journal.replay.Seq {
			w.judgeCondemned(d.elapsed(w.now), wake)
		}
		return
	}
	switch model.CodeOf(err) {
	case model.Conflict, model.Internal:
		if model.CodeOf(err) == model.Internal && !errors.Is(err, errAppendLies) {
			w.violate(0, "the daemon ends by itself: %v", err)
		}
		// The state cannot be trusted any more: the daemon ends and is started
		// again.
		w.crash(false)
		w.after(w.between("restart", time.Millisecond, 5*time.Second), w.startDaemon)
	default:
	}
}

// crash ends the daemon. What it had asked for may go on without it.
func (w *world) crash(all bool) {
	d := w.daemon
	if d == nil {
		return
	}
	w.judgeState(d)
	w.daemon = nil
	for _, t := range d.tasks {
		if all || w.chance("crash", 2) {
			w.kill(t)
		}
	}
}

// sleep puts the daemon to sleep; another takes its place meanwhile.
func (w *world) sleep() {
	if w.daemon == nil || w.asleep != nil {
		return
	}
	w.judgeState(w.daemon)
	w.asleep, w.daemon = w.daemon, nil
	w.after(w.between("sleep", time.Second, 20*time.Second), func() {
		old := w.asleep
		w.asleep = nil
		if old == nil {
			return
		}
		w.cover.met("fault", "daemon wakes late")
		// It does not know yet that it was replaced.
		_, _ = old.control.Step(context.Background()) // whatever it says, it must do no harm
	})
	w.startDaemon()
}

// reboot restarts the machine.
func (w *world) reboot() {
	w.crash(true)
	w.asleep = nil
	w.machine.Reboot(w.wall())
	for len(w.routers.live) > 0 {
		w.routers.kill(0)
	}
	for _, id := range w.sorted() {
		w.fact(id).wasGone = true
	}
	w.now += w.between("boot", time.Second, time.Minute)
	w.bootAt = w.now - bootLead
	w.boots++
	w.after(w.between("restart", 0, 3*time.Second), func() { w.startRouter() })
	w.after(w.between("restart", 0, 5*time.Second), w.startDaemon)
}

func (w *world) startRouter() {
	if len(w.routers.live) == 0 {
		w.routers.start()
	}
}
