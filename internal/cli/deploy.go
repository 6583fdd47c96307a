package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

func (a *app) deployCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "deploy [SERVICE…]",
		Short: "Build the images and bring them into service",
		Long: `Builds the image of each service, starts its servers, proves every one of them, moves
the traffic in one step and drains the old servers. Services are taken one after
the other, in the order of the declaration; one that fails does not stop the next.

Standard output gets one JSON line for each service.`,
		Example: "  kiln deploy\n  kiln deploy shop -m \"new prices\"\n  kiln deploy shop --detach",
		RunE: a.run(func(ctx context.Context, names []string) error {
			services, err := a.chosen(names)
			if err != nil {
				return err
			}
			worst := exitDone
			for _, s := range services {
				worst = max(worst, a.deploy(ctx, s))
				if ctx.Err() != nil {
					break
				}
			}
			return exit(worst)
		}),
	}
}

// deploy brings one service's declaration into service and returns the exit
// code; everything has been said.
func (a *app) deploy(ctx context.Context, s *spec.Service) int {
	req, err := a.request(ctx, s)
	if err != nil {
		return a.refused(s.Name, err)
	}
	return a.follow(ctx, s.Name, func() (*api.DeployAccepted, error) {
		return a.submit(ctx, s.Name, func() (*api.DeployAccepted, error) { return a.api().Deploy(ctx, s.Name, *req) })
	})
}

// request makes the image of a service and with it what the daemon is asked.
func (a *app) request(ctx context.Context, s *spec.Service) (*api.DeployRequest, error) {
	made, err := a.image(ctx, s)
	if err != nil {
		return nil, err
	}
	req := &api.DeployRequest{
		Template: s.Template, Policy: s.Policy,
		Author: a.author(ctx), Reason: a.opts.message, Provenance: made.provenance,
	}
	req.Template.Image = made.digest
	return req, nil
}

func (a *app) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rollback SERVICE [RELEASE]",
		Short: "Go back to an earlier release",
		Long: `Takes the template and health of an earlier release again, as a new release. Without a
number, that is the newest one that served well and has another template. While its
servers are still warm, going back is one switch.

Standard output gets one JSON line.`,
		Example: "  kiln rollback shop\n  kiln rollback shop 3 -m \"prices are wrong\"",
		Args:    cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			req := api.RollbackRequest{Author: a.author(ctx), Reason: a.opts.message}
			if len(args) == 2 {
				n, err := strconv.Atoi(args[1])
				if err != nil || n < 1 {
					return usagef("%q is not the number of a release", args[1])
				}
				req.To = n
			}
			return exit(a.follow(ctx, args[0], func() (*api.DeployAccepted, error) {
				return a.submit(ctx, args[0], func() (*api.DeployAccepted, error) { return a.api().Rollback(ctx, args[0], req) })
			}))
		}),
	}
}

func (a *app) scaleCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "scale SERVICE SERVERS",
		Short:   "Change how many servers run, until the next deploy says otherwise",
		Example: "  kiln scale shop 5",
		Args:    cobra.ExactArgs(2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 1 {
				return usagef("cannot scale to %q: a service has at least 1 server; kiln destroy %s ends it", args[1], args[0])
			}
			req := api.ScaleRequest{Servers: n, Author: a.author(ctx), Reason: a.opts.message}
			return exit(a.follow(ctx, args[0], func() (*api.DeployAccepted, error) {
				return a.submit(ctx, args[0], func() (*api.DeployAccepted, error) { return a.api().Scale(ctx, args[0], req) })
			}))
		}),
	}
}

func (a *app) abortCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "abort SERVICE",
		Short:   "End the deployment that is under way; what served goes on serving",
		Example: "  kiln abort shop",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			acc, err := a.api().Abort(ctx, args[0], api.AbortRequest{Author: a.author(ctx)})
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(acc)
			}
			a.printf("aborting %s of %s\n", acc.Deployment, acc.Service)
			return nil
		}),
	}
}

// submit sends a command that makes a release. Where the daemon goes away
// before it has answered, it is found out from the history whether the command
// was accepted; only one that was not is sent again.
func (a *app) submit(ctx context.Context, service string, send func() (*api.DeployAccepted, error)) (*api.DeployAccepted, error) {
	before, err := a.newest(ctx, service)
	if err != nil {
		return nil, err
	}
	acc, err := send()
	if !api.Lost(err) && !api.Unreachable(err) {
		return acc, err
	}
	if err := a.api().Await(ctx); err != nil {
		return nil, err
	}
	after, err := a.newest(ctx, service)
	if err != nil {
		return nil, err
	}
	if after.Number == before.Number {
		return send()
	}
	acc = &api.DeployAccepted{Service: service, Release: after.Number, Image: after.Image, Verdict: after.Verdict}
	status, err := a.api().Status(ctx, service)
	if err != nil {
		return nil, err
	}
	for _, s := range status.Services {
		if s.Deployment != nil && s.Deployment.To == after.Number {
			acc.Deployment = &s.Deployment.ID
			acc.Verdict = ""
		}
	}
	return acc, nil
}

// newest returns the newest release of a service; number 0: it has none.
func (a *app) newest(ctx context.Context, service string) (api.ReleaseEntry, error) {
	var out *api.Releases
	err := a.steady(ctx, func() (err error) {
		out, err = a.api().Releases(ctx, service)
		return err
	})
	if model.CodeOf(err) == model.NotFound {
		return api.ReleaseEntry{}, nil
	}
	if err != nil || len(out.Releases) == 0 {
		return api.ReleaseEntry{}, err
	}
	return out.Releases[0], nil
}
