package reconcile

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/model"
)

func TestStages(t *testing.T) {
	step := func(weight int) model.CanaryStep {
		return model.CanaryStep{Weight: weight, Hold: model.Duration(15 * time.Second)}
	}
	held := func(n, m, weight int) model.Stage {
		return model.Stage{New: n, Old: m, Weight: weight, Hold: model.Duration(15 * time.Second)}
	}
	cases := map[string]struct {
		strategy    model.Strategy
		old, count  int
		surge, away string
		change      func(from, to *model.Release)
		want        []model.Stage
	}{
		"blue-green":             {strategy: model.BlueGreen, old: 4, count: 4, want: []model.Stage{{New: 4}}},
		"rolling":                {strategy: model.Rolling, old: 4, count: 4, surge: "25%", want: []model.Stage{{New: 1, Old: 3}, {New: 2, Old: 2}, {New: 3, Old: 1}, {New: 4}}},
		"rolling, one away":      {strategy: model.Rolling, old: 3, count: 3, surge: "0", away: "1", want: []model.Stage{{New: 1, Old: 2, Away: 1}, {New: 2, Old: 1, Away: 1}, {New: 3, Away: 1}}},
		"rolling, both":          {strategy: model.Rolling, old: 8, count: 8, surge: "2", away: "25%", want: []model.Stage{{New: 1, Old: 7}, {New: 5, Old: 3, Away: 2}, {New: 8, Away: 1}}},
		"rolling, more":          {strategy: model.Rolling, old: 2, count: 5, surge: "1", want: []model.Stage{{New: 1, Old: 1}, {New: 5}}},
		"rolling, fewer":         {strategy: model.Rolling, old: 5, count: 2, surge: "1", want: []model.Stage{{New: 1, Old: 4}, {New: 2}}},
		"rolling, one server":    {strategy: model.Rolling, old: 1, count: 1, surge: "0", away: "1", want: []model.Stage{{New: 1, Away: 1}}},
		"rolling, two hundred":   {strategy: model.Rolling, old: 200, count: 200, surge: "50%", want: []model.Stage{{New: 1, Old: 199}, {New: 101, Old: 99}, {New: 200}}},
		"rolling, to none":       {strategy: model.Rolling, old: 3, count: 0, surge: "1", want: []model.Stage{{New: 0}}},
		"rolling, from none":     {strategy: model.Rolling, old: 0, count: 3, surge: "1", want: []model.Stage{{New: 3}}},
		"canary":                 {strategy: model.Canary, old: 10, count: 10, want: []model.Stage{held(1, 10, 10), held(5, 10, 50), {New: 10}}},
		"canary, another count":  {strategy: model.Canary, old: 2, count: 3, want: []model.Stage{held(1, 2, 10), held(2, 2, 50), {New: 3}}},
		"canary, same template":  {strategy: model.Canary, old: 3, count: 3, change: func(from, to *model.Release) { to.TemplateHash = from.TemplateHash }, want: []model.Stage{{New: 3}}},
		"canary, other protocol": {strategy: model.Canary, old: 3, count: 3, change: func(_, to *model.Release) { to.Template.Protocol = model.H2C }, want: []model.Stage{{New: 3}}},
		"rolling, loses its port": {strategy: model.Rolling, old: 3, count: 3, surge: "1", change: func(_, to *model.Release) {
			to.Template.Port, to.Policy.Routes = 0, nil
			to.Policy.Deploy.Overlap = true
		}, want: []model.Stage{{New: 3}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			route := []model.Route{{Listen: ":80"}}
			from := &model.Release{Number: 1, TemplateHash: "a", Template: model.Template{Port: 80, Protocol: model.HTTP}, Policy: model.Policy{Servers: c.old, Routes: route}}
			to := &model.Release{Number: 2, TemplateHash: "b", Template: from.Template, Policy: model.Policy{Servers: c.count, Routes: route}}
			to.Policy.Deploy.MaxSurge, _ = model.ParseAmount(c.surge)
			to.Policy.Deploy.MaxUnavailable, _ = model.ParseAmount(c.away)
			to.Policy.Deploy.Canary.Steps = []model.CanaryStep{step(10), step(50)}
			if c.change != nil {
				c.change(from, to)
			}
			svc := &model.Service{Releases: []*model.Release{from, to}, InService: 1}
			if diff := cmp.Diff(c.want, stagesOf(svc, to, c.strategy)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if first := stagesOf(nil, to, c.strategy); len(first) != 1 {
				t.Errorf("the first deployment has the stages %v", first)
			}
			svc.InService = 0
			if first := stagesOf(svc, to, c.strategy); len(first) != 1 {
				t.Errorf("with nothing in service it has the stages %v", first)
			}
		})
	}
}
