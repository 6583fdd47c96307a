package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/probe"
)

// Bounds of a trial.
const (
	trialStart  = time.Minute // until it runs
	trialRetry  = 200 * time.Millisecond
	trialEnd    = time.Minute // to remove it
	trialMemory = 1 << 30     // bytes, where the service has no bound of its own
	trialLog    = 20          // lines that are shown
)

// validations asks an image's validations of a disposable server, unless it has
// passed them before.
func (c *checks) validations(ctx context.Context, q api.CheckRequest, run bool) ([]api.ImageCheck, error) {
	p := q.Policy.Image
	if len(p.Validations) == 0 {
		return nil, nil
	}
	config, names := p.ValidationsHash(q.Template), []string{}
	for _, v := range p.Validations {
		names = append(names, suiteImage+"/"+v.Name)
	}
	known := func() ([]api.ImageCheck, bool) {
		return c.passedBefore(q.Template.Image, suiteImage, config, names)
	}
	if list, ok := known(); ok {
		return list, nil
	}
	if !run {
		var list []api.ImageCheck
		for _, v := range p.Validations {
			list = append(list, api.ImageCheck{Name: "image/" + v.Name, Pending: true, Detail: "not asked yet: before a deploy is accepted, of a disposable server that is cut off from the network"})
		}
		return list, nil
	}
	select {
	case c.trying <- struct{}{}:
		defer func() { <-c.trying }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if list, ok := known(); ok {
		return list, nil // somebody else has just asked
	}
	list, err := c.try(ctx, q.Template.Trial(), p.Validations)
	if err == nil {
		c.result(ctx, q.Author, q.Template.Image, suiteImage, config, list)
	}
	return list, err
}

// try makes the disposable server, asks it, and removes it whatever happens. If the
// daemon is killed meanwhile the next one's engine removes it.
func (c *checks) try(ctx context.Context, t model.Template, validations []model.Validation) ([]api.ImageCheck, error) {
	limit := trialStart
	for _, v := range validations {
		limit += v.Timeout.D() + time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if t.Resources.Memory == 0 {
		t.Resources.Memory = trialMemory
	}
	ref := engine.Ref{Epoch: c.d.epoch, ID: model.ServerID(t.Service + "-" + strings.ToLower(rand.Text()[:6]))}
	if err := c.d.engine.Prepare(ctx, t.Image); err != nil {
		return nil, err
	}
	if err := c.d.signer.Trusted(ctx, t.Image); err != nil { // as any other server of it
		return nil, err
	}
	defer c.end(ctx, ref)
	if err := c.d.engine.ProvisionTrial(ctx, ref, t); err != nil {
		if code := model.CodeOf(err); code != model.Invalid || ctx.Err() != nil {
			return nil, err
		}
		return failAll(validations, "no server can be made from it: "+err.Error(), model.HintOf(err)), nil // the image cannot run
	}
	var list []api.ImageCheck
	for _, v := range validations {
		check := api.ImageCheck{Name: "image/" + v.Name, Passed: true, Detail: "a disposable server has passed it"}
		if err := c.ask(ctx, ref, t, v); err != nil {
			refuse(&check, c.refusal(ctx, ref, err))
			check.Log = c.tail(ctx, ref)
		}
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return nil, context.Cause(ctx)
		}
		list = append(list, check)
	}
	return list, nil
}

// end removes a trial.
func (c *checks) end(ctx context.Context, ref engine.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialEnd)
	defer cancel()
	err := c.d.engine.Stop(ctx, ref, "SIGKILL", 0)
	if err == nil {
		err = c.d.engine.Destroy(ctx, ref)
	}
	if err != nil {
		c.d.cfg.Log.Warn("a disposable server cannot be removed; the next daemon does", "server", string(ref.ID), "error", err)
	}
}

func failAll(validations []model.Validation, what, hint string) []api.ImageCheck {
	var list []api.ImageCheck
	for _, v := range validations {
		check := api.ImageCheck{Name: "image/" + v.Name, Passed: true}
		refuse(&check, api.CheckFinding{What: what, Hint: hint})
		list = append(list, check)
	}
	return list
}

// ask asks one validation: a command once, what goes over the network until it
// passes or its time is up, for nothing says when the server is ready.
func (c *checks) ask(ctx context.Context, ref engine.Ref, t model.Template, v model.Validation) error {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout.D()+time.Second)
	defer cancel()
	began := time.Now()
	for {
		seen, err := c.d.engine.ObserveTrial(ctx, ref.ID)
		if err != nil {
			return err
		}
		if seen.State == model.Exited {
			return model.Errorf(model.Precondition, "its main process has ended: %s", seen.Exit)
		}
		err = probe.Validate(ctx, c.d.engine, c.d.engine, probe.Target{Ref: ref, Address: seen.Address, Port: t.Port, Protocol: t.Protocol}, []model.Validation{v})
		if err == nil || v.Kind == model.CheckExec || time.Since(began) >= v.Timeout.D() {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(trialRetry):
		}
	}
}

// refusal says what a trial has not passed, and how it stood.
func (c *checks) refusal(ctx context.Context, ref engine.Ref, err error) api.CheckFinding {
	f := api.CheckFinding{What: err.Error(), Hint: "it ran alone, cut off from the network: what needs other services or the world is a validation without on = \"image\""}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	seen, lost := c.d.engine.ObserveTrial(ctx, ref.ID)
	if lost == nil && seen.State == model.Exited && !strings.Contains(f.What, "has ended") {
		f.What += fmt.Sprintf("; its main process has ended: %s", seen.Exit)
	}
	return f
}

// tail returns the last lines that a trial wrote.
func (c *checks) tail(ctx context.Context, ref engine.Ref) (lines []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := c.d.engine.Logs(ctx, ref.ID, engine.LogOptions{Tail: trialLog}, func(l engine.LogLine) error {
		if r := []rune(l.Text); len(r) > trialLine {
			l.Text = string(r[:trialLine]) + "…"
		}
		lines = append(lines, l.Text)
		return nil
	})
	if err != nil {
		lines = append(lines, "(its log cannot be read: "+err.Error()+")")
	}
	return lines
}

// trialLine is how much of a line is shown, in characters.
const trialLine = 500
