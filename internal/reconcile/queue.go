package reconcile

import (
	"cmp"
	"fmt"

	"kiln/internal/model"
)

// DeployMode says what becomes of a request while a deployment runs.
type DeployMode string

// The modes.
const (
	Refuse    DeployMode = ""          // it is refused
	Queue     DeployMode = "queue"     // it waits for its turn
	Supersede DeployMode = "supersede" // the running one is aborted if it can be, those that wait are dropped
)

// supersededBy begins the reason of what another deployment has ended.
const supersededBy = "superseded by deployment "

// busy reports whether a deployment of the service runs or waits.
func busy(svc *model.Service) bool {
	return svc != nil && (svc.Deployment != nil || len(svc.Queue) > 0)
}

// free refuses a command while something else changes the service, unless the
// command may wait.
func free(svc *model.Service, verb string, mode DeployMode) error {
	switch mode {
	case Refuse, Queue, Supersede:
	default:
		return model.Errorf(model.Invalid, "cannot %s %s: there is no mode %q", verb, svc.Name, mode).
			WithHint("mode %q or %q", Queue, Supersede)
	}
	if svc.Destroying {
		return model.Errorf(model.Conflict, "cannot %s %s: it is being destroyed", verb, svc.Name).
			WithHint("wait until kiln status does not show it any more")
	}
	if mode != Refuse || !busy(svc) {
		return nil
	}
	d, is := svc.Deployment, "running"
	if d == nil {
		d, is = svc.Queue[0], "waiting"
	}
	return model.Errorf(model.Conflict, "cannot %s %s: deployment %s (release %d) is %s, now %s", verb, svc.Name, d.ID, d.To, is, d.Phase).
		WithHint("wait for it (--queue does), end it first (--supersede), or: kiln abort %s", svc.Name)
}

// expected returns the release that a command of the mode will find in
// service, as far as that is known.
func expected(svc *model.Service, mode DeployMode) *model.Release {
	d := svc.Deployment
	switch {
	case mode == Queue && len(svc.Queue) > 0:
		return svc.Release(svc.Queue[len(svc.Queue)-1].To)
	case d != nil && (mode == Queue || mode == Supersede && d.Committed()):
		return svc.Release(d.To)
	default:
		return current(svc)
	}
}

// order is a release to be made and put in service.
type order struct {
	release  model.Release
	strategy model.Strategy
	scales   int // the release whose count it changes; 0: it is no scale
	actor    string
	mode     DeployMode
	capacity *model.Capacity
}

// stands reports whether the release would change nothing.
func stands(s *model.State, release model.Release) bool {
	svc := s.Services[release.Service]
	if svc == nil || busy(svc) {
		return false
	}
	r := current(svc)
	return r != nil && r.TemplateHash == release.Template.Hash() && samePolicy(r.Policy, release.Policy)
}

// place numbers the release and starts its deployment, or has it wait. Nothing
// is made when nothing would change.
func (o order) place(s *model.State, now model.Now) ([]model.Payload, DeployResult, error) {
	release, svc := o.release, s.Services[o.release.Service]
	release.TemplateHash, release.ChecksHash = release.Template.Hash(), release.Policy.ChecksHash()
	if svc != nil {
		release.Number = len(svc.Releases) + 1
	}
	waits := busy(svc)
	if stands(s, release) {
		return nil, DeployResult{Release: current(svc).Number, Verdict: model.Unchanged}, nil
	}
	if err := fits(svc, &release, o.strategy); err != nil {
		return nil, DeployResult{}, err
	}
	d := model.Deployment{
		ID:      model.DeploymentID("d-" + model.Sixes(s.Instance, s.NextID)),
		Service: release.Service, To: release.Number, Strategy: o.strategy, Actor: o.actor, Scales: o.scales,
		StartedAt: now.Wall,
	}
	result := DeployResult{Deployment: d.ID, Release: release.Number, Queued: waits}
	created := model.ReleaseCreated{Release: release}
	if waits {
		return append(o.clear(svc, d.ID, now), created, queued(svc, d, now)), result, nil
	}
	if err := affordable(svc, &release, o.strategy, o.capacity); err != nil {
		return nil, DeployResult{}, err
	}
	return []model.Payload{created, started(svc, &release, d, now)}, result, nil
}

// clear ends what a deployment supersedes, as far as it can be ended.
func (o order) clear(svc *model.Service, by model.DeploymentID, now model.Now) []model.Payload {
	if o.mode != Supersede {
		return nil
	}
	words := supersededBy + string(by)
	var events []model.Payload
	for _, waits := range svc.Queue {
		events = append(events, dropped(waits, words, now))
	}
	if d := svc.Deployment; d != nil && !d.Committed() && d.Abort == "" {
		events = append(events, model.DeploymentAborting{ID: d.ID, Service: svc.Name, By: words})
	}
	return events
}

func queued(svc *model.Service, d model.Deployment, now model.Now) model.Payload {
	d.Phase, d.From = model.DeployQueued, svc.InService
	d.Started, d.Since = now.Elapsed, now.Elapsed
	if runs := svc.Deployment; runs != nil {
		d.WaitingFor = "deployment " + string(runs.ID)
	}
	return model.DeploymentQueued{Deployment: d}
}

// started begins a deployment: what it takes, and its deadline, follow from
// what is in service now.
func started(svc *model.Service, to *model.Release, d model.Deployment, now model.Now) model.Payload {
	deadline := now.Elapsed.Add(to.Policy.Deploy.Deadline.D())
	d.Phase, d.WaitingFor = model.DeployPreparing, "image "+to.Template.Image.Short()
	d.StartedAt, d.Started, d.Since = now.Wall, now.Elapsed, now.Elapsed
	d.Until, d.Deadline = min(now.Elapsed.Add(prepareTimeout), deadline), deadline
	d.Stages = stagesOf(svc, to, d.Strategy)
	d.From = 0
	if svc != nil {
		d.From = svc.InService
	}
	return model.DeploymentStarted{Deployment: d}
}

// dropped ends a deployment that has not begun.
func dropped(d *model.Deployment, reason string, now model.Now) model.Payload {
	return model.DeploymentEnded{
		ID: d.ID, Service: d.Service, Verdict: model.Aborted, Reason: reason, TookMS: now.Elapsed.Sub(d.Started).Milliseconds(),
	}
}

// dequeue starts the deployment that has waited longest, when none runs any
// more. What was checked when it was accepted is checked again: the world has
// changed meanwhile.
func (v *service) dequeue() {
	if v.svc.Deployment != nil || len(v.svc.Queue) == 0 || v.svc.Destroying {
		return
	}
	d := *v.svc.Queue[0]
	to := v.svc.Release(d.To)
	if base := v.svc.Release(d.Scales); base != nil {
		if now := current(v.svc); now == nil || now.TemplateHash != base.TemplateHash {
			v.emit(dropped(&d, fmt.Sprintf("release %d, whose number of servers it was to change, is not in service", base.Number), v.now))
			return
		}
	}
	if err := v.affordableNow(to, d.Strategy); err != nil && v.roomComes() {
		return
	}
	if err := v.stillPossible(to, d.Strategy); err != nil {
		v.emit(model.DeploymentEnded{
			ID: d.ID, Service: v.svc.Name, Verdict: model.Failed, Reason: "when its turn had come: " + err.Error(),
			TookMS: v.now.Elapsed.Sub(d.Started).Milliseconds(),
		})
		return
	}
	v.emit(started(v.svc, to, d, v.now))
}

func (v *service) stillPossible(to *model.Release, strategy model.Strategy) error {
	if err := fits(v.svc, to, strategy); err != nil {
		return err
	}
	if err := v.affordableNow(to, strategy); err != nil {
		return err
	}
	return routesFree(v.s, DeployRequest{Service: v.svc.Name, Template: to.Template, Policy: to.Policy})
}

func (v *service) affordableNow(to *model.Release, strategy model.Strategy) error {
	if v.obs.Snapshot == nil {
		return nil
	}
	return affordable(v.svc, to, strategy, &v.obs.Snapshot.Capacity)
}

// roomComes reports whether servers of the service are on their way out, those
// that the deployment before has made for one: the next one waits a while for
// what they give back.
func (v *service) roomComes() bool {
	n := len(v.svc.Deployments)
	if n == 0 || v.due(v.svc.Deployments[n-1].Since.Add(queueRoom)) {
		return false
	}
	for _, srv := range v.svc.Servers {
		switch srv.Phase {
		case model.PhaseDraining, model.PhaseStopping, model.PhaseEnded, model.PhaseRecorded:
			return true
		default:
		}
	}
	return false
}

// StageRequest asks about the stages of the running deployment.
type StageRequest struct {
	Service    string
	Deployment model.DeploymentID // "": the one that runs
	Actor      string
	Reason     string
	For        model.Duration // Pause: how long at most; 0: a day
}

// pauseTime is how long a deployment is held if nobody says.
const pauseTime = model.Duration(24 * 3600e9)

func (r StageRequest) by() string {
	by := cmp.Or(r.Actor, "somebody")
	if r.Reason != "" {
		by += ": " + r.Reason
	}
	return by
}

// stages returns the running deployment that the request is about, if it has
// stages and they are not past.
func (r StageRequest) stages(s *model.State, verb string) (*model.Deployment, error) {
	svc := s.Services[r.Service]
	if svc == nil {
		return nil, model.Errorf(model.NotFound, "there is no service %s", r.Service)
	}
	d := svc.Deployment
	if d == nil || r.Deployment != "" && r.Deployment != d.ID {
		return nil, notRunning(verb, r.Service, r.Deployment)
	}
	refuse := func(why string) error {
		return model.Errorf(model.Precondition, "cannot %s deployment %s of %s: %s", verb, d.ID, r.Service, why)
	}
	switch {
	case !staged(svc):
		return nil, refuse("it has no stages: it switches at once")
	case d.Abort != "":
		return nil, refuse("it is being aborted")
	case d.Committed():
		return nil, refuse("its last switch is published already")
	default:
		return d, nil
	}
}

// Pause holds the running deployment at the stage that is reached: it goes on
// when it is resumed or finished, and is aborted when the time is over.
func Pause(s *model.State, req StageRequest, now model.Now) ([]model.Payload, error) {
	d, err := req.stages(s, "pause")
	if err != nil || d.Pause != nil {
		return nil, err
	}
	if req.For < 0 {
		return nil, model.Errorf(model.Invalid, "cannot pause %s for %s", req.Service, req.For)
	}
	until := now.Elapsed.Add(cmp.Or(req.For, pauseTime).D())
	return []model.Payload{model.DeploymentPaused{ID: d.ID, Service: req.Service, By: req.by(), Until: until}}, nil
}

// Resume ends a pause. Its time does not count towards the deadlines.
func Resume(s *model.State, req StageRequest, now model.Now) ([]model.Payload, error) {
	d, err := req.stages(s, "resume")
	if err != nil {
		return nil, err
	}
	if d.Pause == nil {
		return nil, model.Errorf(model.Precondition, "cannot resume deployment %s of %s: it is not paused", d.ID, req.Service)
	}
	until, deadline := resumed(d, now)
	return []model.Payload{model.DeploymentResumed{ID: d.ID, Service: req.Service, By: req.by(), Until: until, Deadline: deadline}}, nil
}

// Finish passes over the stages that are left: the next one that is worked on
// is the last. It ends a pause.
func Finish(s *model.State, req StageRequest, now model.Now) ([]model.Payload, error) {
	d, err := req.stages(s, "finish")
	if err != nil || d.Finish != "" && d.Pause == nil {
		return nil, err
	}
	until, deadline := resumed(d, now)
	return []model.Payload{model.DeploymentFinishing{ID: d.ID, Service: req.Service, By: req.by(), Until: until, Deadline: deadline}}, nil
}

// resumed moves the deadlines of a deployment on by the time it was paused.
func resumed(d *model.Deployment, now model.Now) (until, deadline model.Instant) {
	if d.Pause == nil {
		return d.Until, d.Deadline
	}
	deadline = d.Deadline.Add(now.Elapsed.Sub(d.Pause.Since))
	until = d.Until.Add(now.Elapsed.Sub(max(d.Pause.Since, d.Since)))
	return min(until, deadline), deadline
}
