package reconcile

import (
	"fmt"
	"slices"

	"kiln/internal/model"
)

// crew is the set in service, sorted by what can be expected of its servers.
type crew struct {
	fit    []*model.Server // serve, and are not known to be unhealthy
	sick   []*model.Server // serve, unhealthy
	ready  []*model.Server // may join at once
	coming []*model.Server // being made or checked

	leaving []*model.Server // of fit: condemned, and their time has come
}

func (v *service) crew(t *model.Release) crew {
	var c crew
	for _, srv := range v.servers() {
		if srv.TemplateHash != t.TemplateHash {
			continue
		}
		switch srv.Phase {
		case model.PhaseServing:
			if srv.Health == model.Unhealthy {
				c.sick = append(c.sick, srv)
			} else {
				c.fit = append(c.fit, srv)
				if v.leaves(srv) {
					c.leaving = append(c.leaving, srv)
				}
			}
		case model.PhaseReady:
			c.ready = append(c.ready, srv)
		case model.PhaseCreated, model.PhaseRunning:
			c.coming = append(c.coming, srv)
		default:
		}
	}
	return c
}

// keepUp keeps the release in service at its count: dead servers are replaced,
// unhealthy ones too when they stay so, by servers of the same template.
// Nothing here deploys.
func (v *service) keepUp() {
	t := v.inService()
	if t == nil || v.svc.Destroying || v.keptByOther(t) {
		return
	}
	c := v.crew(t)
	want, strays := oldWanted(v.svc)+v.spare(t), straysOf(v.svc)
	switch {
	case len(c.ready) > 0:
		v.join(c, t, want)
	case len(c.fit)+len(c.sick) > want:
		v.shed(c, want)
	case v.sendHome(c, strays, want):
	case len(c.fit)+len(c.sick)+len(c.coming) > want+min(1, len(c.sick)+v.replaceable(c)):
		needed := max(0, want+min(1, len(c.sick)+v.replaceable(c))-len(c.fit)-len(c.sick))
		for _, newest := range slices.Backward(c.coming[needed:]) {
			v.emit(v.becomeStopping(newest, "not needed any more"))
		}
	default:
		v.replace(c, t, want, v.atOnce(len(strays)))
	}
	if !v.spoke() {
		v.calmDown(c, want)
	}
}

// replaceable counts the condemned servers whose replacement may go on: none
// while a deployment moves, which has the room for its own.
func (v *service) replaceable(c crew) int {
	if d := v.svc.Deployment; d != nil && d.Phase != model.DeployHolding && d.Phase != model.DeployPreparing {
		return 0
	}
	return len(c.leaving)
}

// sendHome drains the servers that a failed rolling deployment has left in
// service, when they are not needed any more: for each server of the release in
// service that joins, one goes. It reports whether any went.
func (v *service) sendHome(c crew, strays []*model.Server, want int) bool {
	fit := 0
	for _, srv := range strays {
		if srv.Health != model.Unhealthy {
			fit++
		}
	}
	for _, srv := range slices.Backward(strays) {
		sick := srv.Health == model.Unhealthy
		if sick && len(c.fit)+fit > 0 || !sick && len(c.fit)+fit > want {
			v.emit(v.becomeDraining(srv, fmt.Sprintf("release %d, which was not to stay, gives its place back", srv.Release), v.leavingGeneration(srv), ""))
			if !sick {
				fit--
			}
		}
	}
	return v.spoke()
}

// keptByOther reports whether a deployment or an open switch is at work on the
// servers of the release in service, so that keepUp leaves them alone.
func (v *service) keptByOther(t *model.Release) bool {
	if p := v.pending(); p != nil && p.TemplateHash == t.TemplateHash {
		return true
	}
	d := v.target()
	if d == nil {
		return false
	}
	return d.TemplateHash == t.TemplateHash || v.stopsFirst() && v.svc.Deployment.Phase != model.DeployPreparing
}

// join puts proven replacements in service, as far as they are wanted.
func (v *service) join(c crew, t *model.Release, want int) {
	room := want - len(c.fit) + len(c.leaving) // these go when their successors have come
	for _, srv := range c.ready {
		switch {
		case srv.Health == model.Unhealthy || srv.Checks != t.ChecksHash:
			v.emit(v.becomeStopping(srv, "it does not pass the checks of the release in service: "+srv.HealthDetail))
		case room > 0:
			v.emit(v.becomeServing(srv, t.Number))
			room--
		default:
			v.emit(v.becomeStopping(srv, "not needed any more"))
		}
	}
}

// shed makes a set smaller that is larger than wanted: an unhealthy server goes
// where there is one, else a condemned one, else the newest, as many as the
// budget allows.
func (v *service) shed(c crew, want int) {
	if len(c.sick) > 0 {
		srv := c.sick[0]
		v.emit(v.becomeDraining(srv, beyond(srv), v.leavingGeneration(srv), ""))
		return
	}
	if Budget(v.svc) <= 0 || len(c.leaving) > 0 && v.svc.Experiment != nil {
		return // one disturbance at a time
	}
	if len(c.leaving) > 0 {
		// Until every router knows those that have joined, nobody who could wait
		// leaves: one of them may fall ill before a silent router hears of it.
		if v.s.Table.Acknowledged < v.s.Table.Generation {
			return
		}
		srv := firstToLeave(c.leaving)
		v.emit(v.becomeDraining(srv, beyond(srv), v.leavingGeneration(srv), ""))
		return
	}
	for left := len(c.fit); left > max(want, len(c.fit)-Budget(v.svc)); left-- {
		srv, by, reason := c.fit[left-1], model.DeploymentID(""), fmt.Sprintf("more servers than the %d wanted", want)
		if staged(v.svc) && left <= v.inService().Policy.Servers { // one beyond these was a spare
			by, reason = v.svc.Deployment.ID, fmt.Sprintf("makes room for release %d", v.svc.Deployment.To)
		}
		v.emit(v.becomeDraining(srv, reason, v.leavingGeneration(srv), by))
	}
}

// replace makes servers for those that are missing, and one at a time for
// those that stay unhealthy: the replacement is proven before the other goes.
// No more than atOnce are on their way at a time.
func (v *service) replace(c crew, t *model.Release, want, atOnce int) {
	gone := min(want-len(c.fit)-len(c.sick), atOnce) - len(c.coming)
	ill := slices.DeleteFunc(slices.Clone(c.sick), func(srv *model.Server) bool {
		return !v.due(max(srv.HealthSince, v.s.DaemonSince).Add(t.Policy.Health.Grace.D()))
	})
	switch {
	case gone <= 0 && (len(ill)+len(c.leaving) == 0 || len(c.coming) > 0):
		return
	case gone > 0 && v.occupied(t):
		return
	}
	if b := v.svc.BackOff; b.Failures > 0 && !v.due(b.Until) {
		return
	}
	cause := "replaces a server that ended"
	if x := v.svc.Experiment; x != nil && len(c.fit)+len(c.sick) >= t.Policy.Servers {
		cause = fmt.Sprintf("stands in for %s, which experiment %s disturbs", x.Server, x.ID)
	}
	for range gone {
		v.create(t, cause)
	}
	switch {
	case gone > 0:
	case len(ill) == 0:
		v.recycle(c, t, want)
	case t.Template.SingleWriter():
		v.emit(v.becomeDraining(ill[0], "unhealthy, and stopped before its successor starts: "+ill[0].HealthDetail, v.leavingGeneration(ill[0]), ""))
	default:
		v.create(t, fmt.Sprintf("replaces %s, unhealthy: %s", ill[0].ID, ill[0].HealthDetail))
	}
}

// calmDown ends the back-off when all has been well for a while.
func (v *service) calmDown(c crew, want int) {
	if v.svc.BackOff.Failures == 0 || len(c.fit) < want || len(c.fit) == 0 || len(c.leaving) > 0 {
		return
	}
	youngest := c.fit[0]
	for _, srv := range c.fit {
		if srv.RanSince > youngest.RanSince {
			youngest = srv
		}
	}
	if v.due(max(youngest.RanSince.Add(v.earlyWindow(youngest)), v.svc.BackOff.Until)) {
		v.emit(model.ServiceBackedOff{Service: v.svc.Name})
	}
}

// destroy retires everything of a service that shall not be any more.
func (v *service) destroy() {
	if !v.svc.Destroying {
		return
	}
	const reason = "the service is destroyed"
	for _, d := range v.svc.Queue {
		v.emit(dropped(d, reason, v.now))
	}
	if d := v.svc.Deployment; d != nil {
		v.endDeployment(model.Aborted, reason, nil)
		return
	}
	for _, srv := range v.servers() {
		switch srv.Phase {
		case model.PhaseServing, model.PhaseWarm:
			v.emit(v.becomeDraining(srv, reason, v.leavingGeneration(srv), ""))
		case model.PhaseReady:
			if generation := v.leavingGeneration(srv); generation != 0 {
				v.emit(v.becomeDraining(srv, reason, generation, ""))
			} else {
				v.emit(v.becomeStopping(srv, reason))
			}
		case model.PhaseCreated, model.PhaseRunning:
			v.emit(v.becomeStopping(srv, reason))
		default:
		}
	}
	if len(v.svc.Servers) == 0 {
		v.emit(model.ServiceDestroyed{Service: v.svc.Name})
	}
}
