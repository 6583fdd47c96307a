package server

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// wall returns when the instant is, or was, by the wall clock.
func wall(i model.Instant, now model.Now) time.Time {
	return now.Wall.Add(i.Sub(now.Elapsed)).UTC().Truncate(time.Millisecond)
}

// statusView is the state as `kiln status` shows it.
func statusView(s *model.State, now model.Now, only []string) api.Status {
	out := api.Status{Services: []api.ServiceStatus{}}
	for _, name := range sortedKeys(s.Services) {
		svc := s.Services[name]
		if hidden(svc) || (len(only) > 0 && !slices.Contains(only, name)) {
			continue
		}
		v := serviceView(svc, now)
		markRejected(s, &v)
		out.Services = append(out.Services, v)
	}
	return out
}

// addTroubles tells each service what keeps routers from serving it.
func addTroubles(status *api.Status, troubles []model.Trouble) {
	for i := range status.Services {
		s := &status.Services[i]
		for _, t := range troubles {
			if t.Service == s.Name {
				s.Troubles = append(s.Troubles, t.What)
			}
		}
	}
}

// hidden reports whether the service is history: nothing of it runs.
func hidden(svc *model.Service) bool {
	return svc.Destroyed && len(svc.Servers) == 0 && svc.Deployment == nil && len(svc.Queue) == 0
}

func serviceView(svc *model.Service, now model.Now) api.ServiceStatus {
	v := api.ServiceStatus{
		Name: svc.Name, Release: svc.InService, Servers: []api.ServerStatus{},
		Message: serviceMessage(svc), Destroying: svc.Destroying, Queue: []api.DeploymentStatus{},
	}
	if svc.Meltdown != nil {
		v.Meltdown = svc.Meltdown.Reason
	}
	if r := svc.Release(svc.InService); r != nil {
		v.Image, v.Wanted, v.Routes = r.Template.Image, r.Policy.Servers, r.Policy.Routes
	}
	if n := len(svc.Releases); n > 0 {
		v.Environment, v.Declared = svc.Releases[n-1].Environment, svc.Releases[n-1].Declared
	}
	for _, id := range sortedKeys(svc.Servers) {
		v.Servers = append(v.Servers, serverView(svc, svc.Servers[id], now))
	}
	slices.SortStableFunc(v.Servers, func(a, b api.ServerStatus) int { return b.Release - a.Release })
	if d := svc.Deployment; d != nil {
		running := deploymentView(d, now)
		v.Deployment = &running
	}
	for _, d := range svc.Queue {
		v.Queue = append(v.Queue, deploymentView(d, now))
	}
	return v
}

func deploymentView(d *model.Deployment, now model.Now) api.DeploymentStatus {
	v := api.DeploymentStatus{
		ID: d.ID, From: d.From, To: d.To, Strategy: d.Strategy, Phase: d.Phase, WaitingFor: d.WaitingFor,
		Since: wall(d.Since, now), Staging: stagingView(d, now),
	}
	if d.Phase != model.DeployQueued { // the deadline of one that waits begins when it does
		v.Until = wall(d.Deadline, now)
	}
	return v
}

func stagingView(d *model.Deployment, now model.Now) api.Staging {
	v := api.Staging{Stages: []api.Stage{}, Finishing: d.Finish}
	for _, s := range d.Stages {
		v.Stages = append(v.Stages, api.Stage{New: s.New, Old: s.Old, Weight: s.Weight, Hold: s.Hold})
	}
	if len(d.Stages) > 0 {
		v.Stage = d.Stage + 1
	}
	if p := d.Pause; p != nil {
		until := wall(p.Until, now)
		v.Paused, v.PausedBy, v.PausedUntil = true, p.By, &until
	}
	return v
}

// serviceMessage says what a person should know without asking.
func serviceMessage(svc *model.Service) string {
	var say []string
	if svc.BackOff.Failures > 0 && svc.BackOff.Reason != "" {
		say = append(say, svc.BackOff.Reason)
	}
	serving, unhealthy := 0, 0
	for _, srv := range svc.Servers {
		if srv.Phase == model.PhaseServing {
			serving++
			if srv.Health == model.Unhealthy {
				unhealthy++
			}
		}
	}
	switch {
	case serving > 0 && unhealthy*2 > serving:
		say = append(say, fmt.Sprintf("%d of %d servers are unhealthy: all stay in rotation, since fewer than half are fit", unhealthy, serving))
	case unhealthy > 0:
		say = append(say, fmt.Sprintf("%d of %d servers unhealthy and out of rotation", unhealthy, serving))
	}
	if r, now := svc.Recurrence, svc.Release(svc.InService); r != nil && r.Halted && now != nil && now.TemplateHash == r.TemplateHash {
		say = append(say, r.Reason)
	}
	if n := len(svc.Deployments); n > 0 && svc.Deployment == nil && svc.Deployments[n-1].Verdict == model.Unknown {
		say = append(say, "the verdict of "+string(svc.Deployments[n-1].ID)+" is unknown: "+svc.Deployments[n-1].Reason)
	}
	return strings.Join(say, "; ")
}

func serverView(svc *model.Service, srv *model.Server, now model.Now) api.ServerStatus {
	v := api.ServerStatus{
		ID: srv.ID, Release: srv.Release, Phase: srv.Phase,
		Healthy:   srv.Phase.Alive() && srv.Health == model.Healthy,
		InService: srv.Phase == model.PhaseServing, Parked: srv.Phase == model.PhaseParked, Tainted: srv.Taint != nil,
		Address: srv.Address, StartedAt: srv.StartedAt, Reason: srv.Reason, Health: srv.HealthDetail,
	}
	if r := svc.Release(svc.InService); r != nil && r.Template.Hash() == srv.TemplateHash {
		v.Release = svc.InService
	}
	if r := svc.Release(v.Release); r != nil {
		v.Image = r.Template.Image
	}
	v.Drifted, v.Condemned = srv.Drifts(), condemnedView(srv, now)
	if srv.Until != 0 {
		until := wall(srv.Until, now)
		v.Until = &until
	}
	return v
}

// releasesView is a service's history, newest first.
func releasesView(s *model.State, svc *model.Service) api.Releases {
	out := api.Releases{Service: svc.Name, Releases: []api.ReleaseEntry{}}
	for _, r := range slices.Backward(svc.Releases) {
		possible, _ := reconcile.RollbackPossible(s, svc.Name, r.Number)
		e := api.ReleaseEntry{
			Number: r.Number, Image: r.Template.Image, CreatedAt: r.CreatedAt, Author: r.Author, Reason: r.Reason,
			Verdict: reconcile.ReleaseVerdict(svc, r.Number), RollbackPossible: possible,
			InService: svc.InService == r.Number, Servers: r.Policy.Servers, Commit: r.Provenance.Commit, Dirty: r.Provenance.Dirty,
			Environment: r.Environment, From: promotedFrom(r),
		}
		if d := underWay(svc, r.Number); d != nil {
			e.Phase, e.Stages = d.Phase, len(d.Stages)
			e.Stage = min(d.Stage+1, len(d.Stages))
		}
		if r.RollbackOf != 0 {
			e.RollbackOf = &r.RollbackOf
		}
		out.Releases = append(out.Releases, e)
	}
	return out
}

// promotedFrom is the environment that a release's image was promoted from, or "".
func promotedFrom(r *model.Release) string {
	if r.Promoted == nil {
		return ""
	}
	return r.Promoted.Environment
}

// underWay returns the deployment that brings the release and has not ended.
func underWay(svc *model.Service, release int) *model.Deployment {
	if d := svc.Deployment; d != nil && d.To == release {
		return d
	}
	for _, d := range svc.Queue {
		if d.To == release {
			return d
		}
	}
	return nil
}

// resultView is the last line of a deployment, nil while it runs.
func resultView(svc *model.Service, d *model.Deployment) *api.Result {
	if d.Verdict == "" {
		return nil
	}
	r := &api.Result{
		Deployment: &d.ID, Service: svc.Name, Release: d.To, Verdict: d.Verdict, Reason: d.Reason,
		TookMS: d.TookMS, RequestsFinished: d.Finished, RequestsCut: d.Cut,
	}
	if rel := svc.Release(d.To); rel != nil {
		r.Image, r.From = rel.Template.Image, promotedFrom(rel)
	}
	return r
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
