package sim

import (
	"slices"
	"time"

	"kiln/internal/model"
)

// noteVerdict: the verdict is true, has a reason, and a failed deployment left
// the release in service as it was (4).
func (w *world) noteVerdict(p model.DeploymentEnded, s *model.State) {
	svc := s.Services[p.Service]
	d := svc.DeploymentByID(p.ID)
	if d == nil {
		return
	}
	w.cover.met(kindDeployment, arrow(d.Phase, model.DeployEnded))
	w.cover.met(kindVerdict, string(p.Verdict))
	if p.Reason == "" {
		w.violate(4, "deployment %s ends as %s without a reason", d.ID, p.Verdict)
	}
	if d.Phase == model.DeployQueued {
		return
	}
	if d.Held > 0 && p.Verdict != model.Succeeded {
		w.cover.met(kindStage, string(d.Strategy)+" ended in force")
	}
	to := svc.Release(d.To)
	routed := len(to.Policy.Routes) > 0 && to.Policy.Servers > 0
	switch p.Verdict {
	case model.Succeeded:
		w.judgeDoomed(d.ID, "succeeded")
		if svc.InService != d.To {
			w.violate(4, "deployment %s succeeded, and release %d is in service", d.ID, svc.InService)
		}
		if routed && !w.everyRouter(p.Service, to) {
			w.violate(4, "deployment %s succeeded, and a router does not serve release %d", d.ID, d.To)
		}
	case model.Unknown:
		if routed && w.everyRouter(p.Service, to) && !w.anySilent() && w.newestTable(s, to) {
			w.violate(4, "deployment %s ends as unknown, and every router serves release %d", d.ID, d.To)
		}
	default:
		w.judgeFailed(d, svc)
	}
}

// judgeFailed: a failed deployment left the release in service untouched (4).
func (w *world) judgeFailed(d *model.Deployment, svc *model.Service) {
	if d.Switched || svc.InService != d.From && !lateSwitch(svc) {
		w.violate(4, "deployment %s failed; release %d was in service, now it is %d", d.ID, d.From, svc.InService)
	}
	if d.Strategy == model.Rolling {
		return // its batches have taken places, and give them back under the budget
	}
	from, to := svc.Release(d.From), svc.Release(d.To)
	if from == nil || len(from.Policy.Routes) == 0 || from.Template.SingleWriter() && to.Template.SingleWriter() {
		return // what may not overlap is stopped before its successor starts
	}
	for _, srv := range svc.Servers {
		if srv.Retired == d.ID && srv.TemplateHash == from.Template.Hash() && from.Template.Hash() != to.Template.Hash() {
			w.violate(4, "deployment %s failed, and it took server %s out of service", d.ID, srv.ID)
		}
	}
}

// lateSwitch reports whether the release in service came there by a switch that
// was acknowledged after its verdict.
func lateSwitch(svc *model.Service) bool {
	return slices.ContainsFunc(svc.Deployments, func(d *model.Deployment) bool {
		return d.To == svc.InService && d.Verdict == model.Unknown && d.Switched
	})
}

// everyRouter reports whether every live router sends every request for the
// service to the release.
func (w *world) everyRouter(service string, release *model.Release) bool {
	if len(w.routers.live) == 0 {
		return false
	}
	for _, r := range w.routers.live {
		i := slices.IndexFunc(r.table.Services, func(t model.TableService) bool { return t.Name == service })
		if r.late || i < 0 || r.table.Services[i].Release != release.Number || r.table.Services[i].Split != nil {
			return false
		}
		if slices.ContainsFunc(r.table.Services[i].Backends, func(b model.Upstream) bool { return b.Release != release.Number }) {
			return false
		}
	}
	return true
}

// newestTable reports whether every live router uses the newest table, and it
// names the release's servers as they are: a set that has just changed is in no
// table yet.
func (w *world) newestTable(s *model.State, release *model.Release) bool {
	fit := func(b model.Upstream) bool {
		srv := s.Server(b.Server)
		return srv != nil && srv.Phase.Alive() && srv.Health != model.Unhealthy
	}
	for _, r := range w.routers.live {
		if r.acked != s.Table.Generation || r.epoch != w.journal.epoch {
			return false
		}
		for _, t := range r.table.Services {
			if t.Name != release.Service {
				continue
			}
			if len(t.Backends) != release.Policy.Servers || slices.ContainsFunc(t.Backends, func(b model.Upstream) bool { return !fit(b) }) {
				return false
			}
		}
	}
	return true
}

func (w *world) anySilent() bool {
	return slices.ContainsFunc(w.routers.live, func(r *router) bool { return w.now < r.silent })
}

func (w *world) noteSwitched(p model.ServiceSwitched, s *model.State) {
	svc := s.Services[p.Service]
	switching := svc.Deployment != nil && svc.Deployment.ID == p.Deployment && svc.Deployment.To == p.Release
	pending := svc.Pending != nil && svc.Pending.Deployment == p.Deployment && svc.Pending.Release == p.Release
	if !switching && !pending {
		w.violate(4, "%s is switched to release %d by deployment %s, which is not under way", p.Service, p.Release, p.Deployment)
	}
	release := svc.Release(p.Release)
	if len(release.Policy.Routes) > 0 && release.Policy.Servers > 0 && !w.everyRouter(p.Service, release) {
		w.violate(3, "%s is switched to release %d, which some router does not serve", p.Service, p.Release)
	}
}

// judgeAccepted: the sum of a deployment's timers is checked before it starts
// (10).
func (w *world) judgeAccepted(r model.Release) {
	// Where every server exists already nothing but the switch is timed.
	svc := w.journal.replay.Services[r.Service]
	existing := 0
	if svc == nil {
		w.violate(8, "release %d of %s was acknowledged, and the journal does not have it", r.Number, r.Service)
		return
	}
	for _, srv := range svc.Servers {
		if srv.TemplateHash == r.Template.Hash() && srv.Phase.Alive() {
			existing++
		}
	}
	sum := time.Minute + r.Policy.Health.Grace.D()
	for _, v := range r.Policy.Validations {
		sum += v.Timeout.D()
	}
	if d := svc.Deployment; d != nil && d.To == r.Number && len(d.Stages) > 1 && existing == 0 {
		sum = d.Stages[0].Hold.D() + time.Duration(len(d.Stages))*sum
	}
	if existing < r.Policy.Servers && r.Policy.Deploy.Deadline.D() < sum {
		w.violate(10, "a deployment of %s was accepted with a deadline of %s, its timers need %s", r.Service, r.Policy.Deploy.Deadline, sum)
	}
}

// judgeStep judges the state after a step of the daemon that went well.
func (w *world) judgeStep(d *daemon, wake model.Instant) {
	now := d.elapsed(w.now)
	s := w.journal.replay
	if d.state.Seq != s.Seq {
		return // an append whose outcome was unknown is there; the daemon ends at its next
	}
	for _, name := range serviceNames {
		svc := s.Services[name]
		if svc == nil || svc.Deployment == nil {
			continue
		}
		run := svc.Deployment
		if run.Pause != nil { // its own time bounds it
			if now >= run.Pause.Until || wake == 0 || wake > run.Pause.Until {
				w.violate(10, "deployment %s is paused until %d, it is %d, and the next look is at %d", run.ID, run.Pause.Until, now, wake)
			}
			continue
		}
		// A phase in which no daemon ran begins anew, the whole does not.
		until := max(run.Until, min(s.DaemonSince.Add(run.Until.Sub(run.Since)), run.Deadline))
		switch {
		case run.Deadline == 0 || run.Until == 0:
			w.violate(10, "deployment %s has no deadline while it is %s", run.ID, run.Phase)
		case now >= run.Deadline:
			w.violate(4, "deployment %s is %s %s after its deadline", run.ID, run.Phase, now.Sub(run.Deadline))
		case now >= until:
			w.violate(10, "deployment %s is %s %s after the deadline of that phase", run.ID, run.Phase, now.Sub(until))
		case wake == 0 || wake > run.Deadline:
			w.violate(10, "deployment %s is %s, and nobody asks again before its deadline", run.ID, run.Phase)
		}
	}
	if w.stepsOfControl()%250 == 0 {
		w.judgeState(d)
	}
}

// judgeState: replaying the journal gives the state (9).
func (w *world) judgeState(d *daemon) {
	if d.control == nil || w.journal.epoch != d.epoch {
		return
	}
	d.control.View(func(s *model.State, _ *model.Snapshot) {
		if s.Seq != w.journal.replay.Seq {
			return // an append failed in between; the daemon ends at its next
		}
		if equal, err := same(s, w.journal.replay); err != nil || !equal {
			w.violate(9, "the daemon's state is not what a replay of the journal gives (%v)", err)
		}
	})
}

// judgeEnd judges a world in which nothing has gone wrong for a while.
func (w *world) judgeEnd() {
	s := w.journal.replay
	if left := w.unsettled(); left != "" {
		w.violate(8, "in calm weather it does not settle: %s", left)
		return
	}
	for _, p := range w.acks {
		svc := s.Services[p.service]
		if svc == nil || svc.Release(p.release) == nil {
			w.violate(8, "release %d of %s was acknowledged and is lost", p.release, p.service)
			continue
		}
		if d := svc.DeploymentByID(p.id); d == nil || d.Verdict == "" {
			w.violate(8, "deployment %s was acknowledged and has no verdict", p.id)
		}
	}
}

// unsettled says what is still to be done, or "".
func (w *world) unsettled() string {
	for _, name := range serviceNames {
		svc := w.journal.replay.Services[name]
		if svc == nil {
			continue
		}
		if left := w.unsettledService(svc); left != "" {
			return left
		}
	}
	t := w.journal.replay.Table
	for _, r := range w.routers.live {
		if t.Generation != 0 && (r.acked != t.Generation || r.epoch != w.journal.epoch) {
			return "router " + r.id + " does not use the newest table"
		}
	}
	for _, o := range w.machine.Observed(w.wall()) {
		srv := w.journal.replay.Server(o.ID)
		if srv == nil {
			return "server " + string(o.ID) + " is an orphan"
		}
		if o.State != model.Exited && !srv.Phase.Alive() {
			return "server " + string(o.ID) + " runs, and is said to be " + string(srv.Phase)
		}
	}
	return ""
}

func (w *world) unsettledService(svc *model.Service) string {
	switch {
	case svc.Deployment != nil:
		return "deployment " + string(svc.Deployment.ID) + " is " + string(svc.Deployment.Phase)
	case svc.Pending != nil:
		return svc.Name + " has an open switch"
	case len(svc.Queue) > 0:
		return svc.Name + " has a queued deployment"
	case svc.Experiment != nil:
		return "experiment " + string(svc.Experiment.ID) + " runs"
	case svc.Destroying:
		return svc.Name + " is being destroyed"
	}
	release := svc.Release(svc.InService)
	serving := 0
	for _, srv := range svc.Servers {
		if srv.Phase == model.PhaseServing && w.fit(srv.ID) {
			serving++
		}
		if release != nil && srv.Phase == model.PhaseServing && srv.TemplateHash != release.Template.Hash() && behaviourOf(release.Template.Image).lasts() {
			return "server " + string(srv.ID) + " serves, and is not of the release in service"
		}
	}
	if svc.Meltdown != nil && release != nil && behaviourOf(release.Template.Image).lasts() {
		return svc.Name + " is melting"
	}
	slack := 0 // of those that come and go with their age
	if release != nil && release.Policy.Lifetime.MaxAge > 0 {
		slack = 1
	}
	if release != nil && behaviourOf(release.Template.Image).lasts() && (serving > release.Policy.Servers+slack || serving < release.Policy.Servers-slack) {
		return svc.Name + " does not have the servers that it should"
	}
	return ""
}
