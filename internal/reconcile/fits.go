package reconcile

import (
	"fmt"
	"strings"
	"time"

	"kiln/internal/model"
)

// Timer is a named part of a deployment's time.
type Timer struct {
	Name string         `json:"name"`
	Time model.Duration `json:"time"`
}

// timersOf lists how long each part of the deployment may take. A part that
// each of several stages has is listed once, for all of them.
func timersOf(svc *model.Service, to *model.Release, strategy model.Strategy) []Timer {
	var from *model.Release
	makes := to.Policy.Servers
	if svc != nil {
		from, makes = svc.Release(svc.InService), missing(svc, to)
	}
	var list []Timer
	if stopFirst(from, to) {
		list = append(list, Timer{"stop of the old servers", model.Duration(stopTimeOf(from))})
	}
	if savesVolumes(svc, from, to) {
		list = append(list, Timer{"snapshot of the volumes", model.Duration(snapshotTimeout)})
	}
	stages := stagesOf(svc, to, strategy)
	times := func(name string, each model.Duration) {
		if len(stages) > 1 {
			name = fmt.Sprintf("%s in %d stages", name, len(stages))
		}
		list = append(list, Timer{name, each * model.Duration(len(stages))})
	}
	if makes > 0 {
		times("provision", model.Duration(provisionTimeout))
		times("grace", to.Policy.Health.Grace)
	}
	if asked := makes > 0 || from == nil || from.ChecksHash != to.ChecksHash; asked && len(to.Policy.Validations) > 0 {
		sum := model.Duration(0)
		for _, v := range to.Policy.Validations {
			sum += v.Timeout
		}
		times("validations", sum)
	}
	times("switch", model.Duration(switchTimeout))
	hold := model.Duration(0)
	for _, stage := range stages {
		hold += stage.Hold
	}
	if hold > 0 {
		list = append(list, Timer{"hold", hold})
	}
	return list
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
func fits(svc *model.Service, to *model.Release, strategy model.Strategy) error {
	sum, words := sumOf(timersOf(svc, to, strategy))
	if deadline := to.Policy.Deploy.Deadline; deadline.D() < sum {
		return model.Errorf(model.Invalid, "cannot deploy %s: its deadline of %s is too short for %s = %s", to.Service, deadline, words, model.Duration(sum)).
			WithHint("deploy { deadline = %q } or more, or shorten the grace, the holds or the validations' timeouts", model.Duration(sum))
	}
	return nil
}

// needed returns the most that the deployment needs beside what runs, where a
// server of the release needs limit, and one of the release in service gives
// back what givesBack says; and how many new ones it makes.
func needed(svc *model.Service, to *model.Release, strategy model.Strategy, limit int64, givesBack func(*model.Release) int64) (need int64, makes int) {
	if svc == nil {
		return limit * int64(to.Policy.Servers), to.Policy.Servers
	}
	makes = missing(svc, to)
	here := to.Policy.Servers - makes
	from, old := svc.Release(svc.InService), 0
	if from != nil {
		old = from.Policy.Servers
	}
	before := old
	for _, stage := range stagesOf(svc, to, strategy) {
		more := limit * int64(max(0, stage.New-here))
		if gone := old - before + stage.Away; gone > 0 {
			more -= givesBack(from) * int64(gone)
		}
		need, before = max(need, more), stage.Old
	}
	return need, makes
}

// affordable refuses a deployment that needs more memory or more addresses than
// are free beside the servers that run.
func affordable(svc *model.Service, to *model.Release, strategy model.Strategy, capacity *model.Capacity) error {
	if capacity == nil {
		return nil
	}
	one := func(*model.Release) int64 { return 1 }
	available, addresses := capacity.MemoryFree, int64(capacity.Addresses)
	if svc != nil {
		if from := svc.Release(svc.InService); stopFirst(from, to) {
			available += memoryOf(from) * int64(from.Policy.Servers)
			addresses += int64(from.Policy.Servers)
		}
	}
	if need, makes := needed(svc, to, strategy, 1, one); need > addresses {
		return model.Errorf(model.Precondition, "cannot deploy %s: %d new servers need %d addresses beside the servers that run, and %d are free",
			to.Service, makes, need, addresses).
			WithHint("fewer servers, or a larger network: kiln daemon --server-net")
	}
	limit := memoryOf(to)
	if limit == 0 {
		return nil
	}
	if need, makes := needed(svc, to, strategy, limit, memoryOf); need > available {
		return model.Errorf(model.Precondition, "cannot deploy %s: %d new servers of %s need %s of memory beside the ones that run, and %s is free",
			to.Service, makes, bytesText(limit), bytesText(need), bytesText(available)).
			WithHint("fewer servers, a lower memory limit, strategy = %q, or more memory", model.Rolling)
	}
	return nil
}

// memoryOf is the most memory that a server of the release may use.
func memoryOf(r *model.Release) int64 { return r.Template.Resources.Memory }

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
