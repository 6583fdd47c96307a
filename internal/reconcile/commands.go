package reconcile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"kiln/internal/model"
)

// DeployRequest asks that a template and a policy be in service.
type DeployRequest struct {
	Service    string
	Template   model.Template
	Policy     model.Policy
	Author     string
	Reason     string
	Provenance model.Provenance
	Actor      string
	Capacity   *model.Capacity // what is free; nil: not known, and not asked
}

// DeployResult is what became of a request.
type DeployResult struct {
	Deployment model.DeploymentID // "" when nothing had to be done
	Release    int                // the new one, or the one in service
	Verdict    model.Verdict      // Unchanged, or "" while the deployment runs
}

// ScaleRequest asks for another number of servers of what is in service.
type ScaleRequest struct {
	Service  string
	Servers  int
	Actor    string
	Author   string
	Reason   string
	Capacity *model.Capacity
}

// AbortRequest asks for the end of the running deployment.
type AbortRequest struct {
	Service    string
	Deployment model.DeploymentID // "": the one that runs
	Actor      string
	Reason     string
}

// Deploy makes a release and starts its deployment. Nothing is made when the
// release in service has the same template and policy.
func Deploy(s *model.State, req DeployRequest, now model.Now) ([]model.Payload, DeployResult, error) {
	if err := deployable(s, req); err != nil {
		return nil, DeployResult{}, err
	}
	release := model.Release{
		Service: req.Service, Number: 1, Template: req.Template, Policy: req.Policy,
		CreatedAt: now.Wall, Author: req.Author, Reason: req.Reason, Provenance: req.Provenance,
	}
	return start(s, release, req.Actor, req.Capacity, now)
}

// Scale makes a release that differs from the one in service by its number of
// servers. The next declaration wins over it.
func Scale(s *model.State, req ScaleRequest, now model.Now) ([]model.Payload, DeployResult, error) {
	current, err := standing(s, req.Service, "scale")
	if err != nil {
		return nil, DeployResult{}, err
	}
	if req.Servers < 0 {
		return nil, DeployResult{}, model.Errorf(model.Invalid, "cannot scale %s to %d servers", req.Service, req.Servers)
	}
	release := *current
	release.Policy.Servers = req.Servers
	release.CreatedAt, release.Author, release.Reason = now.Wall, req.Author, req.Reason
	release.RollbackOf = 0
	if release.Reason == "" {
		release.Reason = fmt.Sprintf("scaled from %d to %d servers", current.Policy.Servers, req.Servers)
	}
	return start(s, release, req.Actor, req.Capacity, now)
}

// Abort asks for the end of a deployment. Once the table that switches is
// published, a router may use it, and the way back is a rollback.
func Abort(s *model.State, req AbortRequest, _ model.Now) ([]model.Payload, error) {
	svc := s.Services[req.Service]
	if svc == nil {
		return nil, model.Errorf(model.NotFound, "there is no service %s", req.Service)
	}
	d := svc.Deployment
	if d == nil || req.Deployment != "" && req.Deployment != d.ID {
		return nil, model.Errorf(model.Precondition, "cannot abort: %s of %s is not running", orAny(req.Deployment), req.Service).
			WithHint("kiln status shows what runs")
	}
	if d.Generation != 0 {
		return nil, model.Errorf(model.Precondition, "cannot abort deployment %s of %s: its switch is published already", d.ID, req.Service).
			WithHint("when it has ended: kiln rollback %s", req.Service)
	}
	if d.Abort != "" {
		return nil, nil
	}
	by := cmp.Or(req.Actor, "somebody")
	if req.Reason != "" {
		by += ": " + req.Reason
	}
	return []model.Payload{model.DeploymentAborting{ID: d.ID, Service: req.Service, By: by}}, nil
}

func orAny(id model.DeploymentID) string {
	if id == "" {
		return "a deployment"
	}
	return "deployment " + string(id)
}

// DestroyService ends a service with all its servers. Its history stays.
func DestroyService(s *model.State, service string) ([]model.Payload, error) {
	svc := s.Services[service]
	switch {
	case svc == nil || svc.Destroyed:
		return nil, model.Errorf(model.NotFound, "cannot destroy %s: there is no such service", service)
	case svc.Destroying:
		return nil, nil
	default:
		return []model.Payload{model.ServiceDestroying{Service: service}}, nil
	}
}

// standing returns the release that a command starts from: the one in service,
// or the one whose switch awaits its acknowledgement.
func standing(s *model.State, service, verb string) (*model.Release, error) {
	svc := s.Services[service]
	if svc == nil || svc.Destroyed {
		return nil, model.Errorf(model.NotFound, "cannot %s %s: there is no such service", verb, service).
			WithHint("kiln deploy %s", service)
	}
	if err := free(svc, verb); err != nil {
		return nil, err
	}
	if r := current(svc); r != nil {
		return r, nil
	}
	return nil, model.Errorf(model.Precondition, "cannot %s %s: no release of it is in service", verb, service).
		WithHint("kiln deploy %s", service)
}

func current(svc *model.Service) *model.Release {
	if svc.Pending != nil {
		return svc.Release(svc.Pending.Release)
	}
	return svc.Release(svc.InService)
}

// free refuses a command while something else changes the service.
func free(svc *model.Service, verb string) error {
	if svc.Destroying {
		return model.Errorf(model.Conflict, "cannot %s %s: it is being destroyed", verb, svc.Name).
			WithHint("wait until kiln status does not show it any more")
	}
	if d := svc.Deployment; d != nil {
		return model.Errorf(model.Conflict, "cannot %s %s: deployment %s (release %d) is running, now %s", verb, svc.Name, d.ID, d.To, d.Phase).
			WithHint("wait for it, or: kiln abort %s", svc.Name)
	}
	return nil
}

// deployable refuses what can never be deployed.
func deployable(s *model.State, req DeployRequest) error {
	switch {
	case !model.ValidServiceName(req.Service):
		return model.Errorf(model.Invalid, "cannot deploy %q: a service's name is a DNS label of at most 40 characters", req.Service)
	case req.Template.Service != req.Service:
		return model.Errorf(model.Invalid, "cannot deploy %s: its template is that of %q", req.Service, req.Template.Service)
	case !model.ValidDigest(string(req.Template.Image)):
		return model.Errorf(model.Invalid, "cannot deploy %s: %q is not an image's digest", req.Service, req.Template.Image)
	case req.Policy.Servers < 0:
		return model.Errorf(model.Invalid, "cannot deploy %s: %d servers", req.Service, req.Policy.Servers)
	case req.Policy.Deploy.Strategy != model.BlueGreen:
		return model.Errorf(model.Invalid, "cannot deploy %s: strategy %q is not known here", req.Service, req.Policy.Deploy.Strategy).
			WithHint("strategy = %q", model.BlueGreen)
	case len(req.Policy.Routes) > 0 && req.Template.Port == 0:
		return model.Errorf(model.Invalid, "cannot deploy %s: it has a route, but no port", req.Service)
	}
	if svc := s.Services[req.Service]; svc != nil {
		if err := free(svc, "deploy"); err != nil {
			return err
		}
	}
	return routesFree(s, req)
}

// routesFree refuses routes that another service has, and listeners on which
// another one speaks another protocol.
func routesFree(s *model.State, req DeployRequest) error {
	for _, name := range sortedNames(s) {
		other := s.Services[name]
		r := current(other)
		if name == req.Service || r == nil || other.Destroyed {
			continue
		}
		for _, theirs := range r.Policy.Routes {
			for _, ours := range req.Policy.Routes {
				tcp := req.Template.Protocol == model.TCP || r.Template.Protocol == model.TCP
				switch {
				case ours == theirs:
					return model.Errorf(model.Conflict, "cannot deploy %s: service %s has the route %s already", req.Service, name, routeText(ours))
				case ours.Listen == theirs.Listen && tcp:
					return model.Errorf(model.Conflict, "cannot deploy %s: service %s uses the listener %s, and tcp cannot be shared", req.Service, name, ours.Listen)
				}
			}
		}
	}
	return nil
}

func routeText(r model.Route) string {
	return r.Listen + " " + cmp.Or(r.Host, "*") + r.Path
}

// start numbers the release and starts its deployment, unless nothing would
// change.
func start(s *model.State, release model.Release, actor string, capacity *model.Capacity, now model.Now) ([]model.Payload, DeployResult, error) {
	svc := s.Services[release.Service]
	from := 0
	release.TemplateHash, release.ChecksHash = release.Template.Hash(), release.Policy.ChecksHash()
	if svc != nil {
		release.Number = len(svc.Releases) + 1
		from = svc.InService
		if r := current(svc); r != nil && r.TemplateHash == release.TemplateHash && samePolicy(r.Policy, release.Policy) {
			return nil, DeployResult{Release: r.Number, Verdict: model.Unchanged}, nil
		}
	}
	if err := fits(svc, &release); err != nil {
		return nil, DeployResult{}, err
	}
	if err := affordable(svc, &release, capacity); err != nil {
		return nil, DeployResult{}, err
	}
	deadline := now.Elapsed.Add(release.Policy.Deploy.Deadline.D())
	d := model.Deployment{
		ID:      model.DeploymentID("d-" + model.Sixes(s.Instance, s.NextID)),
		Service: release.Service, From: from, To: release.Number, Strategy: release.Policy.Deploy.Strategy,
		Phase: model.DeployPreparing, WaitingFor: "image " + release.Template.Image.Short(), Actor: actor,
		StartedAt: now.Wall, Started: now.Elapsed, Since: now.Elapsed,
		Until: min(now.Elapsed.Add(prepareTimeout), deadline), Deadline: deadline,
	}
	return []model.Payload{model.ReleaseCreated{Release: release}, model.DeploymentStarted{Deployment: d}},
		DeployResult{Deployment: d.ID, Release: release.Number}, nil
}

// samePolicy compares what is stored, so that absent and empty are the same.
func samePolicy(a, b model.Policy) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// Timer is a named part of a deployment's time.
type Timer struct {
	Name string         `json:"name"`
	Time model.Duration `json:"time"`
}

// timersOf lists how long each part of the deployment may take.
func timersOf(from, to *model.Release, makes int) []Timer {
	var list []Timer
	if stopFirst(from, to) {
		list = append(list, Timer{"stop of the old servers", from.Policy.StopGrace + model.Duration(inspectTimeout)})
	}
	if makes > 0 {
		list = append(list, Timer{"provision", model.Duration(provisionTimeout)}, Timer{"grace", to.Policy.Health.Grace})
	}
	if asked := makes > 0 || from == nil || from.ChecksHash != to.ChecksHash; asked && len(to.Policy.Validations) > 0 {
		sum := model.Duration(0)
		for _, v := range to.Policy.Validations {
			sum += v.Timeout
		}
		list = append(list, Timer{"validations", sum})
	}
	return append(list, Timer{"switch", model.Duration(switchTimeout)})
}

func sumOf(timers []Timer) (time.Duration, string) {
	sum := time.Duration(0)
	var words []string
	for _, t := range timers {
		sum += t.Time.D()
		words = append(words, fmt.Sprintf("%s %s", t.Name, t.Time))
	}
	return sum, strings.Join(words, " + ")
}

// fits refuses a deployment whose timers do not fit into its deadline.
func fits(svc *model.Service, to *model.Release) error {
	var from *model.Release
	makes := to.Policy.Servers
	if svc != nil {
		from, makes = svc.Release(svc.InService), missing(svc, to)
	}
	sum, words := sumOf(timersOf(from, to, makes))
	if deadline := to.Policy.Deploy.Deadline; deadline.D() < sum {
		return model.Errorf(model.Invalid, "cannot deploy %s: its deadline of %s is too short for %s = %s", to.Service, deadline, words, model.Duration(sum)).
			WithHint("deploy { deadline = %q } or more, or shorten the grace or the validations' timeouts", model.Duration(sum))
	}
	return nil
}

// affordable refuses a deployment whose new servers' memory limits exceed what
// is free beside the ones that run.
func affordable(svc *model.Service, to *model.Release, capacity *model.Capacity) error {
	limit := to.Template.Resources.Memory
	if capacity == nil || limit == 0 {
		return nil
	}
	makes := to.Policy.Servers
	available := capacity.MemoryFree
	if svc != nil {
		makes = missing(svc, to)
		if from := svc.Release(svc.InService); stopFirst(from, to) {
			available += from.Template.Resources.Memory * int64(from.Policy.Servers)
		}
	}
	if need := limit * int64(makes); need > available {
		return model.Errorf(model.Precondition, "cannot deploy %s: %d new servers of %s need %s of memory beside the ones that run, and %s is free",
			to.Service, makes, bytesText(limit), bytesText(need), bytesText(available)).
			WithHint("fewer servers, a lower memory limit, or more memory")
	}
	return nil
}

func bytesText(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", n>>30)
	case n >= 10<<30:
		return fmt.Sprintf("%.1fGiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	default:
		return fmt.Sprintf("%dB", n)
	}
}
