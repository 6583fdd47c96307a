package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// melt notes that many servers failed at once, and that all is well again.
// While a meltdown stands, replacements are made one at a time, and more only
// as they prove themselves: what ended so many would end their replacements
// too. A deployment is not held back by it, and may heal it.
func (v *service) melt() {
	release := v.inService()
	if release == nil || v.svc.Destroying {
		return
	}
	if v.svc.Meltdown != nil {
		v.recover(release)
		return
	}
	count := release.Policy.Servers
	lost, window := 0, v.now.Elapsed-model.Instant(meltWindow)
	for _, at := range v.svc.Losses {
		if at > window {
			lost++
		}
	}
	if lost >= max(2, (count*20+99)/100) {
		v.emit(model.ServiceMelting{
			Service: v.svc.Name,
			Reason: fmt.Sprintf("%d of %d servers ended or became unhealthy within %s: replacements are made one at a time until they prove themselves",
				lost, count, model.Duration(meltWindow)),
		})
	}
}

func (v *service) recover(release *model.Release) {
	fit := 0
	for _, srv := range v.svc.Servers {
		if srv.Phase == model.PhaseServing && srv.Health != model.Unhealthy {
			fit++
		}
	}
	last := v.svc.Meltdown.Since
	if n := len(v.svc.Losses); n > 0 {
		last = max(last, v.svc.Losses[n-1])
	}
	if fit >= release.Policy.Servers && v.due(last.Add(meltWindow)) {
		v.emit(model.ServiceRecovered{Service: v.svc.Name})
	}
}

// atOnce returns how many replacements may be on their way at the same time.
func (v *service) atOnce(strays int) int {
	most := v.inService().Policy.Servers + 1
	if strays > 0 { // they serve until their successors do: not all twice
		release := v.inService().Policy
		most = max(1, release.Deploy.MaxSurge.Up(release.Servers))
	}
	if v.svc.Meltdown != nil {
		most = min(most, max(1, v.svc.Meltdown.Proven))
	}
	return most
}
