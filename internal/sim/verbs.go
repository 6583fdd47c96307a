package sim

import (
	"context"
	"time"

	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// The services that a run knows: two behind the routers, one worker without a
// route.
var serviceNames = []string{"shop", "site", "work"}

func commandVerbs() []verb {
	return []verb{
		{name: "deploy", weight: 16, do: (*world).deploy},
		{name: "deploy again", weight: 20, do: (*world).deployAgain},
		{name: "deploy in stages", weight: 8, staged: true, do: (*world).deployInStages},
		{name: "scale", weight: 6, do: (*world).scale},
		{name: "rollback", weight: 24, staged: true, do: (*world).rollback},
		{name: "abort", weight: 2, do: (*world).abort},
		{name: "abort a queued one", weight: 16, staged: true, do: (*world).abortQueued},
		{name: "pause", weight: 16, staged: true, do: (*world).pause},
		{name: "resume", weight: 32, staged: true, do: (*world).resume},
		{name: "finish", weight: 8, staged: true, do: (*world).finish},
		{name: "chaos run", weight: 16, do: (*world).chaosRun},
		{name: "chaos stop", weight: 8, do: (*world).chaosStop},
		{name: "release", weight: 24, do: (*world).release},
		{name: "gc", weight: 20, do: (*world).gc},
		{name: "pin", weight: 4, do: (*world).pin},
		{name: "destroy", weight: 1, do: (*world).destroy},
		{name: "traffic", weight: 20, do: func(w *world, _ uint64) bool { w.routers.traffic(); return true }},
	}
}

// policyOf draws a policy. Mostly its timers fit into its deadline.
func policyOf(service string, n uint64) model.Policy {
	pick := func(shift int, of ...time.Duration) model.Duration {
		return model.Duration(of[n>>shift%uint64(len(of))])
	}
	p := model.Policy{
		Servers: []int{1, 2, 2, 3, 3, 3, 4, 0}[n>>8%8],
		Health: model.Health{
			Kind: model.CheckHTTP, Path: "/healthz", Interval: model.Duration(time.Second), Timeout: model.Duration(time.Second),
			Passes: 1 + int(n>>11%2), Fails: 2, Grace: pick(12, 6*time.Second, 9*time.Second, 15*time.Second),
		},
		Deploy: model.Deploy{
			Strategy: model.BlueGreen, MaxUnavailable: model.Servers([]int{0, 0, 0, 1}[n>>14%4]),
			Deadline: pick(16, 3*time.Minute, 4*time.Minute, 8*time.Minute, 8*time.Minute, 20*time.Second),
			KeepWarm: pick(20, 0, 20*time.Second, 2*time.Minute, 2*time.Minute),
			Overlap:  n>>22%2 == 0,
			Drain: model.Drain{
				Requests: pick(24, 0, 3*time.Second, 10*time.Second), Streams: pick(26, 0, 5*time.Second, 20*time.Second),
				WebSockets: pick(28, 0, 5*time.Second, 30*time.Second),
			},
		},
		StopGrace: pick(30, time.Second, 2*time.Second, 5*time.Second),
	}
	strategyOf(service, n>>48, &p.Deploy)
	upkeepOf(n*0xd1342543de82ef95>>40, &p.Upkeep)
	p.Chaos = chaosOf(n * 0x9e3779b97f4a7c15 >> 40) // its own bits of the same number
	p.Retention = retentionOf(n * 0xd6e8feb86659fd93 >> 40)
	if n>>40%8 == 0 {
		p.Health.Kind = model.CheckNone
	}
	for _, name := range []string{"home", "self-test"}[:n>>32%3] {
		p.Validations = append(p.Validations, model.Validation{Name: name, Kind: model.CheckHTTP, Path: "/", Timeout: model.Duration(5 * time.Second)})
	}
	if service != "work" {
		p.Routes = []model.Route{{Listen: ":80", Host: service + ".example"}}
	}
	return p
}

// strategyOf draws a strategy; blue-green most often, and for whatever the seed
// declares first. What is done in stages is given the time for it.
func strategyOf(service string, n uint64, d *model.Deploy) {
	if service == "work" && !d.Overlap {
		return
	}
	switch n % 8 {
	case 4, 5, 6:
		d.Strategy = model.Rolling
		d.MaxSurge = []model.Amount{model.Servers(1), {N: 25, Percent: true}, model.Servers(2), {N: 100, Percent: true}}[n>>3%4]
		if d.MaxUnavailable.N > 0 && n>>5%2 == 0 {
			d.MaxSurge = model.Servers(0)
		}
	case 7, 3:
		if service == "work" {
			return
		}
		d.Strategy = model.Canary
		d.Canary.Steps = []model.CanaryStep{
			{Weight: 10, Hold: model.Duration(15 * time.Second)}, {Weight: 50, Hold: model.Duration(45 * time.Second)},
		}[n>>3%2:]
	default:
		return
	}
	if n>>6%4 != 0 {
		d.Deadline = model.Duration(20 * time.Minute)
	}
}

func templateOf(service string, n uint64) model.Template {
	// Good images come most often.
	names := []string{
		"good", "good", "good", "good", "good", "good", "good", "good", "slow", "slow", "stubborn", "stubborn",
		"fragile", "exits", "deaf", "invalid", "stuck", "no user", "absent", "drifts",
	}
	t := model.Template{
		Service: service, Image: imageOf(names[n%uint64(len(names))], int(n>>5%versions)),
		Resources: model.Resources{Memory: 64 << 20},
	}
	t.Volumes = volumesOf(n * 0xaf251af3b0f025b5 >> 44)
	if service != "work" || n>>58%2 == 1 { // a worker may be reached by its name
		t.Port, t.Protocol = 8080, model.HTTP
	}
	return t
}

// do gives a command to the daemon and keeps what was promised.
func (w *world) do(command func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, reconcile.DeployResult, error)) bool {
	if w.daemon == nil {
		return false
	}
	var made []model.Payload
	var result reconcile.DeployResult
	err := w.daemon.control.Do(context.Background(), "somebody", func(s *model.State, snapshot *model.Snapshot, now model.Now) (_ []model.Payload, err error) {
		made, result, err = command(s, snapshot, now)
		return made, err
	})
	w.daemon.due = w.now
	if err != nil {
		w.cover.met("refused", string(model.CodeOf(err)))
		return false
	}
	for _, p := range made {
		if r, ok := p.(model.ReleaseCreated); ok {
			w.acks = append(w.acks, promise{service: r.Release.Service, release: r.Release.Number, id: result.Deployment})
			w.judgeAccepted(r.Release)
		}
	}
	return true
}

func (w *world) deploy(n uint64) bool {
	if w.seed%4 == 3 { // many releases of few images
		return w.release(n)
	}
	service := serviceNames[n>>44%uint64(len(serviceNames))]
	return w.deployThis(service, templateOf(service, n), policyOf(service, n), modeOf(n>>56))
}

// modeOf draws what becomes of a command while a deployment runs.
func modeOf(n uint64) reconcile.DeployMode {
	return []reconcile.DeployMode{reconcile.Refuse, reconcile.Queue, reconcile.Queue, reconcile.Supersede}[n%4]
}

func (w *world) deployThis(service string, t model.Template, p model.Policy, mode reconcile.DeployMode) bool {
	w.build(t.Image)
	return w.do(func(s *model.State, snapshot *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		if t.SingleWriter() {
			p.Servers = min(p.Servers, 1)
		}
		req := reconcile.DeployRequest{Service: service, Template: t, Policy: p, Actor: "somebody", Mode: mode}
		if snapshot != nil {
			req.Capacity = &snapshot.Capacity
		}
		return reconcile.Deploy(s, req, now)
	})
}

// deployAgain deploys what is in service with another policy: no server is
// replaced.
func (w *world) deployAgain(n uint64) bool {
	service := serviceNames[n>>44%uint64(len(serviceNames))]
	svc := w.journal.replay.Services[service]
	if svc == nil || svc.InService == 0 {
		return false
	}
	return w.deployThis(service, svc.Release(svc.InService).Template, policyOf(service, n), modeOf(n>>56))
}

// deployInStages deploys a good image that is not in service, server by server
// or as a canary.
func (w *world) deployInStages(n uint64) bool {
	service := serviceNames[n>>44%2] // one with a route
	t, p := templateOf(service, n), policyOf(service, n)
	t.Image = imageOf("good", int(n>>5%versions))
	if svc := w.journal.replay.Services[service]; svc == nil || svc.InService == 0 || svc.Release(svc.InService).Template.Image == t.Image {
		return false
	}
	strategyOf(service, 1<<6|4+n>>48%4, &p.Deploy)
	p.Servers = max(2, p.Servers)
	return w.deployThis(service, t, p, modeOf(n>>56))
}

func (w *world) scale(n uint64) bool {
	return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		return reconcile.Scale(s, reconcile.ScaleRequest{
			Service: serviceNames[n%uint64(len(serviceNames))], Servers: int(n >> 8 % 5), Actor: "somebody", Mode: modeOf(n >> 56),
		}, now)
	})
}

func (w *world) rollback(n uint64) bool {
	service := serviceNames[n%uint64(len(serviceNames))]
	to := 0
	if svc := w.journal.replay.Services[service]; svc != nil && n>>8%4 == 0 {
		to = int(n >> 12 % uint64(len(svc.Releases)+2))
	}
	return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		return reconcile.Rollback(s, reconcile.RollbackRequest{Service: service, To: to, Actor: "somebody", Mode: modeOf(n >> 56)}, now)
	})
}

func (w *world) abort(n uint64) bool {
	return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, err := reconcile.Abort(s, reconcile.AbortRequest{Service: serviceNames[n%uint64(len(serviceNames))], Actor: "somebody"}, now)
		return events, reconcile.DeployResult{}, err
	})
}

func (w *world) abortQueued(n uint64) bool {
	for _, name := range serviceNames {
		svc := w.journal.replay.Services[name]
		if svc == nil || len(svc.Queue) == 0 {
			continue
		}
		id := svc.Queue[n%uint64(len(svc.Queue))].ID
		return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
			events, err := reconcile.Abort(s, reconcile.AbortRequest{Service: name, Deployment: id, Actor: "somebody"}, now)
			return events, reconcile.DeployResult{}, err
		})
	}
	return false
}

// staged gives a command about the stages of a running deployment.
func (w *world) staged(n uint64, what string, command func(*model.State, reconcile.StageRequest, model.Now) ([]model.Payload, error)) bool {
	service := ""
	for _, name := range serviceNames { // one that has stages, so that it happens often
		if svc := w.journal.replay.Services[name]; svc != nil && svc.Deployment != nil && len(svc.Deployment.Stages) > 1 {
			service = name
		}
	}
	return service != "" && w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, err := command(s, reconcile.StageRequest{
			Service: service, Actor: "somebody", Reason: what, For: model.Duration(n >> 8 % uint64(10*time.Minute)),
		}, now)
		return events, reconcile.DeployResult{}, err
	})
}

func (w *world) pause(n uint64) bool  { return w.staged(n, "look at it", reconcile.Pause) }
func (w *world) resume(n uint64) bool { return w.staged(n, "it is well", reconcile.Resume) }
func (w *world) finish(n uint64) bool { return w.staged(n, "enough", reconcile.Finish) }

func (w *world) destroy(n uint64) bool {
	return w.do(func(s *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, err := reconcile.DestroyService(s, serviceNames[n%uint64(len(serviceNames))])
		return events, reconcile.DeployResult{}, err
	})
}
