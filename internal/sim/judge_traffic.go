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
// deployment switches to; a failed one never (4). One set serves, not a mix.
func (w *world) judgeRelease(ts model.TableService, svc *model.Service) {
	release := svc.Release(ts.Release)
	allowed := []int{svc.InService}
	if d := svc.Deployment; d != nil && d.Phase == model.DeploySwitching {
		allowed = append(allowed, d.To)
	}
	if svc.Pending != nil {
		allowed = append(allowed, svc.Pending.Release)
	}
	if !slices.Contains(allowed, ts.Release) {
		w.violate(4, "the table names release %d of %s; allowed is %v", ts.Release, ts.Name, allowed)
	}
	for _, b := range ts.Backends {
		if srv := svc.Servers[b.Server]; srv != nil && srv.TemplateHash != release.Template.Hash() {
			w.violate(4, "the table names server %s, which is not of release %d", b.Server, ts.Release)
		}
	}
}

// judgeCapacity: a new table takes no ready server away that is needed (2).
func (w *world) judgeCapacity(old, next model.TableService, svc *model.Service) {
	release := svc.Release(next.Release)
	if svc.Destroying || next.Release == svc.InService && old.Release != next.Release {
		return // the way back from a switch that did not come about
	}
	has := func(t model.TableService, id model.ServerID) bool {
		return slices.ContainsFunc(t.Backends, func(b model.Upstream) bool { return b.Server == id })
	}
	lost := ""
	for _, b := range old.Backends {
		if !has(next, b.Server) && w.wellKnown(b.Server) {
			lost = string(b.Server)
		}
	}
	if least := release.Policy.Servers - release.Policy.Deploy.MaxUnavailable.Down(release.Policy.Servers); lost != "" && len(next.Backends) < least {
		w.violate(2, "a table takes server %s of %s out of rotation: %d stay, at least %d are promised", lost, next.Name, len(next.Backends), least)
	}
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
	release := w.journal.replay.Services[ts.Name].Release(ts.Release)
	if t.Hash() != release.Template.Hash() {
		w.violate(1, "router %s sends a request for release %d to server %s, which is of another", r.id, ts.Release, b.Server)
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
