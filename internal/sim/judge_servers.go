package sim

import (
	"slices"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// The judges know the world's truth and the journal's replay. They never ask
// package reconcile.

// server returns what the journal says of a server, and of its service.
func (w *world) server(id model.ServerID) (*model.Server, *model.Service) {
	return w.journal.replay.Server(id), w.journal.replay.Services[id.Service()]
}

// judgeProvision: what a server runs is its template (6), and servers exist
// because the journal says so.
func (w *world) judgeProvision(ref engine.Ref, t model.Template) {
	srv, svc := w.server(ref.ID)
	if srv == nil {
		if ref.Epoch == w.journal.epoch {
			w.violate(8, "server %s is provisioned, and the journal does not know it", ref.ID)
		}
		return
	}
	w.judgeVolume(ref.ID, t)
	made := svc.Release(srv.Release)
	if t.Hash() != srv.TemplateHash || made.Template.Hash() != srv.TemplateHash {
		w.violate(6, "server %s is provisioned with a template that is not that of release %d", ref.ID, srv.Release)
	}
}

// judgeStop: nothing is stopped that may get requests, or has some in flight
// that may still end (3), and nothing healthy without a decision (8).
func (w *world) judgeStop(ref engine.Ref) {
	if !w.runs(ref.ID) {
		return
	}
	f := w.fact(ref.ID)
	if f.named && !f.wasGone { // one that had vanished and came back is an orphan
		w.violate(3, "server %s is stopped while a router may send requests to it", ref.ID)
	}
	srv, svc := w.server(ref.ID)
	if srv == nil {
		return // an orphan
	}
	if srv.Phase == model.PhaseRecorded {
		return // its start came late: it was taken for dead, and is ended for good
	}
	if srv.Phase.Alive() && srv.Phase != model.PhaseStopping {
		w.violate(8, "server %s is stopped, and the journal says that it is %s", ref.ID, srv.Phase)
	}
	if f.wasGone {
		return
	}
	drain := svc.Release(srv.Release).Policy.Deploy.Drain
	for _, r := range w.routers.live {
		w.routers.settle(r)
		for _, q := range r.flight {
			left, has := f.left(q)
			if may := left + drainOf(drain, q.class); q.server == ref.ID && (!has || w.now < may) {
				w.violate(3, "server %s is stopped with a request in flight that may take until %s", ref.ID, may)
			}
		}
	}
}

func drainOf(d model.Drain, c class) time.Duration {
	return []model.Duration{d.Requests, d.Streams, d.WebSockets}[c].D()
}

// judgeDestroy: no server is destroyed before its death record is durable, or
// the journal says what could not be had (5).
func (w *world) judgeDestroy(ref engine.Ref) {
	srv, svc := w.server(ref.ID)
	if w.observed(ref.ID) == nil {
		return
	}
	switch {
	case srv == nil: // an orphan
		has := svc != nil && slices.ContainsFunc(svc.Dead, func(r *model.DeathRecord) bool { return r.Server == ref.ID })
		if !has && !slices.Contains(w.journal.replay.Strangers, ref.ID) {
			w.violate(5, "server %s, which the journal does not know, is destroyed without a record", ref.ID)
		}
	case srv.Phase != model.PhaseRecorded || srv.Record == nil:
		w.violate(5, "server %s is destroyed while it is %s", ref.ID, srv.Phase)
	case srv.Record.Evidence == "" && len(srv.Record.Missing) == 0:
		w.violate(5, "server %s is destroyed; its record has no evidence and does not say why", ref.ID)
	case srv.Record.Evidence != "" && !w.fact(ref.ID).recorded:
		w.violate(5, "server %s is destroyed; its record names evidence that is not durable", ref.ID)
	}
}

// noted judges an event before it is folded.
func (w *world) noted(e model.Event, s *model.State) {
	w.noteRetention(e, s)
	switch p := e.Data.(type) {
	case model.ServerCreated:
		w.noteCreated(p, s)
	case model.ServerAdvanced:
		w.noteAdvanced(p, s)
	case model.ServerCondemned, model.ServerOverdue, model.ServerDrifted, model.ServerUndrifted, model.DriftRecurred, model.FleetDrifted,
		model.FleetMended, model.ClockJumped, model.SessionOpened, model.SessionExtended, model.SessionEnded:
		w.noteUpkeep(e, s)
	case model.ServerDrained:
		if w.fact(p.ID).named && w.runs(p.ID) {
			w.violate(3, "server %s is called drained while a router may send requests to it", p.ID)
		}
	case model.ServerRecorded:
		w.cover.met(kindServer, arrow(s.Server(p.Record.Server).Phase, model.PhaseRecorded))
	case model.ServerHealth:
		w.noteHealth(p, s)
	case model.DeploymentStarted, model.DeploymentQueued, model.DeploymentPaused, model.DeploymentResumed, model.DeploymentFinishing,
		model.DeploymentAdvanced:
		w.noteStages(p, s)
	case model.ServiceMelting, model.ServiceRecovered:
		w.cover.met(kindGuard, string(p.Kind()))
	case model.ExperimentStarted, model.ExperimentAdvanced, model.ExperimentEnded:
		w.noteExperiment(e, s)
	case model.DeploymentEnded:
		w.noteVerdict(p, s)
	case model.ServiceSwitched:
		w.noteSwitched(p, s)
	default:
	}
}

func (w *world) noteCreated(p model.ServerCreated, s *model.State) {
	if w.facts[p.ID] != nil {
		w.violate(8, "the id of server %s is used again", p.ID)
	}
	w.fact(p.ID)
	release := s.Services[p.Service].Release(p.Release)
	if release == nil || release.Template.Hash() != p.TemplateHash {
		w.violate(6, "server %s is to be made with another template than that of release %d", p.ID, p.Release)
		return
	}
	w.judgeReplacing(s.Services[p.Service], p)
	w.judgeRoom(s.Services[p.Service], p)
	w.judgeGuard(s.Services[p.Service], p)
}

func (w *world) noteAdvanced(p model.ServerAdvanced, s *model.State) {
	srv := s.Server(p.ID)
	if srv == nil {
		return
	}
	if srv.Phase != p.Phase {
		w.cover.met(kindServer, arrow(srv.Phase, p.Phase))
	}
	f := w.fact(p.ID)
	if srv.Phase == model.PhaseServing && p.Phase == model.PhaseEnded && srv.BootID == s.BootID {
		w.noteLoss(srv, s)
		if x := s.Services[srv.Service].Experiment; x == nil || x.Server != srv.ID {
			f.lost = w.now
		}
	}
	switch p.Phase {
	case model.PhaseReady, model.PhaseServing:
		if missing := w.unproven(p.ID, s.Services[srv.Service].Release(max(p.Release, srv.Release))); missing != "" {
			w.violate(1, "server %s becomes %s and %s", p.ID, p.Phase, missing)
		}
		f.served = f.served || p.Phase == model.PhaseServing
	case model.PhaseEnded:
		if w.runs(p.ID) && !f.wasGone {
			w.violate(8, "server %s is said to have ended (%s), and it runs as it always did", p.ID, p.Reason)
		}
	case model.PhaseDraining, model.PhaseWarm:
		if svc := s.Services[srv.Service]; srv.Phase == model.PhaseServing && svc.InService != 0 {
			f.told, f.least = true, leastReady(svc, svc.Release(svc.InService))
		}
		w.judgeBudget(p, srv, s)
		w.judgeLeaving(p, srv, s.Services[srv.Service])
	default:
	}
}

// unproven says which check of the release the server has not passed.
func (w *world) unproven(id model.ServerID, r *model.Release) string {
	f := w.fact(id)
	if kind := r.Policy.Health.Kind; kind != model.CheckNone && !f.healthy {
		return "was never seen healthy"
	}
	for _, v := range r.Policy.Validations {
		if !f.passed[v.Name] {
			return "has not passed the validation " + v.Name
		}
	}
	return ""
}

// judgeBudget: kiln takes no ready server away that is needed (2).
func (w *world) judgeBudget(p model.ServerAdvanced, srv *model.Server, s *model.State) {
	svc := s.Services[srv.Service]
	release := svc.Release(svc.InService)
	if srv.Phase != model.PhaseServing || srv.Health == model.Unhealthy || svc.Destroying || release == nil {
		return
	}
	if mustStopFirst(svc) {
		return
	}
	ready, canary := 0, ""
	if d := svc.Deployment; d != nil && d.Strategy == model.Canary { // its servers may have to go at any time
		canary = svc.Release(d.To).TemplateHash
	}
	for _, other := range svc.Servers {
		if other.TemplateHash == canary && canary != release.TemplateHash {
			continue
		}
		if other.ID != srv.ID && other.Phase == model.PhaseServing && other.Health != model.Unhealthy {
			ready++
		}
	}
	if least := leastReady(svc, release); ready < least {
		w.violate(2, "server %s of %s becomes %s (%s): %d ready servers stay, at least %d are promised",
			srv.ID, srv.Service, p.Phase, p.Reason, ready, least)
	}
}

// leastReady is how many ready servers are promised: by the release in service,
// or by the one that a rolling deployment is about to put in its place, if that
// lets more of them be away; also while what such a deployment took away, and
// failed, is still being made again.
func leastReady(svc *model.Service, release *model.Release) int {
	least := release.Policy.Servers - release.Policy.Deploy.MaxUnavailable.Down(release.Policy.Servers)
	if yields(release) { // one of its servers may be stopped before its successor starts
		least--
	}
	trials := []*model.Deployment{svc.Deployment}
	if n := len(svc.Deployments); n > 0 && svc.Deployments[n-1].Verdict != model.Succeeded {
		trials = append(trials, svc.Deployments[n-1]) // the next one may run already
	}
	for _, d := range trials {
		if d != nil && d.Strategy == model.Rolling && len(d.Stages) > 0 {
			to := svc.Release(d.To).Policy
			least = min(least, release.Policy.Servers-to.Deploy.MaxUnavailable.Down(to.Servers))
		}
	}
	return least
}

// mustStopFirst reports whether a deployment runs whose servers may not run
// beside those of the release in service.
func mustStopFirst(svc *model.Service) bool {
	d, release := svc.Deployment, svc.Release(svc.InService)
	if d == nil || release == nil {
		return false
	}
	to := svc.Release(d.To)
	if to.Template.SingleWriter() && release.Template.SingleWriter() && to.TemplateHash != release.TemplateHash {
		return true
	}
	workers := len(release.Policy.Routes) == 0 && len(to.Policy.Routes) == 0
	return workers && !to.Policy.Deploy.Overlap && to.TemplateHash != release.TemplateHash
}
