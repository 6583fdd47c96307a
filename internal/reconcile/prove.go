package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// proves returns the release whose checks the server has to pass next, or nil:
// for a new server its own; for one that serves or waits warm, that of the
// deployment which takes it over, if its checks are others.
func (v *service) proves(srv *model.Server) *model.Release {
	switch srv.Phase {
	case model.PhaseRunning:
		return v.release(srv)
	case model.PhaseReady, model.PhaseServing, model.PhaseWarm:
		t := v.target()
		if t != nil && t.TemplateHash == srv.TemplateHash && t.ChecksHash != srv.Checks && v.svc.Deployment.Phase == model.DeployValidating {
			return t
		}
	default:
	}
	return nil
}

// proveServers moves new servers through their checks, and finds those that
// fail them.
func (v *service) proveServers() {
	var unfit []failure
	for _, srv := range v.servers() {
		f := failure{srv: srv, unfit: true}
		switch srv.Phase {
		case model.PhaseCreated:
			if v.due(max(srv.Until, v.s.DaemonSince.Add(provisionTimeout))) {
				f.reason = fmt.Sprintf("its process did not run within %s", model.Duration(provisionTimeout))
				if why := v.failing([]*model.Server{srv}); why != "" {
					f.reason += ": " + why
				}
				unfit = append(unfit, f)
			}
		case model.PhaseRunning:
			if f.reason = v.prove(srv); f.reason != "" {
				f.lived = v.now.Elapsed.Sub(srv.RanSince)
				unfit = append(unfit, f)
			}
		case model.PhaseReady:
			if srv.Health == model.Unhealthy && v.madeBy(v.svc.Deployment, srv) {
				f.reason = "it became unhealthy after it had passed its checks: " + srv.HealthDetail
				unfit = append(unfit, f)
			}
		case model.PhaseServing:
			if srv.Health == model.Unhealthy && v.newSide(srv) {
				f.reason, f.stays = "it became unhealthy in service: "+srv.HealthDetail, true
				unfit = append(unfit, f)
			}
		default:
		}
	}
	v.fail(unfit)
}

// prove moves a running server on, or says why it has failed.
func (v *service) prove(srv *model.Server) string {
	policy := v.release(srv).Policy
	checks := v.release(srv).ChecksHash
	// While no daemon ran, nothing was probed.
	grace := max(srv.RanSince, v.s.DaemonSince).Add(policy.Health.Grace.D())
	if srv.Health != model.Healthy {
		if v.due(grace) {
			return fmt.Sprintf("it did not become healthy within %s: %s", policy.Health.Grace, v.lastSeen(srv))
		}
		return ""
	}
	switch {
	case srv.Checks == checks:
		v.emit(v.becomeReady(srv))
	case len(policy.Validations) == 0:
		v.emit(model.ServerValidated{ID: srv.ID, Checks: checks})
	case v.due(max(srv.HealthSince, v.s.DaemonSince).Add(validationTime(policy))):
		return fmt.Sprintf("its validations did not end within %s", model.Duration(validationTime(policy)))
	}
	return ""
}

// failing says why the first of the servers that cannot be provisioned cannot
// be, though it is tried again.
func (v *service) failing(servers []*model.Server) string {
	for _, srv := range servers {
		if why := v.obs.Failing[provisionKey(srv.ID)]; why != "" && srv.Phase == model.PhaseCreated {
			return why
		}
	}
	return ""
}

// lastSeen is the last probe of a server, in words.
func (v *service) lastSeen(srv *model.Server) string {
	if why := v.failing([]*model.Server{srv}); why != "" {
		return why
	}
	if h := v.obs.Health[srv.ID]; h.Detail != "" {
		return "last health check: " + h.Detail
	}
	if srv.HealthDetail != "" {
		return "last health check: " + srv.HealthDetail
	}
	return "no health check has been answered"
}
