package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// switchOver waits for the routers and completes the switch of a stage. Until
// every one of them has acknowledged, the old set stays as it is and the way
// back is open.
func (v *service) switchOver() {
	d, t := v.svc.Deployment, v.target()
	if lost := v.lostMembers(t, v.set(), v.lacks()); lost != "" {
		v.endDeployment(model.Failed, "during the switch "+lost, nil)
		return
	}
	inUse := !listed(t, v.inService(), v.pending())
	if !inUse {
		if d.Generation == 0 {
			return // publish gives it its generation in this very step
		}
		inUse = v.routers.acknowledged(d.Generation) && v.tableInUse()
	}
	switch {
	case inUse && !d.LastStage():
		v.completeStage()
	case inUse:
		v.completeSwitch(t, d.ID, v.s.Table.Generation)
		v.endDeployment(model.Succeeded, v.success(t), nil)
	case !v.overdueDeployment():
	case v.routers.silent == 0 && v.routers.live > 0 && v.routers.most < d.Generation:
		v.endDeployment(model.Failed, "no router took the new table within "+model.Duration(switchTimeout).String(), nil)
	case !d.LastStage():
		v.endDeployment(model.Failed, fmt.Sprintf("%s; release %d stays in service", v.silence(), d.From), nil)
	default:
		v.endDeployment(model.Unknown, v.silence()+"; both sets of servers stay, and the switch is completed when they do", nil)
	}
}

func (v *service) success(t *model.Release) string {
	if listed(t, v.inService(), v.pending()) {
		return fmt.Sprintf("release %d is in service: every router has acknowledged it", t.Number)
	}
	return fmt.Sprintf("release %d is in service", t.Number)
}

func (v *service) silence() string {
	return fmt.Sprintf("%d of %d routers did not acknowledge the new table (generation %d)",
		max(1, v.routers.silent), v.routers.live+v.routers.silent, v.svc.Deployment.Generation)
}

// lostMembers says which servers a set that is being switched to has lost.
func (v *service) lostMembers(t *model.Release, set []*model.Server, lacks int) string {
	if lacks > 0 {
		return fmt.Sprintf("%d of its %d servers were lost", lacks, lacks+len(set))
	}
	for _, srv := range set {
		if !proven(srv.Phase) {
			return fmt.Sprintf("server %s was lost", srv.ID)
		}
		if srv.Checks != t.ChecksHash {
			return fmt.Sprintf("a server was lost; server %s has not passed the checks of release %d", srv.ID, t.Number)
		}
		if srv.Health == model.Unhealthy {
			return fmt.Sprintf("server %s became unhealthy: %s", srv.ID, srv.HealthDetail)
		}
	}
	return ""
}

// completeSwitch puts the release's set in service and retires every other
// server. generation is the first table without them.
func (v *service) completeSwitch(t *model.Release, by model.DeploymentID, generation uint64) {
	if !listed(t, v.inService(), v.pending()) {
		generation = 0
	}
	v.emit(model.ServiceSwitched{Service: v.svc.Name, Release: t.Number, Deployment: by})
	set := map[model.ServerID]bool{}
	for _, srv := range members(v.svc, t) {
		set[srv.ID] = true
		if srv.Phase != model.PhaseServing || srv.Release != t.Number {
			v.emit(v.becomeServing(srv, t.Number))
		}
	}
	for _, srv := range v.servers() {
		if !set[srv.ID] {
			v.retire(srv, t, by, generation)
		}
	}
	if v.svc.BackOff.Failures > 0 {
		v.emit(model.ServiceBackedOff{Service: v.svc.Name})
	}
}

// retire takes a server out of service for another release. The set that
// served may wait warm; there is one such set, so an older one is drained when
// the template changes. A rolling deployment has taken that set apart.
func (v *service) retire(srv *model.Server, t *model.Release, by model.DeploymentID, generation uint64) {
	reason := fmt.Sprintf("release %d took its place", t.Number)
	keep := t.Policy.Deploy.KeepWarm.D()
	switch srv.Phase {
	case model.PhaseServing:
		d := v.svc.DeploymentByID(by)
		if d != nil && d.Strategy == model.Rolling || srv.TemplateHash != v.hashInService() {
			keep = 0
		}
		if keep > 0 && generation != 0 && routed(v.release(srv)) && srv.Health != model.Unhealthy && srv.Condemned == nil && srv.TemplateHash != t.TemplateHash {
			v.emit(become(srv, v.leaving(srv, model.ServerAdvanced{
				Phase: model.PhaseWarm, Reason: reason, Until: v.now.Elapsed.Add(keep), DrainGen: generation, Retired: by,
			})))
			return
		}
		v.emit(v.becomeDraining(srv, reason, generation, by))
	case model.PhaseReady:
		v.emit(v.becomeDraining(srv, reason, generation, by))
	case model.PhaseWarm:
		if t.TemplateHash != v.hashInService() {
			if !backInTable(v.svc, srv) {
				generation = 0
			}
			v.emit(v.becomeDraining(srv, "another set waits warm now", generation, ""))
		}
	case model.PhaseCreated, model.PhaseRunning:
		if srv.TemplateHash != t.TemplateHash {
			v.emit(v.becomeStopping(srv, reason))
		}
	default:
	}
}

// endDeployment gives the verdict. Unless it is success, or unknown, the
// servers that the deployment made are let go, but for those laid to rest
// already.
func (v *service) endDeployment(verdict model.Verdict, reason string, laid map[model.ServerID]bool) {
	d := v.svc.Deployment
	if d == nil || v.ended {
		return
	}
	if !CanBecome(d.Phase, model.DeployEnded) {
		panic(fmt.Sprintf("reconcile: deployment %s is %s and cannot end", d.ID, d.Phase))
	}
	v.ended = true
	if at := stageWords(d); at != "" && verdict == model.Failed {
		reason = at + ": " + reason
	}
	v.emit(model.DeploymentEnded{
		ID: d.ID, Service: v.svc.Name, Verdict: verdict, Reason: reason, TookMS: v.now.Elapsed.Sub(d.Started).Milliseconds(),
	})
	if verdict == model.Succeeded || verdict == model.Unknown {
		return
	}
	for id := range laid { // they count no more, though the state has them still
		if srv := v.svc.Servers[id]; srv.Phase == model.PhaseServing && srv.Health != model.Unhealthy && srv.TemplateHash == v.hashInService() {
			v.lost++
		}
	}
	for _, srv := range v.servers() {
		if !laid[srv.ID] {
			v.letGo(srv, fmt.Sprintf("deployment %s %s", d.ID, verdict), d.ID)
		}
	}
}

// letGo ends a server that a deployment made or was about to take over. Those
// of a canary that serve already leave at once if all old servers are there.
// Otherwise, and in a rolling deployment, they serve on until their places are
// taken (keepUp).
func (v *service) letGo(srv *model.Server, reason string, by model.DeploymentID) {
	made := v.madeBy(v.svc.Deployment, srv)
	switched := v.switchingMember(srv) && srv.TemplateHash == v.target().TemplateHash
	switch {
	case v.newSide(srv):
		if v.svc.Deployment.Strategy == model.Canary && Budget(v.svc) >= v.lost {
			v.emit(v.becomeDraining(srv, reason, v.leavingGeneration(srv), by))
		}
	case switched && srv.Phase != model.PhaseServing:
		v.emit(v.becomeDraining(srv, reason, v.s.Table.Generation+1, by))
	case made && v.hashInService() != srv.TemplateHash:
		v.emit(v.becomeStopping(srv, reason))
	}
}

func (v *service) hashInService() string {
	if r := v.inService(); r != nil {
		return r.TemplateHash
	}
	return ""
}

// resolvePending completes a switch whose verdict was unknown when the routers
// have acknowledged it after all, or abandons it when its servers are lost.
func (v *service) resolvePending() {
	p, t := v.svc.Pending, v.pending()
	if p == nil || v.svc.Destroying || v.svc.Deployment != nil && v.svc.Deployment.Phase == model.DeploySwitching {
		return
	}
	lost := v.lostMembers(t, members(v.svc, t), missing(v.svc, t))
	switch {
	case lost != "":
		if d := v.svc.Deployment; d != nil && stopFirst(t, v.target()) {
			lost = fmt.Sprintf("deployment %s ends its servers before it makes its own", d.ID)
		}
		v.emit(model.SwitchAbandoned{Service: v.svc.Name, Deployment: p.Deployment, Reason: lost})
		for _, srv := range v.servers() {
			if v.switchingMember(srv) && srv.Phase != model.PhaseServing {
				v.emit(v.becomeDraining(srv, "the switch to it was abandoned: "+lost, v.s.Table.Generation+1, p.Deployment))
			}
		}
	case v.routers.acknowledged(p.Generation) && v.tableInUse():
		v.completeSwitch(t, p.Deployment, v.s.Table.Generation)
	}
}
