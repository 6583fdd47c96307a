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

// routesFree refuses routes that another service has or will have, and
// listeners on which another one speaks something else.
func routesFree(s *model.State, req DeployRequest) error {
	for i, a := range req.Policy.Routes {
		for _, b := range req.Policy.Routes[i+1:] {
			if err := routesAgree(req.Service, a, req.Service, b, false); err != nil {
				return err
			}
		}
	}
	for _, name := range sortedNames(s) {
		if name == req.Service || s.Services[name].Destroyed {
			continue
		}
		for _, r := range claims(s.Services[name]) {
			tcp := req.Template.Protocol == model.TCP || r.Template.Protocol == model.TCP
			for _, theirs := range r.Policy.Routes {
				for _, ours := range req.Policy.Routes {
					if err := routesAgree(req.Service, ours, name, theirs, tcp); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
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

// routesAgree refuses two routes that cannot stand side by side.
func routesAgree(service string, ours model.Route, other string, theirs model.Route, tcp bool) error {
	refuse := func(code model.Code, format string, args ...any) error {
		return model.Errorf(code, "cannot deploy "+service+": "+format, args...)
	}
	code := model.Conflict
	if service == other {
		code = model.Invalid
	}
	switch {
	case ours.SameKey(theirs):
		return refuse(code, "service %s has the route %s already", other, routeText(ours))
	case ours.Listen != theirs.Listen:
		return nil
	case tcp:
		return refuse(code, "service %s uses the listener %s, and tcp cannot be shared", other, ours.Listen)
	case ours.TLS.Enabled() != theirs.TLS.Enabled():
		return refuse(code, "the routes of listener %s all have TLS or none has, and service %s's %s does not agree", ours.Listen, other, routeText(theirs))
	case ours.ProxyProtocol != theirs.ProxyProtocol:
		return refuse(code, "the routes of listener %s all have proxy_protocol or none has, and service %s's %s does not agree", ours.Listen, other, routeText(theirs))
	default:
		return nil
	}
}

func routeText(r model.Route) string {
	return r.Listen + " " + cmp.Or(r.Host, "*") + r.Path
}
