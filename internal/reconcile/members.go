package reconcile

import (
	"cmp"
	"slices"

	"kiln/internal/model"
)

// members returns the servers that are, or will be, the set of the release:
// those whose template is the release's, at most as many as its policy wants,
// the most useful first. A scale, a policy-only release, a warm rollback and a
// blue-green deployment differ only in how many of them exist already.
//
// It depends on the state alone, so that the table, the switch and the journal
// mean the same servers.
func members(svc *model.Service, release *model.Release) []*model.Server {
	if release == nil {
		return nil
	}
	return membersUpTo(svc, release, release.Policy.Servers)
}

// membersUpTo returns at most n of them.
func membersUpTo(svc *model.Service, release *model.Release, n int) []*model.Server {
	var set []*model.Server
	for _, srv := range serversOf(svc) {
		if srv.TemplateHash == release.TemplateHash && rank(srv) >= 0 {
			set = append(set, srv)
		}
	}
	slices.SortStableFunc(set, func(a, b *model.Server) int { return cmp.Compare(rank(a), rank(b)) })
	return set[:min(len(set), n)]
}

// rank orders servers by how near they are to traffic; below zero: not at all.
func rank(srv *model.Server) int {
	switch {
	case srv.Phase == model.PhaseServing && srv.Health == model.Unhealthy:
		return -1
	case srv.Phase == model.PhaseServing:
		return 0
	case srv.Phase == model.PhaseReady:
		return 1
	case srv.Phase == model.PhaseWarm:
		return 2
	case srv.Phase == model.PhaseRunning:
		return 3
	case srv.Phase == model.PhaseCreated:
		return 4
	default:
		return -1
	}
}

// missing returns how many servers have to be made for the release's set.
func missing(svc *model.Service, release *model.Release) int {
	return max(0, release.Policy.Servers-len(members(svc, release)))
}

// madeBy reports whether the server was made by the running deployment and is
// not in service yet: what becomes of it decides about the deployment.
func (v *service) madeBy(d *model.Deployment, srv *model.Server) bool {
	if d == nil || srv.Release != d.To {
		return false
	}
	switch srv.Phase {
	case model.PhaseCreated, model.PhaseRunning, model.PhaseReady:
		return true
	default:
		return false
	}
}

// Budget returns how many ready servers of the service may be taken away now
// by choice: never so many that fewer than count − max_unavailable stay. Every
// voluntary disruption asks here. What is below zero is missing already.
//
// Servers of a release that takes another one's place bit by bit count as
// well, and so do those that such a deployment has left; those of a canary do
// not: they may have to go at any time.
func Budget(svc *model.Service) int {
	release := svc.Release(svc.InService)
	if release == nil {
		return 0
	}
	canary := svc.Deployment != nil && svc.Deployment.Strategy == model.Canary
	ready := 0
	for _, srv := range svc.Servers {
		if x := svc.Experiment; x != nil && x.Server == srv.ID {
			continue // what is disturbed counts as away, whatever it seems to be
		}
		if srv.Phase == model.PhaseServing && srv.Health != model.Unhealthy && (!canary || srv.TemplateHash == release.TemplateHash) {
			ready++
		}
	}
	return ready - Floor(svc)
}

// Floor returns how many ready servers kiln leaves the service at least, by
// what it does of its own: count − max_unavailable of the release in service.
// While a rolling deployment runs, what the new release says holds as well.
func Floor(svc *model.Service) int {
	release := svc.Release(svc.InService)
	if release == nil {
		return 0
	}
	count := release.Policy.Servers
	floor := count - release.Policy.Deploy.MaxUnavailable.Down(count)
	if d := svc.Deployment; d != nil && d.Strategy == model.Rolling && staged(svc) {
		to := svc.Release(d.To).Policy
		floor = min(floor, count-to.Deploy.MaxUnavailable.Down(to.Servers))
	}
	return max(0, floor)
}
