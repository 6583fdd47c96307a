package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

func (a *app) deployCommand() *cobra.Command {
	var image string
	var turn turn
	cmd := &cobra.Command{
		Use:   "deploy [SERVICE…]",
		Short: "Build the images and bring them into service",
		Long: `Builds the image of each service, starts its servers, proves every one of them, moves
the traffic as the strategy says and drains the old servers. Services are taken one
after the other, in the order of the declaration; one that fails does not stop the next.

With --image nothing is built: the one service that is named gets an image that is
here, by its digest or name; everything else is as declared.

Standard output gets one JSON line for each service.`,
		Example: "  kiln deploy\n  kiln deploy shop -m \"new prices\"\n  kiln deploy shop --detach\n  kiln deploy shop --queue" +
			"\n  kiln deploy shop --image sha256:0123…",
		RunE: a.run(func(ctx context.Context, names []string) error {
			mode, err := turn.mode()
			if err != nil {
				return err
			}
			services, err := a.toDeploy(names, image)
			if err != nil {
				return err
			}
			worst := exitDone
			for _, s := range services {
				worst = max(worst, a.deploy(ctx, s, image, mode))
				if ctx.Err() != nil {
					break
				}
			}
			return exit(worst)
		}),
	}
	turn.flags(cmd)
	cmd.Flags().StringVar(&image, "image", "", "an image that is here, by digest or name, instead of a build")
	a.lockedFlag(cmd)
	return cmd
}

// turn is what becomes of a command while a deployment of the service runs.
type turn struct{ queue, supersede bool }

func (t *turn) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&t.queue, "queue", false, "while another deployment runs: wait for it, then begin")
	cmd.Flags().BoolVar(&t.supersede, "supersede", false, "while another deployment runs: abort it if it can be, and begin when it has ended")
}

// mode returns what is asked for; one flag at most.
func (t *turn) mode() (api.Mode, error) {
	switch {
	case t.queue && t.supersede:
		return "", usagef("--queue waits for what runs, and --supersede ends it: take one of them out")
	case t.queue:
		return api.Queue, nil
	case t.supersede:
		return api.Supersede, nil
	default:
		return api.Refuse, nil
	}
}

// deploy brings one service's declaration into service and returns the exit
// code; everything has been said.
func (a *app) deploy(ctx context.Context, s *spec.Service, image string, mode api.Mode) int {
	var req *api.DeployRequest
	var err error
	if image == "" {
		req, err = a.request(ctx, s)
	} else {
		req, err = a.withImage(ctx, s, image)
	}
	if err != nil {
		return a.refused(s.Name, err)
	}
	req.Mode = mode
	return a.follow(ctx, s.Name, func() (*api.DeployAccepted, error) {
		return a.submit(ctx, s.Name, func() (*api.DeployAccepted, error) { return a.api().Deploy(ctx, s.Name, *req) })
	})
}

// request makes the image of a service and with it what the daemon is asked.
func (a *app) request(ctx context.Context, s *spec.Service) (*api.DeployRequest, error) {
	if err := a.sendLists(ctx, s); err != nil {
		return nil, err
	}
	values, err := a.values(ctx, s)
	if err != nil {
		return nil, err
	}
	made, err := a.image(ctx, s)
	if err != nil {
		return nil, err
	}
	return a.complete(ctx, s, made, values), nil
}

// complete is what the daemon is asked for a declared service with its image and
// the values that its template names.
func (a *app) complete(ctx context.Context, s *spec.Service, m *made, values api.Values) *api.DeployRequest {
	req := &api.DeployRequest{
		Template: s.Template, Policy: s.Policy, Values: values,
		Author: a.author(ctx), Reason: a.opts.message, Provenance: m.provenance,
		Environment: s.Environment, Declared: s.Declared,
	}
	req.Template.Image = m.digest
	return req
}

// toDeploy returns the services that are deployed: the chosen ones; with an
// image that is given, exactly one, whose build need not be possible.
func (a *app) toDeploy(names []string, image string) ([]*spec.Service, error) {
	if image == "" {
		return a.chosen(names)
	}
	if strings.HasPrefix(image, "sha256:") && !model.ValidDigest(image) {
		return nil, usagef("--image: %q is not a digest: that is sha256: and 64 hexadecimal digits, as kiln images --json shows it", image)
	}
	if !spec.ValidImage(image) {
		return nil, usagef("--image: %q is neither a digest nor the name of an image", image)
	}
	services, err := a.declared(names)
	if err != nil {
		return nil, err
	}
	if len(services) != 1 {
		return nil, usagef("--image is for one service; name it: kiln deploy %s --image %s", services[0].Name, image)
	}
	return services, nil
}

// withImage makes what the daemon is asked of an image that is here.
func (a *app) withImage(ctx context.Context, s *spec.Service, image string) (*api.DeployRequest, error) {
	if err := a.sendLists(ctx, s); err != nil {
		return nil, err
	}
	values, err := a.values(ctx, s)
	if err != nil {
		return nil, err
	}
	var known *api.Image
	err = a.steady(ctx, func() (err error) {
		known, err = a.api().Image(ctx, image)
		return err
	})
	if model.CodeOf(err) == model.NotFound {
		err = model.Errorf(model.Precondition, "cannot deploy %s: no image %s is here", s.Name, image).
			WithHint("kiln images lists what is here; kiln images import and kiln images pull bring more")
	}
	if err != nil {
		return nil, err
	}
	return a.complete(ctx, s, &made{digest: known.Digest, provenance: known.Provenance}, values), nil
}

func (a *app) rollbackCommand() *cobra.Command {
	var turn turn
	var despite bool
	cmd := &cobra.Command{
		Use:   "rollback SERVICE [RELEASE]",
		Short: "Go back to an earlier release",
		Long: `Takes the template and health of an earlier release again, as a new release. Without a
number, that is the newest one that served well and has another template. While its
servers are still warm, going back is one switch.

The image has to be what the service's policy asks for now. With --despite-policy it need
not be: that takes a reason (-m), and the release says so.

Standard output gets one JSON line.`,
		Example: "  kiln rollback shop\n  kiln rollback shop 3 -m \"prices are wrong\"\n  kiln rollback shop 3 --despite-policy -m \"the shop is down\"",
		Args:    cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			mode, err := turn.mode()
			if err != nil {
				return err
			}
			if despite && strings.TrimSpace(a.opts.message) == "" {
				return usagef("--despite-policy needs a reason: -m TEXT")
			}
			req := api.RollbackRequest{Author: a.author(ctx), Reason: a.opts.message, Mode: mode, Despite: despite}
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
	turn.flags(cmd)
	cmd.Flags().BoolVar(&despite, "despite-policy", false, "also to an image that is not what the policy asks for now")
	return cmd
}

func (a *app) scaleCommand() *cobra.Command {
	var turn turn
	cmd := &cobra.Command{
		Use:     "scale SERVICE SERVERS",
		Short:   "Change how many servers run, until the next deploy says otherwise",
		Example: "  kiln scale shop 5",
		Args:    cobra.ExactArgs(2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 0 {
				return usagef("cannot scale to %q: that is not a number of servers", args[1])
			}
			if n > model.MaxServers {
				return usagef("cannot scale to %d: a service has at most %d servers", n, model.MaxServers)
			}
			mode, err := turn.mode()
			if err != nil {
				return err
			}
			req := api.ScaleRequest{Servers: n, Author: a.author(ctx), Reason: a.opts.message, Mode: mode}
			return exit(a.follow(ctx, args[0], func() (*api.DeployAccepted, error) {
				return a.submit(ctx, args[0], func() (*api.DeployAccepted, error) { return a.api().Scale(ctx, args[0], req) })
			}))
		}),
	}
	turn.flags(cmd)
	return cmd
}

func (a *app) abortCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "abort SERVICE [DEPLOYMENT]",
		Short: "End the deployment that is under way; what served goes on serving",
		Long: `Without a deployment it ends the one that runs: what serves goes on serving, and a canary
gives everything back to the old release. One that waits in the queue is named.`,
		Example: "  kiln abort shop\n  kiln abort shop d-k3m7qa -m \"not needed any more\"",
		Args:    cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			req := api.AbortRequest{Author: a.author(ctx), Reason: a.opts.message}
			if len(args) == 2 {
				req.Deployment = model.DeploymentID(args[1])
			}
			acc, err := a.api().Abort(ctx, args[0], req)
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
			acc.Deployment, acc.Verdict = &s.Deployment.ID, ""
		}
		for _, d := range s.Queue {
			if d.To == after.Number {
				acc.Deployment, acc.Verdict, acc.Queued = &d.ID, "", true
			}
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
