package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// stagesOf decides what a strategy comes to: the stages that take the service
// from what is in service to the release. The last one has no old servers. A
// deployment that changes no template, or that nothing stands beside, has one
// stage, whatever its strategy: there is nothing to go over from.
func stagesOf(svc *model.Service, to *model.Release, strategy model.Strategy) []model.Stage {
	n := to.Policy.Servers
	whole := []model.Stage{{New: n}}
	if svc == nil || svc.Pending != nil || len(straysOf(svc)) > 0 {
		return whole
	}
	from := svc.Release(svc.InService)
	if from == nil || from.TemplateHash == to.TemplateHash || stopFirst(from, to) || !compatible(from, to) {
		return whole
	}
	m := from.Policy.Servers
	switch {
	case n == 0 || m == 0:
		return whole
	case strategy == model.Rolling:
		return rollingStages(m, n, to.Policy.Deploy)
	case strategy == model.Canary:
		return canaryStages(m, n, to.Policy.Deploy.Canary)
	default:
		return whole
	}
}

// compatible reports whether servers of both releases can stand in one entry
// of the routing table.
func compatible(from, to *model.Release) bool {
	a, b := from.Template, to.Template
	return a.Protocol == b.Protocol && a.ProxyProtocol == b.ProxyProtocol &&
		listed(from) == listed(to) && routed(from) == routed(to)
}

// rollingStages go from m old servers to n new ones in batches, the first of
// one server. What the counts differ by comes with the last batch.
func rollingStages(m, n int, deploy model.Deploy) []model.Stage {
	surge, away := deploy.MaxSurge.Up(n), deploy.MaxUnavailable.Down(n)
	both := min(m, n)
	var stages []model.Stage
	for made, batch := 0, 1; made < both; batch = max(1, surge+away) {
		batch = min(batch, both-made)
		made += batch
		stages = append(stages, model.Stage{New: made, Old: m - made, Away: max(0, batch-surge)})
	}
	last := &stages[len(stages)-1]
	last.New, last.Old = n, 0
	return stages
}

// canaryStages give the new release a rising share of the requests, beside all
// old servers: the way back is one switch until the last stage.
func canaryStages(m, n int, canary model.CanaryPolicy) []model.Stage {
	var stages []model.Stage
	for _, step := range canary.Steps {
		stages = append(stages, model.Stage{
			New: min(n, max(1, (n*step.Weight+99)/100)), Old: m, Weight: step.Weight, Hold: step.Hold,
		})
	}
	return append(stages, model.Stage{New: n})
}

// stageable refuses a strategy that cannot be carried out as it is declared.
func stageable(req DeployRequest) error {
	d, n := req.Policy.Deploy, req.Policy.Servers
	beside := len(req.Policy.Routes) > 0 || d.Overlap
	switch d.Strategy {
	case model.BlueGreen:
		return nil
	case model.Rolling:
		if n > 0 && d.MaxSurge.Up(n) == 0 && d.MaxUnavailable.Down(n) == 0 {
			return model.Errorf(model.Invalid, "cannot deploy %s: max_surge %s and max_unavailable %s of %d servers leave no room to replace any", req.Service, d.MaxSurge, d.MaxUnavailable, n).
				WithHint("max_surge = 1, or max_unavailable = 1")
		}
	case model.Canary:
		if len(req.Policy.Routes) == 0 {
			return model.Errorf(model.Invalid, "cannot deploy %s: a canary shares requests between two releases, and it has no route", req.Service).
				WithHint("a route, or strategy = %q", model.BlueGreen)
		}
		return risingSteps(req.Service, d.Canary.Steps)
	default:
		return model.Errorf(model.Invalid, "cannot deploy %s: strategy %q is not known here", req.Service, d.Strategy).
			WithHint("strategy = %q, %q or %q", model.BlueGreen, model.Rolling, model.Canary)
	}
	if !beside {
		return model.Errorf(model.Invalid, "cannot deploy %s: strategy %q runs two releases at once, and without a route that has to be allowed", req.Service, d.Strategy).
			WithHint("deploy { overlap = true }, or strategy = %q", model.BlueGreen)
	}
	return nil
}

func risingSteps(service string, steps []model.CanaryStep) error {
	before := 0
	for _, step := range steps {
		if step.Weight <= before || step.Weight > 99 || step.Hold < 0 {
			return model.Errorf(model.Invalid, "cannot deploy %s: the weights of a canary's steps rise from 1 to 99 per cent, and %d%% follows %d%%", service, step.Weight, before).
				WithHint("step { weight = \"10%%\" … } before step { weight = \"50%%\" … }")
		}
		before = step.Weight
	}
	if len(steps) == 0 {
		return model.Errorf(model.Invalid, "cannot deploy %s: its canary has no steps", service).
			WithHint("canary { step { weight = \"10%%\" … } }")
	}
	return nil
}

// staged reports whether the running deployment replaces servers in stages, so
// that both releases may serve at once.
func staged(svc *model.Service) bool {
	d := svc.Deployment
	if d == nil || len(d.Stages) == 0 || d.Strategy == model.BlueGreen {
		return false
	}
	from, to := svc.Release(svc.InService), svc.Release(d.To)
	return from != nil && from.TemplateHash != to.TemplateHash && (len(d.Stages) > 1 || d.Stages[0].Away > 0)
}

// stageMembers returns the servers of the release that the running deployment
// wants in rotation at its present stage.
func stageMembers(svc *model.Service) []*model.Server {
	to := svc.Release(svc.Deployment.To)
	return membersUpTo(svc, to, svc.Deployment.StageNow(to.Policy.Servers).New)
}

// oldWanted returns how many servers of the release in service are kept up
// beside the running deployment.
func oldWanted(svc *model.Service) int {
	release := svc.Release(svc.InService)
	d, count := svc.Deployment, release.Policy.Servers
	if !staged(svc) || d.Phase == model.DeployPreparing {
		return count
	}
	if d.Held > 0 {
		count = d.Stages[d.Held-1].Old
	}
	if d.Phase == model.DeployHolding || d.Held == d.Stage+1 { // in force, or being made whole again
		return count
	}
	return max(0, count-d.StageNow(0).Away)
}

// straysOf returns the servers in service of another release than the one in
// service, which no deployment counts on: a rolling deployment has failed, and
// they serve until their places are taken.
func straysOf(svc *model.Service) []*model.Server {
	from := svc.Release(svc.InService)
	if from == nil {
		return nil
	}
	counted := map[string]bool{from.TemplateHash: true}
	if svc.Deployment != nil {
		counted[svc.Release(svc.Deployment.To).TemplateHash] = true
	}
	if svc.Pending != nil {
		counted[svc.Release(svc.Pending.Release).TemplateHash] = true
	}
	var strays []*model.Server
	for _, srv := range serversOf(svc) {
		if srv.Phase == model.PhaseServing && !counted[srv.TemplateHash] {
			strays = append(strays, srv)
		}
	}
	return strays
}

// stageWords says where in its stages the deployment stands; "" if it has one.
func stageWords(d *model.Deployment) string {
	if len(d.Stages) < 2 {
		return ""
	}
	words := fmt.Sprintf("stage %d of %d", d.Stage+1, len(d.Stages))
	if w := d.Stages[d.Stage].Weight; w > 0 {
		words += fmt.Sprintf(" (%d %% of the requests)", w)
	}
	return words
}
