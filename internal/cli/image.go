package cli

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

// made is an image of a service.
type made struct {
	digest     model.Digest
	provenance model.Provenance
	result     api.ImageResult
	differs    *api.Discrepancies // from the image that it should be; nil: it is that, or need be none
}

// how says how an image is built.
type how struct {
	noCache bool         // every step runs again
	fresh   bool         // from nothing, in a place of its own
	same    model.Digest // the image that it should be; "": any
}

func (a *app) buildCommand() *cobra.Command {
	var noCache, verify bool
	cmd := &cobra.Command{
		Use:   "build [SERVICE…]",
		Short: "Build the images and bring nothing into service",
		Long: `Builds the image of each service, or those named. With --verify each is built twice from nothing, in
two places that have nothing in common, and the two are compared: where they are not the same, byte for byte,
it says which file of which layer differs and how, and ends with 1.`,
		Example: "  kiln build\n  kiln build shop -v\n  kiln build shop --no-cache\n  kiln build shop --verify",
		RunE: a.run(func(ctx context.Context, names []string) error {
			services, err := a.toBuild(names)
			if err != nil {
				return err
			}
			worst := exitDone
			for _, s := range services {
				if s.Build == nil && len(names) == 0 {
					continue
				}
				if verify {
					code, err := a.verifyBuild(ctx, s)
					if err != nil {
						complain(a.Stderr, err)
						code = exitCode(err)
					}
					worst = max(worst, code)
					continue
				}
				if err := a.sendLists(ctx, s); err != nil {
					complain(a.Stderr, err)
					worst = max(worst, exitCode(err))
					continue
				}
				m, err := a.make(ctx, s, how{noCache: noCache})
				if err != nil {
					complain(a.Stderr, err)
					worst = max(worst, exitCode(err))
					continue
				}
				checks, err := a.checkImage(ctx, s, m)
				if err != nil {
					complain(a.Stderr, err)
					worst = max(worst, exitCode(err))
					continue
				}
				if err := a.built(declaredName(s), m, checks); err != nil {
					return err
				}
				if checks != nil && !checks.Passed {
					worst = max(worst, exitFailed)
				}
			}
			return exit(worst)
		}),
	}
	cmd.Flags().BoolVar(&noCache, "no-cache", false, "run every step again")
	cmd.Flags().BoolVar(&verify, "verify", false, "build twice from nothing, and compare")
	a.lockedFlag(cmd)
	return cmd
}

// toBuild returns the services to be built: those of any environment, since an image
// is the same in each.
func (a *app) toBuild(names []string) ([]*spec.Service, error) {
	file, err := a.declaration()
	if err != nil {
		return nil, err
	}
	where := a.environment()
	if where == "" && len(file.Environments) > 0 {
		where = a.nearest(file)
	}
	if file, err = a.in(file, where); err != nil {
		return nil, err
	}
	return a.buildable(file, names)
}

// nearest returns the environment whose kiln is the one that is asked anyway, else
// the first.
func (a *app) nearest(file *spec.File) string {
	for _, e := range file.Environments {
		if e.Kiln == "" {
			return e.Name
		}
	}
	return file.Environments[0].Name
}

// declaredName is what an image is built for: in every environment it is the same.
func declaredName(s *spec.Service) string { return cmp.Or(s.Declared, s.Name) }

// built prints an image that was made.
func (a *app) built(service string, m *made, checks *api.ImageChecks) error {
	if a.opts.json {
		out := struct {
			Service string `json:"service"`
			api.ImageResult
			Provenance model.Provenance `json:"provenance"`
			Passed     *bool            `json:"passed,omitempty"`
			Checks     []api.ImageCheck `json:"checks,omitempty"`
		}{Service: service, ImageResult: m.result, Provenance: m.provenance}
		if checks != nil {
			out.Passed, out.Checks = &checks.Passed, checks.Checks
		}
		return a.line(out)
	}
	a.printf("%s  %s\n", service, m.digest)
	if checks != nil {
		a.showChecks(checks)
	}
	return nil
}

func (a *app) image(ctx context.Context, s *spec.Service) (*made, error) {
	return a.make(ctx, s, how{})
}

// errStopped is in what a build ends with that whoever asked for it has stopped.
var errStopped = errors.New("stopped the build")

// make builds a service's image, or finds the one it refers to.
func (a *app) make(ctx context.Context, s *spec.Service, h how) (*made, error) {
	if s.Build == nil {
		return a.refer(ctx, s.Ref)
	}
	var m *made
	err := a.steady(ctx, func() (err error) {
		m, err = a.build(ctx, s, h)
		return err
	})
	if errors.Is(err, context.Canceled) {
		err = model.Errorf(model.Unavailable, "%w of %s; nothing was deployed", errStopped, s.Name)
	}
	if model.CodeOf(err) == model.Denied { // the lock file and what is wanted do not agree
		return nil, &exitError{exitInvalid, err}
	}
	if err != nil && !api.Lost(err) && !api.Unreachable(err) {
		return nil, &exitError{exitFailed, err} // a build that fails has failed, whatever is wrong with it
	}
	return m, err
}

func (a *app) build(ctx context.Context, s *spec.Service, h how) (*made, error) {
	dir := a.contextDir(s.Build)
	req, err := a.buildRequest(ctx, s, h, dir)
	if err != nil {
		return nil, err
	}
	from, what := a.originOf(dir), seen{}
	if req.Origin = from.Image; h.same == "" {
		what = a.see(ctx, s, dir)
	}
	view := &buildView{app: a, service: s.Name, began: a.Now()}
	view.start()
	serve := func(ctx context.Context, conn net.Conn) error {
		return a.Roles.ServeContext(ctx, conn, dir, s.Build.Containerfile)
	}
	last, err := a.api().Build(ctx, req, serve, func(e api.BuildEvent) error {
		view.show(e)
		return nil
	})
	if err != nil {
		view.failed()
		return nil, err
	}
	view.done(last.Result)
	if h.same == "" {
		if last.WantsSource {
			a.keepSource(ctx, s, what, req, last)
		}
		a.goesOn(dir, from, last.Result.Image)
	}
	if err := a.lockAfter(s, req.Lock, last.Lock); err != nil {
		return nil, err
	}
	return &made{
		digest:     last.Result.Image,
		provenance: model.Provenance{Commit: req.Commit, Dirty: req.Dirty, Parents: last.Parents, Inputs: last.Inputs},
		result:     *last.Result,
		differs:    last.Differs,
	}, nil
}

// buildRequest is what is asked of a build, beside its files.
func (a *app) buildRequest(ctx context.Context, s *spec.Service, h how, dir string) (req api.BuildRequest, err error) {
	ancestry, dirty := commits(ctx, dir)
	hash := ""
	if len(ancestry) > 0 {
		hash = ancestry[0]
	}
	allow, err := a.allowed()
	if err != nil {
		return req, err
	}
	locked, err := a.lockFor(s)
	if err != nil {
		return req, err
	}
	args := buildArgs(ctx, s.Build, dir, dirty)
	req = api.BuildRequest{
		Allow: allow, Service: declaredName(s), Containerfile: s.Build.Containerfile, Target: s.Build.Target, Args: args,
		Author: a.author(ctx), Reason: a.opts.message, Commit: hash, Dirty: dirty, Ancestry: ancestry,
		NoCache: h.noCache, Fresh: h.fresh, Same: h.same,
		Lock: locked,
	}
	if s.Build.Network != spec.NetworkOpen {
		req.Network = string(s.Build.Network)
	}
	return req, nil
}

// refer finds an image that is not built: one that was imported or built here
// is taken as it is, any other is asked of its registry, so that a name that
// moved there is followed.
func (a *app) refer(ctx context.Context, ref string) (*made, error) {
	var local *api.Image
	err := a.steady(ctx, func() (err error) {
		local, err = a.api().Image(ctx, ref)
		return err
	})
	switch {
	case err == nil && local.RemovedAt.IsZero() && (local.Source == "import" || local.Source == "build" || strings.Contains(ref, "sha256:")):
		return &made{digest: local.Digest, provenance: local.Provenance, result: api.ImageResult{Image: local.Digest, Name: ref, Size: local.Size}}, nil
	case err != nil && model.CodeOf(err) != model.NotFound:
		return nil, err
	case err != nil && model.ValidDigest(ref):
		return nil, err
	case err == nil && strings.HasPrefix(ref, "sha256:"): // removed: the daemon says when, and how to get it again
		return &made{digest: local.Digest, provenance: local.Provenance, result: api.ImageResult{Image: local.Digest, Name: ref, Size: local.Size}}, nil
	}
	a.progressf("asking for %s", ref)
	began := a.Now()
	pulled, err := a.api().Pull(ctx, api.PullRequest{Ref: ref, Author: a.author(ctx), Reason: a.opts.message})
	if err != nil {
		if m, ok := errors.AsType[*model.Error](err); ok && m.Hint == "" && local == nil && !api.Lost(err) && !api.Unreachable(err) {
			return nil, m.WithHint("no image of that name is here either: kiln images lists what is, kiln images import brings more")
		}
		return nil, err
	}
	a.progressf("%s is %s (%s)", ref, pulled.Image, a.Now().Sub(began).Round(time.Millisecond))
	return &made{digest: pulled.Image, result: *pulled}, nil
}
