package cli

import (
	"context"

	"github.com/spf13/cobra"

	"kiln/internal/reconcile"
	"kiln/internal/spec"
)

func (a *app) planCommand() *cobra.Command {
	var detailed bool
	cmd := &cobra.Command{
		Use:   "plan [SERVICE…]",
		Short: "What a deploy would do, server by server",
		Long: `Builds the images, since what runs is decided by their bytes, and says what a deploy would
do. Nothing that runs is touched.

With --detailed-exitcode: 0 no change, 5 changes.`,
		Example: "  kiln plan\n  kiln plan shop --detailed-exitcode",
		RunE: a.run(func(ctx context.Context, names []string) error {
			services, err := a.chosen(names)
			if err != nil {
				return err
			}
			return a.plan(ctx, services, detailed)
		}),
	}
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit with 5 when there are changes")
	return cmd
}

func (a *app) plan(ctx context.Context, services []*spec.Service, detailed bool) error {
	plans := []reconcile.Plan{}
	changes, worst := false, exitDone
	for _, s := range services {
		p, err := a.planOne(ctx, s)
		if err != nil {
			complain(a.Stderr, err)
			worst = max(worst, exitCode(err))
			continue
		}
		plans = append(plans, p)
		changes = changes || p.Changes
		if p.Refused != "" {
			worst = max(worst, exitFailed)
		}
		if !a.opts.json {
			a.printf("%s", p)
		}
	}
	if a.opts.json {
		if err := a.document(struct {
			Plans []reconcile.Plan `json:"plans"`
		}{plans}); err != nil {
			return err
		}
	}
	if worst == exitDone && detailed && changes {
		return exit(exitChanges)
	}
	return exit(worst)
}

func (a *app) planOne(ctx context.Context, s *spec.Service) (p reconcile.Plan, err error) {
	req, err := a.request(ctx, s)
	if err != nil {
		return p, err
	}
	err = a.steady(ctx, func() error { return a.api().Plan(ctx, s.Name, *req, &p) })
	return p, err
}
