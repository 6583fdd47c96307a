package enginemem

import (
	"context"
	"slices"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// The operations of engine.Disturber.
const (
	OpDisturb Op = "disturb"
	OpCalm    Op = "calm"
)

var _ engine.Disturber = (*Engine)(nil)

// disturbance is what is done to a server, until when.
type disturbance struct {
	kind  model.ChaosKind
	until time.Time
}

// Disturb implements engine.Disturber. What a disturbance that lasts does to a
// server is up to whoever asks Disturbed: programs know nothing of it.
func (e *Engine) Disturb(ctx context.Context, ref engine.Ref, d model.Disturbance) error {
	return e.call(ctx, OpDisturb, ref.ID, func() error {
		return e.mutate(ctx, ref, func(s *server) error {
			switch {
			case s == nil || s.observed(e.Clock()).State != model.Running:
				return model.Errorf(model.Precondition, "cannot disturb %s: it does not run", ref.ID)
			case !slices.Contains(model.ChaosKinds(), d.Kind):
				return model.Errorf(model.Invalid, "cannot disturb %s: there is no kind %q", ref.ID, d.Kind)
			case d.Kind == model.ChaosKill:
				s.exit = &model.Exit{Known: true, Code: 137, Signal: "SIGKILL", At: e.Clock()}
				e.world.hintLocked()
				return nil
			case d.Kind == model.ChaosTerminate:
				return e.stopLocked(ctx, s, "", d.Lasts.D())
			}
			s.disturbed = disturbance{kind: d.Kind, until: e.Clock().Add(d.Lasts.D())}
			return nil
		})
	})
}

// Calm implements engine.Disturber.
func (e *Engine) Calm(ctx context.Context, ref engine.Ref) error {
	return e.call(ctx, OpCalm, ref.ID, func() error {
		return e.mutate(ctx, ref, func(s *server) error {
			if s != nil {
				s.disturbed = disturbance{}
			}
			return nil
		})
	})
}

// Disturbed returns what disturbs the server at the time; "": nothing.
func (w *World) Disturbed(id model.ServerID, at time.Time) model.ChaosKind {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.serverLocked(id); s != nil && at.Before(s.disturbed.until) {
		return s.disturbed.kind
	}
	return ""
}
