package sim

import (
	"context"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// prober finds out the health of servers as the real one does, one answer for
// all probes since it was asked last.
type prober struct {
	w       *world
	d       *daemon
	targets map[model.ServerID]*probe
}

type probe struct {
	target reconcile.ProbeTarget
	status model.HealthStatus
	streak int // passes in a row; below zero: fails
	last   time.Duration
	keep   bool
}

// Sync implements control.Prober.
func (p *prober) Sync(targets []reconcile.ProbeTarget) {
	for _, t := range p.targets {
		t.keep = false
	}
	for _, t := range targets {
		if known := p.targets[t.Server]; known != nil {
			known.target, known.keep = t, true
			continue
		}
		p.targets[t.Server] = &probe{
			target: t, status: model.HealthUnknown, last: p.w.now - t.Health.Interval.D(), keep: true,
		}
	}
	for id, t := range p.targets {
		if !t.keep {
			delete(p.targets, id)
		}
	}
}

// Health implements control.Prober.
func (p *prober) Health() map[model.ServerID]model.HealthObserved {
	found := make(map[model.ServerID]model.HealthObserved, len(p.targets))
	for id, t := range p.targets {
		p.ask(id, t)
		found[id] = model.HealthObserved{Status: t.status, At: p.d.elapsed(t.last), Detail: "asked " + t.target.Address}
	}
	return found
}

func (p *prober) ask(id model.ServerID, t *probe) {
	interval := t.target.Health.Interval.D()
	n := int((p.w.now - t.last) / interval)
	if n == 0 {
		return
	}
	t.last += time.Duration(n) * interval
	if p.w.fit(id) {
		t.streak = max(t.streak, 0) + n
	} else {
		t.streak = min(t.streak, 0) - n
	}
	inGrace := t.status == model.HealthUnknown && p.d.elapsed(p.w.now) < t.target.Since.Add(t.target.Health.Grace.D())
	switch {
	case t.streak >= t.target.Health.Passes:
		t.status = model.Healthy
		p.w.fact(id).healthy = true
	case -t.streak >= t.target.Health.Fails && !inGrace:
		t.status = model.Unhealthy
		p.w.fact(id).unhealthy = p.w.now
	}
}

// validator asks the validations of a server.
type validator struct{ w *world }

// Validate implements control.Validator.
func (v validator) Validate(ctx context.Context, ref engine.Ref, _ model.Template, _ string, validations []model.Validation) error {
	for _, c := range validations {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout.D())
		err := v.one(ctx, ref.ID, c)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (v validator) one(ctx context.Context, id model.ServerID, c model.Validation) error {
	answers := v.w.between("validation", time.Millisecond, 4*time.Second)
	fault := v.w.meet("validate")
	if fault == "validation hangs" {
		answers = hang
	}
	if err := v.w.wait(ctx, answers); err != nil {
		return model.Errorf(model.Precondition, "validation %s: no answer within %s", c.Name, c.Timeout)
	}
	t, _ := v.w.machine.Template(id)
	switch {
	case fault == "validation fails":
		return model.Errorf(model.Precondition, "validation %s: status 500", c.Name)
	case fault == "validation unavailable":
		return model.Errorf(model.Unavailable, "validation %s: cannot be asked now", c.Name)
	case !v.w.runs(id):
		return model.Errorf(model.Precondition, "validation %s: connection refused", c.Name)
	case behaviourOf(t.Image).invalid && c.Name != "health":
		return model.Errorf(model.Precondition, "validation %s: the body does not contain %q", c.Name, c.Contains)
	}
	v.w.fact(id).passed[c.Name] = true
	if c.Name == "health" {
		v.w.fact(id).healthy = true
	}
	return nil
}

var validationFaults = []string{"validation hangs", "validation fails", "validation unavailable"}

// recorder keeps death records.
type recorder struct{ w *world }

var recorderFaults = []string{"record fails", "record hangs", "record lies"}

// Write implements control.Recorder.
func (r recorder) Write(ctx context.Context, record model.DeathRecord, alive, dead *engine.Evidence) (model.DeathRecord, error) {
	fault := r.w.meet("record")
	d := r.w.between("record", time.Millisecond, 300*time.Millisecond)
	if fault == "record hangs" {
		d = hang
	}
	if err := r.w.wait(ctx, d); err != nil {
		return record, err
	}
	if fault == "record fails" {
		return record, model.Errorf(model.Unavailable, "cannot write the death record: no space left on device")
	}
	for _, e := range []*engine.Evidence{alive, dead} {
		if e != nil {
			record.Missing = append(record.Missing, e.Missing...)
		}
	}
	record.Evidence = "sha256:evidence"
	r.w.fact(record.Server).recorded = true
	if fault == "record lies" {
		return record, model.Errorf(model.Internal, "cannot tell whether the death record was written")
	}
	return record, nil
}
