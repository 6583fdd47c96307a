package reconcile

import (
	"cmp"
	"encoding/json"
	"fmt"

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
	Mode       DeployMode
	Capacity   *model.Capacity // what is free; nil: not known, and not asked
	// Environment and Declared are where it serves, and what the declaration calls
	// the service; "": the declaration has no environments.
	Environment string
	Declared    string
	Promoted    *model.Promotion // where its image serves; nil: it is no promotion
	Vouched     Vouched          // what is said of its image
}

// DeployResult is what became of a request.
type DeployResult struct {
	Deployment model.DeploymentID // "" when nothing had to be done
	Release    int                // the new one, or the one in service
	Verdict    model.Verdict      // Unchanged, or "" while the deployment runs or waits
	Queued     bool               // it waits for the one that runs
}

// ScaleRequest asks for another number of servers of what is in service.
type ScaleRequest struct {
	Service  string
	Servers  int
	Actor    string
	Author   string
	Reason   string
	Mode     DeployMode
	Capacity *model.Capacity
}

// AbortRequest asks for the end of the running deployment, or of one that waits.
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
	if err := usable(s, req.Template.Image, "deploy "+req.Service); err != nil {
		return nil, DeployResult{}, err
	}
	if err := promotable(s, req); err != nil {
		return nil, DeployResult{}, err
	}
	release := model.Release{
		Service: req.Service, Number: 1, Template: numbered(s.Services[req.Service], req.Template), Policy: req.Policy,
		CreatedAt: now.Wall, Author: req.Author, Reason: req.Reason, Provenance: req.Provenance,
		Environment: req.Environment, Declared: req.Declared, Promoted: req.Promoted,
	}
	if err := allowed(s, req, now); err != nil && !stands(s, release) {
		return nil, DeployResult{}, err
	}
	return order{release: release, strategy: release.Policy.Deploy.Strategy, actor: req.Actor, mode: req.Mode, capacity: req.Capacity}.place(s, now)
}

// Scale makes a release that differs from the one in service by its number of
// servers. The next declaration wins over it.
func Scale(s *model.State, req ScaleRequest, now model.Now) ([]model.Payload, DeployResult, error) {
	current, err := standing(s, req.Service, "scale", req.Mode)
	if err != nil {
		return nil, DeployResult{}, err
	}
	if req.Servers > 1 && current.Template.SingleWriter() {
		return nil, DeployResult{}, oneWriter("scale", req.Service)
	}
	if err := countable("scale", req.Service, req.Servers); err != nil {
		return nil, DeployResult{}, err
	}
	release := *current
	release.Policy.Servers = req.Servers
	release.CreatedAt, release.Author, release.Reason = now.Wall, req.Author, req.Reason
	release.RollbackOf = 0
	if release.Reason == "" {
		release.Reason = fmt.Sprintf("scaled from %d to %d servers", current.Policy.Servers, req.Servers)
	}
	return order{release: release, strategy: model.BlueGreen, scales: current.Number, actor: req.Actor, mode: req.Mode, capacity: req.Capacity}.place(s, now)
}

// Abort asks for the end of a deployment. Once the table that brings its
// release into service is published, a router may use it, and the way back is a
// rollback. One that waits is ended at once.
func Abort(s *model.State, req AbortRequest, now model.Now) ([]model.Payload, error) {
	svc := s.Services[req.Service]
	if svc == nil {
		return nil, model.Errorf(model.NotFound, "there is no service %s", req.Service)
	}
	by := cmp.Or(req.Actor, "somebody")
	if req.Reason != "" {
		by += ": " + req.Reason
	}
	for _, waits := range svc.Queue {
		if waits.ID == req.Deployment {
			return []model.Payload{dropped(waits, "aborted by "+by+", before it began", now)}, nil
		}
	}
	d := svc.Deployment
	if d == nil || req.Deployment != "" && req.Deployment != d.ID {
		return nil, notRunning("abort", req.Service, req.Deployment)
	}
	if d.Committed() {
		return nil, model.Errorf(model.Precondition, "cannot abort deployment %s of %s: its switch is published already", d.ID, req.Service).
			WithHint("when it has ended: kiln rollback %s", req.Service)
	}
	if d.Abort != "" {
		return nil, nil
	}
	return []model.Payload{model.DeploymentAborting{ID: d.ID, Service: req.Service, By: by}}, nil
}

// notRunning refuses a command about a deployment that does not run.
func notRunning(verb, service string, id model.DeploymentID) error {
	if id == "" {
		return model.Errorf(model.Precondition, "cannot %s: no deployment of %s is running", verb, service).
			WithHint("kiln status %s shows what runs", service)
	}
	return model.Errorf(model.Precondition, "cannot %s deployment %s of %s: it is not running", verb, id, service).
		WithHint("kiln status %s shows what runs", service)
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
// or the one whose switch awaits its acknowledgement; where the command waits
// for deployments, the one that the last of them brings.
func standing(s *model.State, service, verb string, mode DeployMode) (*model.Release, error) {
	svc := s.Services[service]
	if svc == nil || svc.Destroyed {
		return nil, model.Errorf(model.NotFound, "cannot %s %s: there is no such service", verb, service).
			WithHint("kiln deploy %s", service)
	}
	if err := free(svc, verb, mode); err != nil {
		return nil, err
	}
	if r := expected(svc, mode); r != nil {
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

// deployable refuses what can never be deployed.
func deployable(s *model.State, req DeployRequest) error {
	switch {
	case !model.ValidServiceName(req.Service):
		return model.Errorf(model.Invalid, "cannot deploy %q: a service's name is a DNS label of at most 40 characters", req.Service)
	case req.Template.Service != req.Service:
		return model.Errorf(model.Invalid, "cannot deploy %s: its template is that of %q", req.Service, req.Template.Service)
	case !model.ValidDigest(string(req.Template.Image)):
		return model.Errorf(model.Invalid, "cannot deploy %s: %q is not an image's digest", req.Service, req.Template.Image)
	case req.Environment != req.Template.Environment || req.Environment != "" && model.InEnvironment(req.Declared, req.Environment) != req.Service:
		return model.Errorf(model.Invalid, "cannot deploy %s: it is not what service %q is called in environment %q", req.Service, req.Declared, req.Environment)
	case req.Policy.Servers > 1 && req.Template.SingleWriter():
		return oneWriter("deploy", req.Service)
	case len(req.Policy.Routes) > 0 && req.Template.Port == 0:
		return model.Errorf(model.Invalid, "cannot deploy %s: it has a route, but no port", req.Service)
	}
	if err := countable("deploy", req.Service, req.Policy.Servers); err != nil {
		return err
	}
	if err := valued(req.Service, req.Template); err != nil {
		return err
	}
	if err := stageable(req); err != nil {
		return err
	}
	if svc := s.Services[req.Service]; svc != nil {
		if err := free(svc, "deploy", req.Mode); err != nil {
			return err
		}
	}
	if err := nameFree(s, req); err != nil {
		return err
	}
	return routesFree(s, req)
}

// countable refuses a number of servers that no service can have.
func countable(verb, service string, servers int) error {
	if servers < 0 || servers > model.MaxServers {
		return model.Errorf(model.Invalid, "cannot %s %s: a service has between 0 and %d servers, not %d", verb, service, model.MaxServers, servers)
	}
	return nil
}

func oneWriter(verb, service string) error {
	return model.Errorf(model.Invalid, "cannot %s %s: it has a volume that one server at a time may have, and more than one server", verb, service).
		WithHint("servers = 1, or access = \"shared\" for the volume")
}

// samePolicy compares what is stored, so that absent and empty are the same.
func samePolicy(a, b model.Policy) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
