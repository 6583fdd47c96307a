package telemetry

import (
	"maps"
	"slices"
	"strings"

	"kiln/internal/model"
)

// ended counts what has ended since the daemon started. The state keeps only the
// newest of such things, so that counting these would not grow for ever.
type ended struct {
	seen   map[string]string            // service and list → key of the last that was counted
	counts map[string]map[string]uint64 // metric → service and labels → number
}

const sep = "\x00"

// follow counts what is new in the service's lists.
func (e *ended) follow(svc *model.Service) {
	if e.seen == nil {
		e.seen = map[string]string{}
		e.counts = map[string]map[string]uint64{}
	}
	deployments := make([]event, len(svc.Deployments))
	for i, d := range svc.Deployments {
		deployments[i] = event{string(d.ID), string(d.Verdict)}
	}
	e.count("kiln_deployments_total", svc.Name, deployments)
	deaths := make([]event, len(svc.Dead))
	for i, d := range svc.Dead {
		deaths[i] = event{string(d.Server), ""}
	}
	e.count("kiln_server_deaths_total", svc.Name, deaths)
	experiments := make([]event, len(svc.Experiments))
	for i, x := range svc.Experiments {
		experiments[i] = event{string(x.ID), string(x.Kind) + sep + string(x.Outcome)}
	}
	e.count("kiln_experiments_total", svc.Name, experiments)
}

// event is something that has ended.
type event struct{ key, class string }

func (e *ended) count(metric, service string, list []event) {
	at := metric + sep + service
	last, followed := e.seen[at]
	first := 0
	if followed && last != "" {
		first = 1 + slices.IndexFunc(list, func(x event) bool { return x.key == last })
	}
	e.seen[at] = ""
	if len(list) > 0 {
		e.seen[at] = list[len(list)-1].key
	}
	if !followed { // what had ended before the daemon started
		return
	}
	if e.counts[metric] == nil {
		e.counts[metric] = map[string]uint64{}
	}
	for _, x := range list[first:] {
		e.counts[metric][service+sep+x.class]++
	}
}

// samples shows the counts.
func (e *ended) samples(fs *families) {
	names := map[string][]string{
		"kiln_deployments_total":   {"service", "verdict"},
		"kiln_server_deaths_total": {"service"},
		"kiln_experiments_total":   {"service", "kind", "outcome"},
	}
	for metric, counts := range e.counts {
		for _, key := range slices.Sorted(maps.Keys(counts)) {
			values := strings.Split(key, sep)
			var pairs []string
			for i, name := range names[metric] {
				pairs = append(pairs, name, values[i])
			}
			fs.add(metric, "", float64(counts[key]), pairs...)
		}
	}
}
