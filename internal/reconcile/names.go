package reconcile

import (
	"cmp"
	"slices"

	"kiln/internal/model"
)

// serviceNetwork is the size of the network of service names.
const serviceNetwork = 1 << 16

// nameFree refuses a service whose name's address another one has, and one
// that connects to itself.
func nameFree(s *model.State, req DeployRequest) error {
	if slices.Contains(req.Template.Connects, req.Service) {
		return model.Errorf(model.Invalid, "cannot deploy %s: it connects to itself", req.Service).
			WithHint("its servers reach their own port at 127.0.0.1; remove it from connects")
	}
	ours := model.ServiceOffset(s.Instance, req.Service, serviceNetwork)
	for _, name := range sortedNames(s) {
		if name != req.Service && !s.Services[name].Destroyed && model.ServiceOffset(s.Instance, name, serviceNetwork) == ours {
			return model.Errorf(model.Conflict, "cannot deploy %s: the address that follows from its name is that of service %s", req.Service, name).
				WithHint("another name")
		}
	}
	return nil
}

// claim is a route and the service that has it, or asks for it.
type claim struct {
	service  string
	protocol model.Protocol
	route    model.Route
}

// routesFree refuses routes that another service has or will have, and
// listeners on which another one speaks something else.
func routesFree(s *model.State, req DeployRequest) error {
	ours := make([]claim, len(req.Policy.Routes))
	for i, r := range req.Policy.Routes {
		ours[i] = claim{req.Service, req.Template.Protocol, r}
	}
	for i, a := range ours {
		for _, b := range slices.Concat(ours[i+1:], claimed(s, req.Service)) {
			if err := a.agrees(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// claimed returns what the other services have or are about to have.
func claimed(s *model.State, but string) []claim {
	var list []claim
	for _, name := range sortedNames(s) {
		if name == but || s.Services[name].Destroyed {
			continue
		}
		for _, r := range claims(s.Services[name]) {
			for _, route := range r.Policy.Routes {
				list = append(list, claim{name, r.Template.Protocol, route})
			}
		}
	}
	return list
}

// claims returns the releases whose routes the service has or is about to have.
func claims(svc *model.Service) []*model.Release {
	var list []*model.Release
	if r := current(svc); r != nil {
		list = append(list, r)
	}
	if svc.Deployment != nil {
		list = append(list, svc.Release(svc.Deployment.To))
	}
	for _, d := range svc.Queue {
		list = append(list, svc.Release(d.To))
	}
	return list
}

// agrees refuses a route that cannot stand beside another one. What a listener
// of tcp is for is known by the name that clients ask for, which needs TLS.
func (c claim) agrees(other claim) error {
	code := model.Conflict
	if c.service == other.service {
		code = model.Invalid
	}
	refuse := func(format string, args ...any) *model.Error {
		return model.Errorf(code, "cannot deploy "+c.service+": "+format, args...)
	}
	ours, theirs := c.route, other.route
	tcp := c.protocol == model.TCP
	switch {
	case ours.Listen != theirs.Listen:
		return nil
	case tcp != (other.protocol == model.TCP):
		return refuse("service %s uses the listener %s, and tcp and HTTP cannot share one", other.service, ours.Listen).
			WithHint("give one of them another port")
	case ours.SameKey(theirs), tcp && ours.TLS.Enabled() && ours.Host == theirs.Host:
		return refuse("service %s has the route %s already", other.service, routeText(theirs))
	case tcp && !ours.TLS.Enabled() && !theirs.TLS.Enabled():
		return refuse("service %s uses the listener %s, and tcp cannot be shared without TLS", other.service, ours.Listen).
			WithHint("another port; or tls for both, by which they are told apart by their hosts")
	case ours.TLS.Enabled() != theirs.TLS.Enabled():
		return refuse("the routes of listener %s all have TLS or none has, and service %s's %s does not agree", ours.Listen, other.service, routeText(theirs))
	case ours.ProxyProtocol != theirs.ProxyProtocol:
		return refuse("the routes of listener %s all have proxy_protocol or none has, and service %s's %s does not agree", ours.Listen, other.service, routeText(theirs))
	default:
		return nil
	}
}

func routeText(r model.Route) string {
	return r.Listen + " " + cmp.Or(r.Host, "*") + r.Path
}
