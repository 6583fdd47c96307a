package sim

import (
	"slices"
	"time"

	"kiln/internal/model"
)

// noteStages: deployments go one stage after the other, in the order in which
// they were asked for, and not on while they are paused (4).
func (w *world) noteStages(p model.Payload, s *model.State) {
	switch p := p.(type) {
	case model.DeploymentStarted:
		svc := s.Services[p.Deployment.Service]
		if svc.Deployment != nil {
			w.violate(4, "deployment %s starts while %s runs", p.Deployment.ID, svc.Deployment.ID)
		}
		if len(svc.Queue) > 0 && svc.Queue[0].ID != p.Deployment.ID {
			w.violate(8, "deployment %s starts, and %s waits for longer", p.Deployment.ID, svc.Queue[0].ID)
		}
		if len(svc.Queue) > 0 {
			w.cover.met(kindDeployment, arrow(model.DeployQueued, p.Deployment.Phase))
		}
		if len(p.Deployment.Stages) > 1 {
			w.cover.met(kindStage, string(p.Deployment.Strategy))
		}
	case model.DeploymentAdvanced:
		w.noteStage(p, s.Services[p.Service].Deployment)
	default:
		w.cover.met(kindStage, string(p.Kind()))
	}
}

func (w *world) noteStage(p model.DeploymentAdvanced, d *model.Deployment) {
	if d == nil {
		return
	}
	if d.Phase != p.Phase {
		w.cover.met(kindDeployment, arrow(d.Phase, p.Phase))
	}
	if p.Phase == model.DeployHolding && d.Phase != p.Phase {
		w.judgeInForce(d)
	}
	next := max(p.Stage, d.Stage)
	if next > d.Stage {
		w.judgeDoomed(d.ID, "goes on to another stage")
	}
	switch {
	case next == d.Stage && d.Phase == model.DeployHolding && p.Phase == model.DeployProvisioning:
		w.cover.met(kindStage, "made whole again")
	case next > d.Stage && d.Phase != model.DeployHolding:
		w.violate(3, "deployment %s goes on to stage %d while it is %s: no router has acknowledged the one before", d.ID, next+1, d.Phase)
	case next > d.Stage && d.Pause != nil:
		w.violate(4, "deployment %s goes on to stage %d while it is paused", d.ID, next+1)
	case next > d.Stage+1 && d.Finish == "":
		w.violate(4, "deployment %s passes over a stage, from %d to %d", d.ID, d.Stage+1, next+1)
	case next > d.Stage && d.Finish == "" && d.Phase == model.DeployHolding && w.daemon != nil:
		if held := w.daemon.elapsed(w.now).Sub(d.Since); held < d.Stages[d.Stage].Hold.D() {
			w.violate(4, "deployment %s holds stage %d for %s, not for %s", d.ID, d.Stage+1, held, d.Stages[d.Stage].Hold)
		}
	}
}

// noteLoss notes that a server failed in service which is of the release that a
// running deployment brings in stages: this one cannot succeed any more. What an
// earlier deployment has left in service is no stage of a blue-green one: it
// makes another.
func (w *world) noteLoss(srv *model.Server, s *model.State) {
	svc := s.Services[srv.Service]
	d, release := svc.Deployment, svc.Release(svc.InService)
	if d != nil && d.Strategy != model.BlueGreen && release != nil && srv.TemplateHash != release.TemplateHash && srv.TemplateHash == svc.Release(d.To).TemplateHash {
		w.doomed = d.ID
	}
}

// judgeDoomed: a deployment whose servers failed in service goes no further (4).
func (w *world) judgeDoomed(id model.DeploymentID, what string) {
	if id == w.doomed {
		w.violate(4, "deployment %s %s, and a server of its release failed in service", id, what)
	}
}

// judgeInForce: a stage is in force when every live router sends requests to
// all of its new servers (3).
func (w *world) judgeInForce(d *model.Deployment) {
	svc := w.journal.replay.Services[d.Service]
	if svc.Release(d.To).Template.Port == 0 {
		return
	}
	stage := d.Stages[d.Stage]
	for _, r := range w.routers.live {
		news := 0
		for _, ts := range r.table.Services {
			for _, b := range ts.Backends {
				if ts.Name == d.Service && b.Release == d.To {
					news++
				}
			}
		}
		if r.late || news != stage.New {
			w.violate(3, "stage %d of deployment %s is called in force, and router %s sends requests to %d of its %d servers", d.Stage+1, d.ID, r.id, news, stage.New)
		}
	}
}

// judgeRoom: a rolling deployment never runs more servers than the count and
// its surge, beside those that replace unhealthy ones, unless somebody asked
// for its end at once.
func (w *world) judgeRoom(svc *model.Service, p model.ServerCreated) {
	d := svc.Deployment
	if d == nil || d.Strategy != model.Rolling || len(d.Stages) < 2 || d.Finish != "" || p.Release != d.To {
		return
	}
	from, to := svc.Release(svc.InService), svc.Release(d.To)
	count := to.Policy.Servers
	if from != nil {
		count = max(count, from.Policy.Servers)
	}
	room := count + max(1, to.Policy.Deploy.MaxSurge.Up(to.Policy.Servers))
	running := 1
	for _, srv := range svc.Servers {
		switch srv.Phase {
		case model.PhaseCreated, model.PhaseRunning, model.PhaseReady, model.PhaseServing:
			running++
			if srv.Health == model.Unhealthy {
				room++
			}
		default:
		}
	}
	if running > room {
		w.violate(2, "server %s makes %d of %s, at most %d may run", p.ID, running, svc.Name, room)
	}
}

const guardWindow = time.Minute

func (w *world) noteHealth(p model.ServerHealth, s *model.State) {
	if srv := s.Server(p.ID); srv != nil && srv.Phase == model.PhaseServing && p.Status == model.Unhealthy {
		if x := s.Services[srv.Service].Experiment; x == nil || x.Server != srv.ID {
			w.fact(p.ID).lost = w.now
		}
		w.noteLoss(srv, s)
	}
}

// judgeGuard: where many servers failed within a minute, nothing is replaced
// blindly: as many at a time as have proven themselves, or one.
func (w *world) judgeGuard(svc *model.Service, p model.ServerCreated) {
	release := svc.Release(svc.InService)
	if release == nil || svc.Deployment != nil || p.TemplateHash != release.Template.Hash() {
		return
	}
	coming, lost := 0, 0
	for _, srv := range svc.Servers {
		if srv.TemplateHash == p.TemplateHash && slices.Contains([]model.ServerPhase{model.PhaseCreated, model.PhaseRunning, model.PhaseReady}, srv.Phase) {
			coming++
		}
	}
	for id, f := range w.facts {
		if id.Service() == svc.Name && f.lost != 0 && w.now-f.lost < guardWindow-time.Second {
			lost++
		}
	}
	switch {
	case svc.Meltdown != nil && coming >= max(1, svc.Meltdown.Proven):
		w.violate(2, "server %s is made while %d are being made, and only %d have proven themselves since %s", p.ID, coming, svc.Meltdown.Proven, svc.Meltdown.Reason)
	case svc.Meltdown == nil && lost >= max(2, (release.Policy.Servers+4)/5) && coming > 0:
		w.violate(2, "server %s is made blindly: %d of %s failed within a minute", p.ID, lost, svc.Name)
	}
}
