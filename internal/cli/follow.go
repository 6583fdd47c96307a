package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
)

// errTimeout ends the watching after --timeout.
var errTimeout = errors.New("the time to watch is up")

// follow starts a deployment, watches it to its end and prints its result as
// one JSON line. It returns the exit code; everything has been said.
func (a *app) follow(ctx context.Context, service string, start func() (*api.DeployAccepted, error)) int {
	acc, err := start()
	if err != nil {
		return a.refused(service, err)
	}
	result := api.Result{Deployment: acc.Deployment, Service: service, Release: acc.Release, Image: acc.Image, From: acc.From, Verdict: acc.Verdict, Reason: acc.Message}
	switch {
	case acc.Deployment == nil:
		if result.Reason == "" && acc.Verdict == model.Unchanged {
			result.Reason = "nothing to change: release " + fmt.Sprint(acc.Release) + " is in service"
		}
		a.progressf("%s: %s", service, result.Reason)
		return a.conclude(result)
	case a.detached() && acc.Queued:
		result.Reason = "queued; not watched"
		a.progressf("%s: %s waits for the deployment that runs; kiln status %s tells how it stands", service, *acc.Deployment, service)
		return a.last(result, exitDone)
	case a.detached():
		result.Reason = "accepted; not watched"
		a.progressf("%s: %s is under way; kiln status %s tells how it stands", service, *acc.Deployment, service)
		return a.last(result, exitDone)
	}
	return a.conclude(a.watch(ctx, *acc.Deployment, result))
}

// watch follows a deployment and returns its result. Where the watching ends
// before the verdict, the verdict is unknown and the reason says why.
func (a *app) watch(ctx context.Context, id model.DeploymentID, result api.Result) api.Result {
	if a.opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.opts.timeout, errTimeout)
		defer cancel()
	}
	began := a.Now()
	v := a.view(result.Service, id)
	fallen := false
	err := a.api().Watch(ctx, id, func(p api.Progress) error {
		v.show(p)
		if p.Failure != nil {
			v.keep(p.Failure)
		}
		if p.Result != nil {
			result, fallen = *p.Result, true
		}
		return nil
	})
	v.end()
	for _, f := range v.failures {
		a.failure(f)
	}
	if err == nil && fallen {
		return result
	}
	why := a.whyStopped(ctx, err)
	if fallen {
		a.progressf("%s: %s; the old servers are still being drained", result.Service, why)
		return result
	}
	result.Verdict, result.Reason = model.Unknown, why+"; "+string(id)+" goes on: kiln status "+result.Service
	result.TookMS = a.Now().Sub(began).Milliseconds()
	return result
}

// whyStopped says why the watching ended before what was watched.
func (a *app) whyStopped(ctx context.Context, err error) string {
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return "stopped watching after " + a.opts.timeout.String()
	case ctx.Err() != nil:
		return "stopped watching"
	case err != nil:
		return err.Error()
	default:
		return "the daemon ended the watching without a verdict"
	}
}

// conclude prints a result as one JSON line and returns the exit code.
func (a *app) conclude(r api.Result) int {
	switch r.Verdict {
	case model.Succeeded:
		a.progressf("%s: release %d is in service (%s)", r.Service, r.Release, time.Duration(r.TookMS)*time.Millisecond)
	case model.Unchanged:
	default:
		// "aborted by ann" says the verdict already.
		words := r.Reason
		if !strings.HasPrefix(words, string(r.Verdict)) {
			words = string(r.Verdict) + ": " + words
		}
		a.progressf("%s: %s", r.Service, words)
	}
	switch r.Verdict {
	case model.Succeeded, model.Unchanged:
		return a.last(r, exitDone)
	case model.Failed, model.Aborted:
		return a.last(r, exitFailed)
	default:
		return a.last(r, exitUnknown)
	}
}

// last prints the line that a command ends with, and returns its exit code.
func (a *app) last(r api.Result, code int) int {
	if err := a.line(r); err != nil {
		complain(a.Stderr, fmt.Errorf("cannot write the result: %w", err))
		return max(code, exitFailed)
	}
	return code
}

// refused says why there is no deployment, and prints that as a result too.
func (a *app) refused(service string, err error) int {
	code := exitCode(err)
	complain(a.Stderr, err)
	verdict := model.Failed
	switch {
	case code == exitUnknown:
		verdict = model.Unknown
	case errors.Is(err, errStopped):
		verdict = model.Aborted
	}
	return a.last(api.Result{Service: service, Verdict: verdict, Reason: err.Error()}, code)
}
