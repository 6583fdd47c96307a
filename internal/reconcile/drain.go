package reconcile

import "kiln/internal/model"

// noteDrains notes that nothing is in flight any more to a server that gets
// nothing new.
func (v *service) noteDrains() {
	for _, srv := range v.servers() {
		retired := srv.Phase == model.PhaseWarm || srv.Phase == model.PhaseDraining
		if !retired || srv.Drained || v.switchingMember(srv) {
			continue
		}
		if srv.DrainGen == 0 {
			v.emit(model.ServerDrained{ID: srv.ID})
			continue
		}
		if !v.routers.acknowledged(srv.DrainGen) {
			continue
		}
		// The routers cut what is left at the deadlines. One that does not is
		// not waited for: the process is ended with what it still holds.
		overdue := srv.Phase == model.PhaseDraining && v.overdue(srv)
		if v.routers.flight[srv.ID].InFlight.Total() == 0 || overdue {
			v.emit(v.drained(srv))
		}
	}
}

func (v *service) overdue(srv *model.Server) bool {
	if srv.DrainSince == 0 {
		return false
	}
	return v.due(srv.DrainSince.Add(v.release(srv).Policy.Deploy.Drain.Longest().D() + drainSlack))
}

// drained counts what became of the requests that were in flight when the
// server was retired. A router that was restarted meanwhile counts anew; then
// the figures are the best that can be had.
func (v *service) drained(srv *model.Server) model.Payload {
	now := v.routers.flight[srv.ID]
	cut := now.Cut
	if cut >= srv.DrainCut {
		cut -= srv.DrainCut
	}
	cut += uint64(now.InFlight.Total())
	finished := uint64(max(0, srv.DrainFlight-int(cut)))
	return model.ServerDrained{ID: srv.ID, Finished: finished, Cut: cut}
}

// settle closes the account of the ended deployments: all that they took out
// of service is drained.
func (v *service) settle() {
	for _, d := range v.svc.Deployments {
		if d.Settled || v.svc.Pending != nil && v.svc.Pending.Deployment == d.ID || v.drains(d.ID) {
			continue
		}
		v.emit(model.DeploymentSettled{ID: d.ID, Service: v.svc.Name, Finished: d.Finished, Cut: d.Cut})
	}
}

func (v *service) drains(id model.DeploymentID) bool {
	for _, srv := range v.svc.Servers {
		if srv.Retired == id && !srv.Drained && (srv.Phase == model.PhaseWarm || srv.Phase == model.PhaseDraining) {
			return true
		}
	}
	return false
}

// endServers moves the servers on that are on their way out.
func (v *service) endServers() {
	for _, srv := range v.servers() {
		switch srv.Phase {
		case model.PhaseWarm:
			switch {
			case v.wanted(srv):
			case v.due(srv.Until):
				v.emit(v.becomeDraining(srv, "kept warm for long enough", 0, ""))
			case v.leaves(srv):
				v.emit(v.becomeDraining(srv, srv.Condemned.Reason, 0, ""))
			}
		case model.PhaseReady:
			if !v.svc.Destroying && !v.wanted(srv) && srv.TemplateHash != v.hashInService() { // an open switch to it gave way to another
				v.emit(v.becomeDraining(srv, "no release that is in service, or about to be, has it", v.s.Table.Generation+1, ""))
			}
		case model.PhaseDraining:
			switch {
			case !srv.Drained:
			case v.aside(srv) && !v.svc.Destroying:
				v.emit(v.becomeAside(srv))
			default:
				v.emit(v.becomeStopping(srv, srv.Reason))
			}
		case model.PhaseParked:
			if v.parkedEnough(srv) {
				v.emit(v.unpark(srv))
			}
		case model.PhaseStopping:
			if !srv.Inspected && v.due(srv.Since.Add(inspectTimeout)) {
				v.emit(v.becomeInspected(srv))
			}
		default:
		}
	}
}

// wanted reports whether a running deployment or an open switch counts on the
// warm server.
func (v *service) wanted(srv *model.Server) bool {
	if v.svc.Destroying {
		return false
	}
	t, p := v.target(), v.pending()
	return t != nil && t.TemplateHash == srv.TemplateHash || p != nil && p.TemplateHash == srv.TemplateHash
}

// supersedes reports whether a deployment runs that is newer than the one the
// parked server was made for.
func (v *service) supersedes(srv *model.Server) bool {
	d := v.svc.Deployment
	return d != nil && d.To > srv.Release
}

// parkedEnough reports whether the time for inspection is over. One that waits
// for a session does so until that one's time is up, or somebody has it
// recycled.
func (v *service) parkedEnough(srv *model.Server) bool {
	recycled := srv.Condemned != nil && srv.Condemned.Cause == model.CondemnedByRequest
	return v.due(max(srv.Until, srv.Aside)) || v.supersedes(srv) && !v.aside(srv) || v.svc.Destroying || recycled
}

// unpark ends the time for inspection. A server that died while it was parked
// has no process to stop.
func (v *service) unpark(srv *model.Server) model.Payload {
	if o, known := v.observed(srv.ID); known && (o == nil || o.State == model.Exited) {
		exit := srv.Exit
		if exit == nil {
			exit = exitOf(o)
		}
		return v.becomeEnded(srv, srv.Reason, exit)
	}
	return v.becomeStopping(srv, srv.Reason)
}

func (v *service) becomeInspected(srv *model.Server) model.Payload {
	return become(srv, model.ServerAdvanced{
		Phase: model.PhaseStopping, Reason: srv.Reason, Until: srv.Until, Inspected: true,
	})
}
