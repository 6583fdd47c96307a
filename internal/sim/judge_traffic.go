package sim

import (
	"slices"
	"time"

	"kiln/internal/model"
)

// judgeTable judges a table that a router is about to use.
func (w *world) judgeTable(r *router, table model.Table) {
	if table.Generation < w.journal.replay.Table.Generation {
		return // late, and soon replaced: the state it was made from is gone
	}
	for _, ts := range table.Services {
		svc := w.journal.replay.Services[ts.Name]
		if svc == nil || svc.Release(ts.Release) == nil {
			w.violate(1, "the table names release %d of %s, which does not exist", ts.Release, ts.Name)
			continue
		}
		w.judgeRelease(ts, svc)
		for _, b := range ts.Backends {
			if o := w.observed(b.Server); o != nil && o.State == model.Running && b.Address != o.Address+":8080" {
				w.violate(1, "the table says that server %s is at %s, it is at %s", b.Server, b.Address, o.Address)
			}
		}
		i := slices.IndexFunc(r.table.Services, func(old model.TableService) bool { return old.Name == ts.Name })
		if i >= 0 {
			w.judgeCapacity(r.table.Services[i], ts, svc)
		}
	}
}

// judgeRelease: routers serve the release in service, or the one that a
// deployment switches to; a failed one never (4). One set serves, not a mix,
// unless a deployment in stages is under way, or its servers stay until the set
// that it had begun to replace is whole again.
func (w *world) judgeRelease(ts model.TableService, svc *model.Service) {
	allowed := []int{svc.InService}
	d := svc.Deployment
	if d != nil && (d.Phase == model.DeploySwitching || d.Stage > 0 || d.Phase == model.DeployHolding) {
		allowed = append(allowed, d.To)
	}
	if svc.Pending != nil {
		allowed = append(allowed, svc.Pending.Release)
	}
	if !slices.Contains(allowed, ts.Release) {
		w.violate(4, "the table names release %d of %s; allowed is %v", ts.Release, ts.Name, allowed)
	}
	w.judgeSplit(ts, d)
	mixed := map[string]bool{}
	for _, b := range ts.Backends {
		srv, of := svc.Servers[b.Server], svc.Release(b.Release)
		if srv == nil {
			continue
		}
		if of == nil || srv.TemplateHash != of.Template.Hash() {
			w.violate(4, "the table names server %s for release %d, which is not its own", b.Server, b.Release)
			return
		}
		mixed[srv.TemplateHash] = true
		if !slices.Contains(allowed, b.Release) && !w.stray(svc, srv) {
			w.violate(4, "the table names server %s of release %d; allowed is %v", b.Server, b.Release, allowed)
		}
	}
	if staged := d != nil && len(d.Stages) > 1; len(mixed) > 1 && !staged && !w.hasStrays(svc) {
		w.violate(4, "the table mixes two sets of %s, and nothing is done in stages", ts.Name)
	}
}

// stray reports whether the server was put in service by a stage of a
// deployment that did not succeed.
func (w *world) stray(svc *model.Service, srv *model.Server) bool {
	return srv.Phase == model.PhaseServing && slices.ContainsFunc(svc.Deployments, func(d *model.Deployment) bool {
		return d.To == srv.Release && d.Strategy != model.BlueGreen && (d.Verdict == model.Failed || d.Verdict == model.Aborted)
	})
}

func (w *world) hasStrays(svc *model.Service) bool {
	for _, srv := range svc.Servers {
		if w.stray(svc, srv) {
			return true
		}
	}
	return false
}

// judgeSplit: a share of the requests goes to a release only as a stage of a
// canary says, and never a larger one than has been come to.
func (w *world) judgeSplit(ts model.TableService, d *model.Deployment) {
	switch {
	case ts.Split == nil:
	case d == nil || d.Strategy != model.Canary || ts.Split.Release != d.To:
		w.violate(4, "the table of %s is split, and no canary runs", ts.Name)
	case !slices.ContainsFunc(d.Stages[:d.Stage+1], func(s model.Stage) bool { return s.Weight == ts.Split.Weight }):
		w.violate(4, "the table of %s gives %d per cent to release %d at stage %d of %v", ts.Name, ts.Split.Weight, d.To, d.Stage+1, d.Stages)
	}
}

// judgeCapacity: a new table takes no ready server away that is needed (2).
func (w *world) judgeCapacity(old, next model.TableService, svc *model.Service) {
	release := svc.Release(next.Release)
	w.judgeWayBack(next, svc)
	if svc.Destroying || next.Release == svc.InService && old.Release != next.Release {
		return // the way back from a switch that did not come about
	}
	if mustStopFirst(svc) {
		return
	}
	has := func(t model.TableService, id model.ServerID) bool {
		return slices.ContainsFunc(t.Backends, func(b model.Upstream) bool { return b.Server == id })
	}
	lost, least := "", leastReady(svc, release)
	for _, b := range old.Backends {
		f := w.fact(b.Server)
		if !has(next, b.Server) && w.wellKnown(b.Server) && f.served {
			lost = string(b.Server)
			if f.told { // perhaps a while ago: a router that hung hears of it now
				least = min(least, f.least)
			}
		}
	}
	if lost != "" && len(next.Backends)+fallenSince(svc, model.ServerID(lost)) < least {
		w.violate(2, "a table takes server %s of %s out of rotation: %d stay, at least %d are promised", lost, next.Name, len(next.Backends), least)
	}
}

// fallenSince counts the servers that ended or became unhealthy by themselves
// after the given one had been told to leave: a router that was silent meanwhile
// hears of both at once, and only one of them was kiln's doing.
func fallenSince(svc *model.Service, leaver model.ServerID) (n int) {
	srv := svc.Servers[leaver]
	if srv == nil || srv.Phase != model.PhaseDraining {
		return 0
	}
	for _, at := range svc.Losses {
		if at >= srv.Since {
			n++
		}
	}
	return n
}

// judgeWayBack: while a canary runs the whole set in service stays in rotation,
// so that its end is one switch.
func (w *world) judgeWayBack(next model.TableService, svc *model.Service) {
	d, release := svc.Deployment, svc.Release(svc.InService)
	if d == nil || d.Strategy != model.Canary || release == nil || svc.Destroying || d.Stage >= len(d.Stages)-1 {
		return
	}
	left := slices.IndexFunc(next.Backends, func(b model.Upstream) bool { return b.Release != d.To })
	if left < 0 && len(next.Backends) > 0 && next.Split != nil && release.Policy.Servers > 0 && w.anyFit(svc, release) {
		w.violate(4, "a canary of %s at stage %d of %d leaves no server of the release in service in the table", next.Name, d.Stage+1, len(d.Stages))
	}
}

func (w *world) anyFit(svc *model.Service, release *model.Release) bool {
	for _, srv := range svc.Servers {
		if srv.Phase == model.PhaseServing && srv.TemplateHash == release.Template.Hash() && w.wellKnown(srv.ID) {
			return true
		}
	}
	return false
}

// wellKnown reports whether the server is fit for traffic as far as anybody
// could know for a while.
func (w *world) wellKnown(id model.ServerID) bool {
	f := w.fact(id)
	srv := w.journal.replay.Server(id)
	lately := f.unhealthy != 0 && w.now-f.unhealthy < 2*time.Minute
	return w.runs(id) && !f.wasGone && !lately && srv != nil && srv.Phase.Alive() && srv.Health != model.Unhealthy
}

// judgeDispatch: traffic reaches only servers that passed every check of their
// release (1). It reports whether somebody is there to take the request.
func (w *world) judgeDispatch(r *router, ts model.TableService, b model.Upstream) bool {
	for _, o := range w.machine.Observed(w.wall()) {
		if o.State == model.Running && o.Address+":8080" == b.Address && o.ID != b.Server {
			w.violate(1, "router %s sends a request for %s to %s, which is %s now", r.id, b.Server, b.Address, o.ID)
		}
	}
	if !w.runs(b.Server) {
		return false
	}
	t, _ := w.machine.Template(b.Server)
	release := w.journal.replay.Services[ts.Name].Release(b.Release)
	if t.Hash() != release.Template.Hash() {
		w.violate(1, "router %s sends a request for release %d to server %s, which is of another", r.id, b.Release, b.Server)
	}
	if missing := w.unproven(b.Server, release); missing != "" {
		w.violate(1, "router %s sends a request to server %s, which %s", r.id, b.Server, missing)
	}
	return true
}

// acknowledged is told that a router has acknowledged its table.
func (w *world) acknowledged(*router) { w.noteNames() }

// noteNames notes which servers requests may be sent to.
func (w *world) noteNames() {
	for id, f := range w.facts {
		named := names(w.routers.disk, id)
		for _, r := range w.routers.live {
			named = named || r.names(id)
		}
		if f.named && !named {
			f.unnamed = append(f.unnamed, w.now)
		}
		f.named = named
	}
}

// judgeCut: a request is cut only when the server has been out of every
// router's table for as long as the request's class may take (3).
func (w *world) judgeCut(r *router, q request, at time.Duration) {
	f := w.fact(q.server)
	srv, svc := w.server(q.server)
	if srv == nil || !w.runs(q.server) {
		return
	}
	drain := drainOf(svc.Release(srv.Release).Policy.Deploy.Drain, q.class)
	if left, has := f.left(q); !has || at < left+drain {
		w.violate(3, "router %s cuts a request to server %s at %s; it may take %s from %s on", r.id, q.server, at, drain, left)
	}
}
