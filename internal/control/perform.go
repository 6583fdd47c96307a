package control

import (
	"context"
	"errors"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// The longest that each action may take. What takes longer is unknown, and
// only an observation decides what became of it.
const (
	prepareTimeout   = 5 * time.Minute
	provisionTimeout = time.Minute
	publishTimeout   = 30 * time.Second
	inspectTimeout   = 10 * time.Second
	recordTimeout    = 30 * time.Second
	destroyTimeout   = time.Minute
	disturbTimeout   = 20 * time.Second
	snapshotTimeout  = time.Minute
	stopMargin       = 30 * time.Second // past the grace
)

// finish keeps the outcome for the next step and asks for one.
func (c *Control) finish(out reconcile.Outcome) {
	c.mu.Lock()
	delete(c.underWay, out.Key)
	c.outcomes = append(c.outcomes, out)
	c.holds.note(out, c.cfg.Clock.Now().Elapsed)
	c.mu.Unlock()
	c.Kick()
}

// perform makes the call that the action stands for.
func (c *Control) perform(ctx context.Context, a reconcile.Action) reconcile.Outcome {
	out := reconcile.Outcome{Key: a.Key, Verb: a.Verb, Server: a.Server, Image: a.Image}
	var err error
	switch ref := (engine.Ref{Epoch: c.cfg.Epoch, ID: a.Server}); a.Verb {
	case reconcile.Prepare:
		err = within(ctx, prepareTimeout, func(ctx context.Context) error { return c.prepare(ctx, a.Image) })
	case reconcile.Provision:
		err = within(ctx, provisionTimeout, func(ctx context.Context) error { return c.provision(ctx, ref, *a.Template) })
	case reconcile.Publish:
		err = within(ctx, publishTimeout, func(ctx context.Context) error { return c.cfg.Router.Apply(ctx, *a.Table) })
	case reconcile.Validate:
		err = c.cfg.Validator.Validate(ctx, ref, *a.Template, a.Address, a.Policy.Validations)
	case reconcile.Inspect:
		c.inspect(ctx, ref)
	case reconcile.Stop:
		err = c.stop(ctx, ref, a)
	case reconcile.Record:
		out.Record, err = c.record(ctx, ref, *a.Record)
	case reconcile.Destroy:
		err = within(ctx, destroyTimeout, func(ctx context.Context) error { return c.cfg.Engine.Destroy(ctx, ref) })
	case reconcile.Mend:
		err = c.mend(ctx)
	case reconcile.Snapshot:
		err = within(ctx, snapshotTimeout, func(ctx context.Context) error { return c.snapshotVolume(ctx, a) })
	case reconcile.Disturb, reconcile.Calm:
		err = within(ctx, disturbTimeout, func(ctx context.Context) error { return c.disturb(ctx, ref, a) })
	default:
		err = model.Errorf(model.Internal, "cannot perform %q: no such action", a.Verb)
	}
	out.Err = classed(err)
	if out.Err != nil {
		c.cfg.Log.Warn("action failed", "action", string(a.Key), "code", string(out.Err.Code), "error", out.Err.Message)
	}
	return out
}

// prepare makes an image ready to be started from: it is whole, and trusted.
func (c *Control) prepare(ctx context.Context, image model.Digest) error {
	if err := c.cfg.Engine.Prepare(ctx, image); err != nil {
		return err
	}
	return c.trusted(ctx, image)
}

// provision makes a server, whatever it is made for, of an image that is trusted now.
func (c *Control) provision(ctx context.Context, ref engine.Ref, t model.Template) error {
	if err := c.trusted(ctx, t.Image); err != nil {
		return err
	}
	return c.cfg.Engine.Provision(ctx, ref, t)
}

func (c *Control) trusted(ctx context.Context, image model.Digest) error {
	if c.cfg.Trust == nil {
		return nil
	}
	return c.cfg.Trust.Trusted(ctx, image)
}

// disturb disturbs a server, or undoes what does.
func (c *Control) disturb(ctx context.Context, ref engine.Ref, a reconcile.Action) error {
	disturber, ok := c.cfg.Engine.(engine.Disturber)
	switch {
	case !ok && a.Verb == reconcile.Calm:
		return nil
	case !ok:
		return model.Errorf(model.Invalid, "this engine disturbs no servers")
	case a.Verb == reconcile.Calm:
		return disturber.Calm(ctx, ref)
	default:
		return disturber.Disturb(ctx, ref, *a.Disturbance)
	}
}

// snapshotVolume makes a snapshot, then removes those that it makes obsolete.
func (c *Control) snapshotVolume(ctx context.Context, a reconcile.Action) error {
	volumes, ok := c.cfg.Engine.(engine.Volumes)
	if !ok {
		return model.Errorf(model.Precondition, "this engine makes no snapshots")
	}
	if err := volumes.SnapshotVolume(ctx, a.Service, a.Volume, a.SnapshotID); err != nil {
		return err
	}
	for _, id := range a.Obsolete {
		if err := volumes.RemoveVolume(ctx, a.Service, a.Volume, id); err != nil {
			c.cfg.Log.Warn("cannot remove an old snapshot", "service", a.Service, "volume", a.Volume, "snapshot", id, "error", err)
		}
	}
	return nil
}

func within(ctx context.Context, d time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return call(ctx)
}

// classed gives err a class. A context's end has none of its own: what was
// attempted may have happened. What ran out of room says what to do in its
// words, since reasons are kept without hints, and is decided on at once:
// waiting alone makes no room.
func classed(err error) *model.Error {
	if err == nil {
		return nil
	}
	if todo := model.Exhausted(err); todo != "" {
		return model.Errorf(model.Precondition, "%w: %s", err, todo)
	}
	if e, ok := errors.AsType[*model.Error](err); ok {
		return e
	}
	return model.Errorf(model.Internal, "%w", err)
}

// inspect collects what only a living server can tell. What cannot be had is
// said in the death record, so it never holds up the end.
func (c *Control) inspect(ctx context.Context, ref engine.Ref) {
	var found *engine.Evidence
	err := within(ctx, inspectTimeout, func(ctx context.Context) (err error) {
		found, err = c.cfg.Engine.Collect(ctx, ref)
		return err
	})
	if err != nil {
		found = &engine.Evidence{Missing: []string{"evidence from the living server: " + err.Error()}}
	}
	c.mu.Lock()
	c.alive[ref.ID] = found
	c.mu.Unlock()
}

func (c *Control) stop(ctx context.Context, ref engine.Ref, a reconcile.Action) error {
	grace := a.Policy.StopGrace.D()
	return within(ctx, grace+stopMargin, func(ctx context.Context) error {
		return c.cfg.Engine.Stop(ctx, ref, a.Policy.StopSignal, grace)
	})
}

// record writes the death record with the evidence from before and after the
// end.
func (c *Control) record(ctx context.Context, ref engine.Ref, r model.DeathRecord) (*model.DeathRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	c.mu.Lock()
	alive := c.alive[ref.ID]
	c.mu.Unlock()
	dead, err := c.cfg.Engine.Collect(ctx, ref)
	if err != nil {
		dead = nil
		r.Missing = append(r.Missing, "evidence from its remains: "+err.Error())
	}
	written, err := c.cfg.Recorder.Write(ctx, r, alive, dead)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	delete(c.alive, ref.ID)
	c.mu.Unlock()
	return &written, nil
}
