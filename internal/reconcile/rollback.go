package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// RollbackRequest asks for the template and the checks of an earlier release.
type RollbackRequest struct {
	Service  string
	To       int // 0: the newest release that RollbackTarget names
	Actor    string
	Author   string
	Reason   string
	Mode     DeployMode
	Capacity *model.Capacity
}

// Rollback makes a release with the template, the health check and the
// validations of an earlier one, and starts its deployment. Everything else,
// the number of servers above all, stays as it is now.
func Rollback(s *model.State, req RollbackRequest, now model.Now) ([]model.Payload, DeployResult, error) {
	present, err := standing(s, req.Service, "roll back", req.Mode)
	if err != nil {
		return nil, DeployResult{}, err
	}
	to := req.To
	if to == 0 {
		if to, err = rollbackFrom(s, s.Services[req.Service], present); err != nil {
			return nil, DeployResult{}, err
		}
	}
	svc := s.Services[req.Service]
	old := svc.Release(to)
	switch {
	case old == nil:
		return nil, DeployResult{}, model.Errorf(model.NotFound, "cannot roll %s back: it has no release %d", req.Service, to).
			WithHint("kiln releases %s", req.Service)
	case !served(svc, to):
		return nil, DeployResult{}, model.Errorf(model.Precondition, "cannot roll %s back: release %d never came into service", req.Service, to).
			WithHint("kiln releases %s shows those that did", req.Service)
	case len(present.Policy.Routes) > 0 && old.Template.Port == 0:
		return nil, DeployResult{}, model.Errorf(model.Precondition, "cannot roll %s back: release %d serves no port, and the service has a route", req.Service, to)
	case present.Policy.Servers > 1 && old.Template.SingleWriter():
		return nil, DeployResult{}, model.Errorf(model.Precondition, "cannot roll %s back: release %d has a volume that one server at a time may have, and the service has %d servers",
			req.Service, to, present.Policy.Servers).WithHint("kiln scale %s 1, then roll back", req.Service)
	}
	if err := usable(s, old.Template.Image, fmt.Sprintf("roll %s back to release %d", req.Service, to)); err != nil {
		return nil, DeployResult{}, err
	}
	if err := forgotten(s, old.Template, fmt.Sprintf("roll %s back to release %d", req.Service, to)); err != nil {
		return nil, DeployResult{}, err
	}
	release := *present
	release.Template, release.Provenance, release.Promoted = old.Template, old.Provenance, old.Promoted
	release.Policy.Health, release.Policy.Validations = old.Policy.Health, old.Policy.Validations
	release.Policy.Image = rolledBack(present.Policy.Image, old.Policy.Image)
	release.Policy.StopSignal, release.Policy.StopGrace = old.Policy.StopSignal, old.Policy.StopGrace
	release.RollbackOf = to
	release.CreatedAt, release.Author, release.Reason = now.Wall, req.Author, req.Reason
	if release.Reason == "" {
		release.Reason = fmt.Sprintf("rollback from release %d to release %d", present.Number, to)
	}
	return order{release: release, strategy: model.BlueGreen, actor: req.Actor, mode: req.Mode, capacity: req.Capacity}.place(s, now)
}

// rolledBack is what an image has to be that a rollback takes again: of the form that
// is asked for now, with the validations that were written for it.
func rolledBack(present, old *model.ImagePolicy) *model.ImagePolicy {
	if present == nil && (old == nil || len(old.Validations) == 0) {
		return nil
	}
	p := model.ImagePolicy{}
	if present != nil {
		p = *present
	}
	p.Validations = nil
	if old != nil {
		p.Validations = old.Validations
	}
	return &p
}

// RollbackTarget returns the release that a rollback without a number goes to:
// the newest one that came into service, has another template than the present
// one, was not itself rolled back from, and whose image is not rejected.
func RollbackTarget(s *model.State, service string) (int, error) {
	svc := s.Services[service]
	if svc == nil {
		return 0, model.Errorf(model.NotFound, "there is no service %s", service)
	}
	now := current(svc)
	if now == nil {
		return 0, model.Errorf(model.Precondition, "cannot roll %s back: no release of it is in service", service)
	}
	return rollbackFrom(s, svc, now)
}

func rollbackFrom(s *model.State, svc *model.Service, now *model.Release) (int, error) {
	given := rolledBackFrom(svc)
	for n := len(svc.Releases); n >= 1; n-- {
		if served(svc, n) && !given[n] && svc.Release(n).TemplateHash != now.TemplateHash && !s.Images[svc.Release(n).Template.Image].Rejected() {
			return n, nil
		}
	}
	return 0, model.Errorf(model.Precondition, "cannot roll %s back: no other release served well", svc.Name).
		WithHint("kiln rollback %s N names one; kiln releases %s lists them", svc.Name, svc.Name)
}

// RollbackPossible reports whether a rollback to the release would be accepted
// by what the journal knows, and if not, why.
func RollbackPossible(s *model.State, service string, number int) (bool, string) {
	svc := s.Services[service]
	switch {
	case svc == nil || svc.Release(number) == nil:
		return false, "there is no such release"
	case svc.Destroying || svc.Destroyed:
		return false, "the service is destroyed"
	case !served(svc, number):
		return false, "it never came into service"
	case current(svc) == nil:
		return false, "no release is in service"
	case current(svc).TemplateHash == svc.Release(number).TemplateHash:
		return false, "its template is in service"
	case current(svc).Policy.Servers > 1 && svc.Release(number).Template.SingleWriter():
		return false, "one server at a time may have its volume, and the service has more"
	case removed(s, svc.Release(number).Template.Image, "") != nil:
		return false, "its image was removed"
	case rejected(s, svc.Release(number).Template.Image, "") != nil:
		return false, "its image is rejected"
	case forgotten(s, svc.Release(number).Template, "") != nil:
		return false, "a secret's version or a configuration file of it was removed"
	default:
		return true, ""
	}
}

// ReleaseVerdict returns how the release's deployment ended; Succeeded also
// when an unknown switch was acknowledged later; "" while it runs.
func ReleaseVerdict(svc *model.Service, number int) model.Verdict {
	verdict := model.Verdict("")
	for _, d := range svc.Deployments {
		if d.To == number {
			verdict = d.Verdict
			if d.Switched {
				verdict = model.Succeeded
			}
		}
	}
	return verdict
}

// served reports whether the release ever came into service.
func served(svc *model.Service, number int) bool {
	return ReleaseVerdict(svc, number) == model.Succeeded
}

// rolledBackFrom returns the releases that a rollback has replaced.
func rolledBackFrom(svc *model.Service) map[int]bool {
	given := map[int]bool{}
	for _, d := range svc.Deployments {
		r := svc.Release(d.To)
		if r == nil || r.RollbackOf == 0 || !d.Switched {
			continue
		}
		// A release that merely scaled the one given up, or changed its policy,
		// is that one again.
		from := svc.Release(d.From)
		for n := d.From; from != nil && n >= 1 && svc.Release(n).TemplateHash == from.TemplateHash; n-- {
			given[n] = true
		}
	}
	return given
}
