package reconcile

import (
	"fmt"
	"slices"

	"kiln/internal/model"
)

// A server is condemned when it has drifted, when somebody had a terminal in
// it, when it has reached its age, or when somebody asks for it. All of them go
// the same way: an identical server is made and proven, joins, and then the
// condemned one is drained, if the budget allows; one at a time in a service.

// outlive condemns the servers in service that reach their age: early enough
// for the servers of the service to be replaced one after the other.
func (v *service) outlive() {
	if v.svc.Destroying {
		return
	}
	for _, srv := range v.servers() {
		release := v.release(srv)
		ends := lifeEnds(srv, release.Policy.Lifetime)
		if srv.Phase != model.PhaseServing || ends == 0 {
			continue
		}
		if c := srv.Condemned; c != nil && c.From <= v.now.Elapsed && !v.svc.Dormant(srv) {
			continue
		}
		if !v.due(startBy(release, max(1, release.Policy.Servers), srv.RanSince, ends)) {
			continue
		}
		v.emit(model.ServerCondemned{
			ID: srv.ID, Cause: model.CondemnedByLifetime, From: v.now.Elapsed, Until: ends,
			Reason: fmt.Sprintf("it is to be replaced before it is %s old (max_age %s)", round(ends.Sub(srv.RanSince)), release.Policy.Lifetime.MaxAge),
		})
	}
}

// leaves reports whether the server is condemned and its time has come. What
// drifts again and again is not replaced for drift any more, but for what else
// has befallen it.
func (v *service) leaves(srv *model.Server) bool {
	c := srv.Condemned
	return c != nil && v.due(c.From) && (!v.svc.Dormant(srv) || srv.Taint != nil)
}

// held says why no replacement of a condemned server is begun now; "": nothing
// speaks against it. A deployment that is at work may replace it anyway; while
// one holds a stage, that may take long.
func (v *service) held(t *model.Release) string {
	d, b := v.svc.Deployment, v.svc.BackOff
	switch {
	case d != nil && d.Phase != model.DeployHolding:
		return fmt.Sprintf("deployment %s is %s", d.ID, d.Phase)
	case v.svc.Pending != nil:
		return fmt.Sprintf("the verdict of deployment %s is unknown", v.svc.Pending.Deployment)
	case v.svc.Experiment != nil: // one disturbance at a time
		return fmt.Sprintf("experiment %s runs", v.svc.Experiment.ID)
	case v.svc.Meltdown != nil:
		return v.svc.Meltdown.Reason
	case b.Failures > 0 && !v.due(b.Until):
		return "replacements are held back: " + b.Reason
	case len(straysOf(v.svc)) > 0:
		return "servers of a failed deployment are being replaced"
	default:
		return v.noRoom(t)
	}
}

// noRoom says what is missing for one more server beside those that run.
func (v *service) noRoom(t *model.Release) string {
	if v.obs.Snapshot == nil {
		return ""
	}
	free := v.obs.Snapshot.Capacity
	switch limit := memoryOf(t); {
	case v.yields(t): // the old one gives back what the new one takes
		return ""
	case free.Addresses < 1:
		return "no address is free for its replacement"
	case limit > free.MemoryFree:
		return fmt.Sprintf("its replacement needs %s of memory, and %s is free", bytesText(limit), bytesText(free.MemoryFree))
	default:
		return ""
	}
}

// recycle begins to replace the first of the condemned servers.
func (v *service) recycle(c crew, t *model.Release, want int) {
	if v.held(t) != "" {
		return
	}
	srv := firstToLeave(c.leaving)
	switch {
	case !v.yields(t):
		v.create(t, fmt.Sprintf("replaces %s: %s", srv.ID, srv.Condemned.Reason))
	case len(c.fit) >= want: // all the others are there: one may be away
		v.emit(v.becomeDraining(srv, "stopped before its successor starts: "+srv.Condemned.Reason, v.leavingGeneration(srv), ""))
	}
}

// firstToLeave returns the condemned server whose time is up first; one that
// has no time comes before all.
func firstToLeave(leaving []*model.Server) *model.Server {
	return slices.MinFunc(leaving, func(a, b *model.Server) int { return int(a.Condemned.Until - b.Condemned.Until) })
}

// yields reports whether a server of the release is stopped before its
// successor starts: it has a volume that one at a time may have, or has no
// route and no overlap is declared.
func (v *service) yields(t *model.Release) bool {
	return !overlaps(t)
}

// overlaps reports whether two servers of the release, one of them beyond the
// count, may run at once.
func overlaps(t *model.Release) bool {
	return !t.Template.SingleWriter() && (routed(t) || t.Policy.Deploy.Overlap)
}

// occupied reports whether a server on its way out still has what the next one
// needs for itself.
func (v *service) occupied(t *model.Release) bool {
	for _, srv := range v.svc.Servers {
		out := srv.Phase.Alive() && (srv.TemplateHash != t.TemplateHash || srv.Phase == model.PhaseDraining || srv.Phase == model.PhaseStopping)
		switch {
		case !out:
		case contend(v.release(srv), t):
			return true
		case srv.Condemned != nil && srv.TemplateHash == t.TemplateHash && srv.Aside == 0 && v.yields(t):
			return true
		}
	}
	return false
}

// contend reports whether the two releases have a volume in common that one
// server at a time may have.
func contend(a, b *model.Release) bool {
	return slices.ContainsFunc(a.Template.Volumes, func(x model.Mount) bool {
		return slices.ContainsFunc(b.Template.Volumes, func(y model.Mount) bool {
			return x.Volume == y.Volume && (x.Access != model.Shared || y.Access != model.Shared)
		})
	})
}

// overdue notes condemned servers that still serve though their time is up: the
// last healthy ones stay, and that is an alarm.
func (v *service) overdueServers() {
	if v.svc.Destroying {
		return
	}
	for _, srv := range v.servers() {
		c := srv.Condemned
		if c == nil || c.Late || srv.Phase != model.PhaseServing || !v.due(c.Until) {
			continue
		}
		v.emit(model.ServerOverdue{ID: srv.ID, Reason: v.whyStill(srv)})
	}
}

// whyStill says what keeps a condemned server in service.
func (v *service) whyStill(srv *model.Server) string {
	t := v.inService()
	switch {
	case t == nil || srv.TemplateHash != t.TemplateHash:
		return "it is not of the release in service, and its deployment has not ended"
	case v.svc.Dormant(srv) && srv.Taint == nil:
		return v.svc.Recurrence.Reason
	}
	if why := v.held(t); why != "" {
		return why
	}
	c := v.crew(t)
	switch {
	case len(c.coming) > 0:
		return fmt.Sprintf("server %s, which is to take a place, has not passed its checks", c.coming[0].ID)
	case len(c.fit)-1 < Floor(v.svc) && len(c.ready) == 0:
		return fmt.Sprintf("%s of %d can serve: none can be spared", count(len(c.fit), "server"), t.Policy.Servers)
	default:
		return "others are replaced before it"
	}
}

// aside reports whether the server waits out of rotation for a session.
func (v *service) aside(srv *model.Server) bool { return srv.Aside != 0 && !v.due(srv.Aside) }
