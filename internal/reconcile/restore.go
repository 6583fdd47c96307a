package reconcile

import (
	"slices"
	"time"

	"kiln/internal/model"
)

// A journal that was restored from a backup is behind the world: servers run
// that it does not know, and others that it knows are long gone. Until routers
// use a table of this journal, what serves is left to serve.

// adoptTimeout is how long routers are left with the table of the lost journal
// while the set in service is brought up to its count.
const adoptTimeout = time.Minute

// restoring reports whether the world is still that of the lost journal.
func (st *step) restoring() bool { return st.s.RestoredAt != 0 }

// adopt takes in servers that run the template in service and that the journal
// does not know. They are checked as new ones are before they count.
func (v *service) adopt() {
	t := v.inService()
	if !v.restoring() || t == nil || v.svc.Destroying || v.obs.Snapshot == nil {
		return
	}
	room := missing(v.svc, t)
	for _, o := range v.obs.Snapshot.Servers {
		if room == 0 {
			return
		}
		if o.State != model.Running || o.ID.Service() != v.svc.Name || o.TemplateHash != t.TemplateHash || v.s.Server(o.ID) != nil {
			continue
		}
		room--
		v.emit(model.ServerCreated{
			ID: o.ID, Service: v.svc.Name, Release: t.Number, TemplateHash: t.TemplateHash,
			Cause: "it ran when the journal was restored from a backup", Until: v.now.Elapsed.Add(provisionTimeout),
		})
	}
}

// withheld reports whether routers keep the table of the lost journal: what it
// names may serve, and this journal has no set yet to take its place.
func (st *step) withheld() bool {
	if !st.restoring() || !slices.ContainsFunc(st.obs.Routers, func(r model.RouterStatus) bool { return r.Generation != 0 }) {
		return false
	}
	if st.due(st.s.DaemonSince.Add(adoptTimeout)) {
		return false
	}
	for _, svc := range st.s.Services {
		t := svc.Release(svc.InService)
		if !routed(t) || svc.Destroying || svc.Destroyed {
			continue
		}
		serving := 0
		for _, srv := range svc.Servers {
			if srv.Phase == model.PhaseServing && srv.TemplateHash == t.TemplateHash && st.lives(srv) {
				serving++
			}
		}
		if serving < t.Policy.Servers {
			return true
		}
	}
	return false
}

// lives reports whether the engine shows the server running.
func (st *step) lives(srv *model.Server) bool {
	o, known := st.observed(srv.ID)
	return known && o != nil && o.State == model.Running
}

// spared reports whether an orphan is left alone: it may be what serves.
func (st *step) spared(o model.Observed) bool {
	return st.restoring() && o.State == model.Running && st.s.Services[o.ID.Service()] != nil
}
