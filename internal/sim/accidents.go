package sim

import (
	"slices"
	"time"

	"kiln/internal/model"
)

// accidentVerbs lists what goes wrong by itself.
func accidentVerbs() []verb {
	accident := func(name string, weight int, do func(*world, uint64) bool) verb {
		return verb{name: name, weight: weight, fault: name, do: do}
	}
	return []verb{
		accident("server dies", 16, func(w *world, n uint64) bool { return w.killServer(n, model.Exit{Known: true, Code: 2}) }),
		accident("server runs out of memory", 3, func(w *world, n uint64) bool {
			return w.killServer(n, model.Exit{Known: true, Code: 137, Signal: "SIGKILL", OOM: true})
		}),
		accident("server dies in a deployment", 160, (*world).killTakenOver),
		accident("new server dies", 70, (*world).killReady),
		accident("server vanishes", 6, (*world).vanish),
		accident("server returns", 14, (*world).returns),
		accident("server that nobody knows", 2, (*world).stranger),
		accident("server gets sick", 20, (*world).sicken),
		accident("all servers get sick", 4, (*world).sickenAll),
		accident("engine blind", 5, func(w *world, n uint64) bool {
			w.blind = w.now + time.Duration(n%uint64(90*time.Second))
			return true
		}),
		accident("router silent", 6, (*world).silence),
		accident("router dies", 5, (*world).killRouter),
		accident("router hands over", 8, (*world).handOver),
		accident("router joins", 4, (*world).joinRouter),
		accident("router leaves", 4, (*world).leaveRouter),
		accident("address given again", 14, (*world).reuse),
		accident("daemon crashes", 10, func(w *world, _ uint64) bool { return w.crashDaemon() }),
		accident("daemon sleeps", 3, func(w *world, _ uint64) bool {
			if w.daemon == nil || w.asleep != nil {
				return false
			}
			w.sleep()
			return true
		}),
		accident("server drifts", 20, (*world).driftsOne),
		accident("all servers drift", 4, (*world).driftAll),
		accident("fleet drifts", 4, (*world).driftFleet),
		accident("wall clock jumps", 4, func(w *world, n uint64) bool {
			w.skew += time.Duration(n%uint64(100*time.Hour)) - 50*time.Hour
			return true
		}),
		{name: "machine reboots in a stage", weight: 40, staged: true, fault: "machine reboots in a stage", do: (*world).rebootInStage},
		accident("machine reboots", 2, func(w *world, _ uint64) bool { w.reboot(); return true }),
	}
}

func (w *world) rebootInStage(uint64) bool {
	for _, name := range serviceNames {
		svc := w.journal.replay.Services[name]
		if svc != nil && svc.Deployment != nil && svc.Deployment.Phase == model.DeployHolding {
			w.reboot()
			return true
		}
	}
	return false
}

// pick chooses one of the servers of the world; nil: there is none.
func (w *world) pick(n uint64) *model.Observed {
	all := w.machine.Observed(w.wall())
	if len(all) == 0 {
		return nil
	}
	return &all[n%uint64(len(all))]
}

func (w *world) killServer(n uint64, exit model.Exit) bool {
	o := w.pick(n)
	if o == nil || o.State == model.Exited {
		return false
	}
	exit.At = w.wall()
	w.machine.Kill(o.ID, exit)
	w.fact(o.ID).wasGone = true
	w.hint(n)
	return true
}

// killTakenOver ends a server in service whose service is being deployed: best
// one that the deployment takes over, now or when there is one.
func (w *world) killTakenOver(n uint64) bool {
	takenOver := func() bool {
		return w.killIn(n, model.PhaseServing, func(d *model.Deployment, taken bool) bool {
			return taken && (d.Phase == model.DeployChecking || d.Phase == model.DeployValidating)
		})
	}
	if takenOver() || w.killIn(n, model.PhaseServing, func(*model.Deployment, bool) bool { return true }) {
		return true
	}
	left := 30
	var again func()
	again = func() {
		if left--; left > 0 && !w.calmed && !takenOver() {
			w.after(time.Second, again)
		}
	}
	again()
	return false
}

// killReady ends a server that is ready to be put in service.
func (w *world) killReady(n uint64) bool {
	return w.killIn(n, model.PhaseReady, func(*model.Deployment, bool) bool { return true })
}

func (w *world) killIn(n uint64, phase model.ServerPhase, chosen func(d *model.Deployment, taken bool) bool) bool {
	for _, o := range w.machine.Observed(w.wall()) {
		srv, svc := w.server(o.ID)
		if srv == nil || svc.Deployment == nil || srv.Phase != phase || o.State == model.Exited {
			continue
		}
		if d := svc.Deployment; !chosen(d, srv.TemplateHash == svc.Release(d.To).TemplateHash) {
			continue
		}
		w.machine.Kill(o.ID, model.Exit{Known: true, Code: 2, At: w.wall()})
		w.fact(o.ID).wasGone = true
		w.hint(n)
		return true
	}
	return false
}

// hint tells the daemon at once, or leaves it to its next observation.
func (w *world) hint(n uint64) {
	if w.daemon != nil && n>>32%2 == 0 {
		w.daemon.due = w.now
	}
}

func (w *world) vanish(n uint64) bool {
	o := w.pick(n)
	if o == nil {
		return false
	}
	remains, ok := w.machine.Vanish(o.ID)
	if ok {
		w.fact(o.ID).wasGone = true
		w.ghosts = append(w.ghosts, remains)
	}
	return ok
}

func (w *world) returns(n uint64) bool {
	if len(w.ghosts) == 0 {
		return false
	}
	i := int(n % uint64(len(w.ghosts)))
	ghost := w.ghosts[i]
	w.ghosts = append(w.ghosts[:i:i], w.ghosts[i+1:]...)
	return w.machine.Return(ghost)
}

// stranger makes a server that bears our mark and is in no journal, as after the
// restore of a backup that is older than it.
func (w *world) stranger(n uint64) bool {
	o := w.pick(n)
	if o == nil {
		return false
	}
	w.strangers++
	return w.machine.Double(o.ID, model.ServerID(o.ID.Service()+"-"+model.Sixes(w.journal.replay.Instance, 1<<29+w.strangers)))
}

func (w *world) sicken(n uint64) bool {
	o := w.pick(n)
	if o == nil || o.State == model.Exited {
		return false
	}
	w.fact(o.ID).sick = w.now + time.Duration(n>>8%uint64(60*time.Second))
	return true
}

func (w *world) sickenAll(n uint64) bool {
	all := w.machine.Observed(w.wall())
	for _, o := range all {
		w.fact(o.ID).sick = w.now + time.Duration(n>>8%uint64(60*time.Second))
	}
	return len(all) > 0
}

func (w *world) silence(n uint64) bool {
	if len(w.routers.live) == 0 {
		return false
	}
	r := w.routers.live[n%uint64(len(w.routers.live))]
	r.silent = w.now + time.Duration(n>>8%uint64(80*time.Second))
	return true
}

func (w *world) killRouter(n uint64) bool {
	if len(w.routers.live) == 0 {
		return false
	}
	w.routers.kill(int(n % uint64(len(w.routers.live))))
	w.noteNames()
	w.after(time.Duration(n>>8%uint64(20*time.Second)), w.startRouter)
	return true
}

// handOver starts a second router; after a while the older one leaves.
func (w *world) handOver(n uint64) bool {
	if len(w.routers.live) != 1 {
		return false
	}
	old := w.routers.live[0]
	w.routers.start()
	if n>>40%2 == 0 { // one of the two may not answer meanwhile
		w.routers.live[n>>41%2].silent = w.now + time.Duration(n>>8%uint64(time.Minute))
	}
	w.after(time.Duration(n%uint64(2*time.Minute)), func() {
		if len(w.routers.live) > 1 && w.routers.live[0] == old {
			w.routers.kill(0)
			w.noteNames()
		}
	})
	return true
}

// joinRouter starts one more router, as on another machine.
func (w *world) joinRouter(uint64) bool {
	if n := len(w.routers.live); n == 0 || n > 2 {
		return false
	}
	w.routers.start()
	return true
}

// leaveRouter ends one of several for good.
func (w *world) leaveRouter(n uint64) bool {
	if len(w.routers.live) < 2 {
		return false
	}
	w.routers.kill(int(n % uint64(len(w.routers.live))))
	w.noteNames()
	return true
}

// reuse lets the address of a vanished server be given to another: addresses
// are given in turn, so that no router knows it any more by then.
func (w *world) reuse(uint64) bool {
	reused := false
	for _, ghost := range w.ghosts {
		inFlight := slices.ContainsFunc(w.routers.live, func(r *router) bool {
			return slices.ContainsFunc(r.flight, func(q request) bool { return q.server == ghost.ID() })
		})
		if !w.fact(ghost.ID()).named && !inFlight {
			w.machine.Reuse(ghost)
			reused = true
		}
	}
	return reused
}

func (w *world) crashDaemon() bool {
	if w.daemon == nil {
		return false
	}
	w.crash(false)
	w.after(w.between("restart", time.Millisecond, 8*time.Second), w.startDaemon)
	return true
}
