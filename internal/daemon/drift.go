package daemon

import (
	"kiln/internal/drift"
	"kiln/internal/model"
)

// newDrift returns what compares servers with their templates. It watches those
// of the state, which is there when it runs.
func (d *daemon) newDrift() *drift.Watcher {
	return drift.New(drift.Config{
		Inspector: d.engine, Sentinel: d.engine, Targets: d.driftTargets,
		Now: func() model.Instant { return d.clock.Now().Elapsed }, Log: d.cfg.Log,
	})
}

// driftTargets are the servers that run, by the policies that they serve under.
// One that is disturbed on purpose is left alone until that is over.
func (d *daemon) driftTargets() []drift.Target {
	var targets []drift.Target
	d.control.View(func(s *model.State, _ *model.Snapshot) {
		for _, svc := range s.Services {
			for id, srv := range svc.Servers {
				if !srv.Phase.Alive() {
					continue
				}
				release := svc.Release(svc.InService)
				if release == nil || release.Template.Hash() != srv.TemplateHash {
					release = svc.Release(srv.Release)
				}
				if release == nil {
					continue
				}
				targets = append(targets, drift.Target{
					Server: id, Image: release.Template.Image, Interval: release.Policy.Drift.WithDefaults().Interval.D(),
					Muted: svc.Experiment != nil && svc.Experiment.Server == id,
				})
			}
		}
	})
	return targets
}
