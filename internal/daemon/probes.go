package daemon

import (
	"context"

	"kiln/internal/engine"
	"kiln/internal/engine/local"
	"kiln/internal/model"
	"kiln/internal/probe"
	"kiln/internal/reconcile"
)

// prober watches what reconcile wants watched.
type prober struct {
	*probe.Prober
	epoch uint64
}

// Sync implements control.Prober.
func (p prober) Sync(targets []reconcile.ProbeTarget) {
	out := make([]probe.Target, len(targets))
	for i, t := range targets {
		out[i] = probe.Target{
			Ref:     engine.Ref{Epoch: p.epoch, ID: t.Server},
			Address: t.Address, Port: t.Port, Protocol: t.Protocol, Health: t.Health, Proven: t.Proven,
		}
	}
	p.Prober.Sync(out)
}

// validator asks validations through the engine.
type validator struct{ engine *local.Engine }

// Validate implements control.Validator.
func (v validator) Validate(ctx context.Context, ref engine.Ref, t model.Template, address string, validations []model.Validation) error {
	target := probe.Target{Ref: ref, Address: address, Port: t.Port, Protocol: t.Protocol}
	return probe.Validate(ctx, v.engine, v.engine, target, validations)
}
