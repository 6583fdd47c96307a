package sim

import (
	"context"
	"fmt"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

const kindChaos = "chaos"

// simZone is the one time zone that machines of the simulation know.
const simZone = "Sim/Zone"

// zones knows simZone, until the weather is to be calm: a calendar in a zone
// that nobody knows is never open.
type zones struct{ w *world }

// Zone implements control.Zones.
func (z zones) Zone(name string) *time.Location {
	if name != simZone || z.w.calmed {
		return nil
	}
	return simLocation()
}

func simLocation() *time.Location { return time.FixedZone(simZone, 5*60*60+30*60) }

// chaosOf draws a policy of chaos; mostly there is none.
func chaosOf(n uint64) model.ChaosPolicy {
	if n%3 != 0 {
		return model.ChaosPolicy{}
	}
	kinds := model.ChaosKinds()
	p := model.ChaosPolicy{
		MeanBetween: model.Duration([]time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute}[n>>2%3]),
		TimeZone:    simZone, Lasts: model.Duration([]time.Duration{0, 2 * time.Second, 10 * time.Second, time.Minute}[n>>4%4]),
		Kinds: []model.ChaosKind{kinds[n>>6%8], kinds[n>>9%8]},
		Hours: []string{"", "", "04:00-07:00", "22:15-05:45", "00:00-24:00"}[n>>12%5],
	}
	if n>>15%2 == 0 { // a run begins on a Thursday
		p.Days = []time.Weekday{time.Thursday, time.Saturday}
	}
	return p
}

func (w *world) chaosRun(n uint64) bool {
	request := reconcile.ChaosRequest{
		Service: serviceNames[n%uint64(len(serviceNames))], Kind: model.ChaosKinds()[n>>8%8],
		Lasts: model.Duration(n >> 12 % uint64(time.Minute)), By: "somebody",
	}
	return w.do(func(s *model.State, snapshot *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, _, err := reconcile.RunChaos(s, request, reconcile.Observation{Snapshot: snapshot}, now)
		return events, reconcile.DeployResult{}, err
	})
}

func (w *world) chaosStop(n uint64) bool {
	for i := range serviceNames {
		name := serviceNames[(n+uint64(i))%uint64(len(serviceNames))]
		if svc := w.journal.replay.Services[name]; svc != nil && svc.Experiment != nil {
			return w.do(func(s *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, reconcile.DeployResult, error) {
				events, _, err := reconcile.StopChaos(s, name, "somebody")
				return events, reconcile.DeployResult{}, err
			})
		}
	}
	return false
}

// suffers reports whether what disturbs the server makes it unhealthy.
func (w *world) suffers(id model.ServerID) bool {
	switch w.machine.Disturbed(id, w.wall()) {
	case model.ChaosFreeze, model.ChaosLoss, model.ChaosMemory:
		return true
	default:
		return false
	}
}

// Disturb implements engine.Disturber: nothing is disturbed but what a running
// experiment names.
func (e *watched) Disturb(ctx context.Context, ref engine.Ref, d model.Disturbance) error {
	if _, svc := e.w.server(ref.ID); ref.Epoch == e.w.journal.epoch && (svc == nil || svc.Experiment == nil || svc.Experiment.Server != ref.ID || svc.Experiment.Kind != d.Kind) {
		e.w.violate(8, "server %s is disturbed (%s), and no experiment says so", ref.ID, d.Kind)
	}
	return e.Engine.Disturb(ctx, ref, d)
}

// noteExperiment judges what is written down of experiments before it is folded.
func (w *world) noteExperiment(e model.Event, s *model.State) {
	switch p := e.Data.(type) {
	case model.ExperimentStarted:
		w.judgeExperiment(e, p.Experiment, s.Services[p.Experiment.Service])
	case model.ExperimentAdvanced:
		if svc := s.Services[p.Service]; p.Armed != 0 {
			w.judgeArmed(svc, svc.Experiment)
		}
	case model.ExperimentEnded:
		x := s.Services[p.Service].Experiment
		w.cover.met(kindChaos, string(x.Kind)+" "+string(p.Outcome))
		w.cover.met(kindChaos, string(p.Outcome))
		if kind := w.machine.Disturbed(x.Server, w.wall()); kind != "" && w.runs(x.Server) {
			w.violate(8, "experiment %s has ended, and server %s is still disturbed (%s)", x.ID, x.Server, kind)
		}
	default:
	}
}

// judgeExperiment: none begins in a deployment, past the budget, with the last
// healthy server or outside of the hours that the policy gives (2).
func (w *world) judgeExperiment(e model.Event, x model.Experiment, svc *model.Service) {
	release := svc.Release(svc.InService)
	if svc.Deployment != nil || svc.Pending != nil || release == nil {
		w.violate(2, "experiment %s begins in %s while a deployment is at work", x.ID, svc.Name)
		return
	}
	others := othersHealthy(svc, x.Server)
	if others < 1 {
		w.violate(2, "experiment %s chooses server %s, the last healthy one", x.ID, x.Server)
	}
	if x.By != "kiln" {
		return
	}
	if p := release.Policy.Chaos; p.MeanBetween <= 0 || !openAt(p, e.At.In(simLocation())) {
		w.violate(2, "experiment %s begins at %s; the policy says %s on %v", x.ID, e.At.In(simLocation()), p.Hours, p.Days)
	}
	w.cover.met(kindChaos, "begun by itself")
}

// judgeArmed: a server may be disturbed when those that stay are as many as
// are promised (2).
func (w *world) judgeArmed(svc *model.Service, x *model.Experiment) {
	release := svc.Release(svc.InService)
	if others, least := othersReady(svc, x.Server), leastReady(svc, release); others < least {
		w.violate(2, "experiment %s takes server %s: %d ready ones stay, at least %d are promised", x.ID, x.Server, others, least)
	}
	if len(svc.Servers) > release.Policy.Servers {
		w.cover.met(kindChaos, "with a spare")
	}
}

// othersHealthy counts the healthy servers in service but for one.
func othersHealthy(svc *model.Service, but model.ServerID) (n int) {
	for _, srv := range svc.Servers {
		if srv.ID != but && srv.Phase == model.PhaseServing && srv.Health == model.Healthy {
			n++
		}
	}
	return n
}

// othersReady counts the servers in service that are not known to be unhealthy,
// but for one.
func othersReady(svc *model.Service, but model.ServerID) (n int) {
	for _, srv := range svc.Servers {
		if srv.ID != but && srv.Phase == model.PhaseServing && srv.Health != model.Unhealthy {
			n++
		}
	}
	return n
}

// openAt reads a calendar by itself: hours that end before they begin belong to
// the day on which they begin.
func openAt(p model.ChaosPolicy, at time.Time) bool {
	day := func(offset int) bool {
		if len(p.Days) == 0 {
			return true
		}
		for _, d := range p.Days {
			if d == at.AddDate(0, 0, offset).Weekday() {
				return true
			}
		}
		return false
	}
	if p.Hours == "" {
		return day(0)
	}
	clock := fmt.Sprintf("%02d:%02d", at.Hour(), at.Minute())
	first, last := p.Hours[:5], p.Hours[6:]
	if first < last {
		return day(0) && clock >= first && clock < last
	}
	return day(0) && clock >= first || day(-1) && clock < last
}

// judgeChaos: an experiment is being ended as soon as a deployment begins, or
// the others of the service suffer (2).
func (w *world) judgeChaos() {
	for _, name := range serviceNames {
		svc := w.journal.replay.Services[name]
		if svc == nil || svc.Experiment == nil || svc.Experiment.Ending != "" {
			continue
		}
		x, release := svc.Experiment, svc.Release(svc.InService)
		if svc.Deployment != nil || svc.Pending != nil {
			w.violate(2, "experiment %s goes on, and a deployment of %s runs", x.ID, name)
			continue
		}
		others := othersHealthy(svc, x.Server)
		if x.Kind.Lasting() && x.Replaced == 0 && others < release.Policy.Servers-1 {
			w.violate(2, "experiment %s goes on, and only %d other servers of %s are healthy", x.ID, others, name)
		}
	}
}

// chaosWanted lists what a whole run has to meet.
func chaosWanted() [][2]string {
	list := [][2]string{{kindChaos, "begun by itself"}, {kindChaos, "with a spare"}}
	for _, o := range []model.ChaosOutcome{model.ChaosRecovered, model.ChaosWithstood, model.ChaosStopped, model.ChaosFailed} {
		list = append(list, [2]string{kindChaos, string(o)})
	}
	return list
}
