package reconcile

import (
	"cmp"
	"fmt"
	"slices"

	"kiln/internal/model"
)

// makeRoom has the old servers leave that a stage has no room beside, and
// reports whether the new ones have to wait for it. Those are taken away by
// keepUp, which wants fewer of them now, under the budget. What still drains
// after a while runs beside: a download must not hold up a deployment.
func (v *service) makeRoom() bool {
	d := v.svc.Deployment
	if d.Strategy != model.Rolling || !staged(v.svc) || v.lacks() == 0 {
		return false
	}
	serving, running := 0, 0
	for _, srv := range v.servers() {
		if srv.Phase.Alive() && srv.Phase != model.PhaseParked && srv.Phase != model.PhaseWarm {
			running++
		}
		if srv.Phase == model.PhaseServing && srv.TemplateHash == v.hashInService() {
			serving++
		}
	}
	to, from := v.target().Policy, v.inService().Policy
	most := max(to.Servers, from.Servers) + to.Deploy.MaxSurge.Up(to.Servers)
	switch away := serving - oldWanted(v.svc); {
	case away > 0:
		v.waitFor(count(away, "old server") + " to leave the rotation")
	case running+v.lacks() > most && !v.due(d.Since.Add(roomTimeout)):
		v.waitFor("old servers to end: " + fmt.Sprint(running) + " run")
	default:
		return false
	}
	return true
}

// completeStage puts the servers of a stage before the last in service beside
// the old ones, of which those leave that are too many now.
func (v *service) completeStage() {
	d, t := v.svc.Deployment, v.target()
	stage := d.Stages[d.Stage]
	for _, srv := range v.set() {
		if srv.Phase != model.PhaseServing {
			v.emit(v.becomeServing(srv, t.Number))
		}
	}
	generation := v.s.Table.Generation
	if !listed(t, v.inService()) {
		generation = 0
	}
	old := oldServing(v.svc)
	spared := min(len(old), oldWanted(v.svc)) // those beyond were being replaced: that is no doing of the deployment
	for i, srv := range old {
		switch {
		case i < stage.Old:
		case i < spared:
			v.emit(v.becomeDraining(srv, fmt.Sprintf("release %d took its place", t.Number), generation, d.ID))
		default:
			v.emit(v.becomeDraining(srv, beyond(srv), generation, ""))
		}
	}
	v.advance(model.DeployHolding, v.holdsFor(stage))
}

// beyond says why a server leaves that has a replacement in service already.
func beyond(srv *model.Server) string {
	switch {
	case srv.Health == model.Unhealthy:
		return "unhealthy, and replaced: " + srv.HealthDetail
	case srv.Condemned != nil:
		return "replaced: " + srv.Condemned.Reason
	default:
		return "more servers than wanted"
	}
}

func (v *service) holdsFor(stage model.Stage) string {
	switch d := v.svc.Deployment; {
	case d.Pause != nil:
		return pausedBy(d)
	case stage.Hold > 0:
		return fmt.Sprintf("%s to pass in %s", stage.Hold, stageWords(d))
	default:
		return "the next stage"
	}
}

func pausedBy(d *model.Deployment) string { return "kiln canary resume: paused by " + d.Pause.By }

// oldInRotation returns the n servers of the release in service that stay in
// rotation beside a new one.
func oldInRotation(svc *model.Service, n int) []*model.Server {
	old := oldServing(svc)
	return old[:min(len(old), n)]
}

// oldServing returns the serving servers of the release in service, those first
// that stay longest beside a new one: the healthy, then the condemned, then the
// unhealthy, and of each the oldest.
func oldServing(svc *model.Service) []*model.Server {
	release := svc.Release(svc.InService)
	if release == nil {
		return nil
	}
	var old []*model.Server
	for _, srv := range serversOf(svc) {
		if srv.Phase == model.PhaseServing && srv.TemplateHash == release.TemplateHash {
			old = append(old, srv)
		}
	}
	worth := func(srv *model.Server) int {
		switch {
		case srv.Health == model.Unhealthy:
			return 2
		case srv.Condemned != nil:
			return 1
		default:
			return 0
		}
	}
	slices.SortStableFunc(old, func(a, b *model.Server) int { return cmp.Compare(worth(a), worth(b)) })
	return old
}

// hold waits until the time of a stage is over, and goes on to the next. A
// stage in which no daemon watched is held anew.
func (v *service) hold() {
	d := v.svc.Deployment
	switch {
	case v.lacks() > 0:
		v.advance(model.DeployProvisioning, count(v.lacks(), "server")+" in the place of what was lost")
	case d.Pause != nil:
		v.waitFor(pausedBy(d))
	case d.Finish != "":
		v.nextStage(len(d.Stages) - 1)
	case v.due(d.Deadline):
		v.endDeployment(model.Failed, v.late(), nil)
	case v.due(max(d.Until, v.s.DaemonSince.Add(v.phaseTime(d.Phase, d.Stage)))):
		v.nextStage(d.Stage + 1)
	default:
		v.waitFor(v.holdsFor(d.Stages[d.Stage]))
	}
}

func (v *service) nextStage(stage int) {
	next := *v.svc.Deployment
	next.Stage = stage
	v.advanceTo(model.DeployProvisioning, stage, "the new servers of "+stageWords(&next)+" to run")
}

// newSide reports whether the server is of the release that the running
// deployment brings, and serves already: what becomes of it decides about the
// deployment.
func (v *service) newSide(srv *model.Server) bool {
	return srv.Phase == model.PhaseServing && staged(v.svc) && srv.TemplateHash == v.target().TemplateHash
}
