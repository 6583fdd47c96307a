package cli

import (
	"context"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/spec"
)

// checkImageCommand judges an image by a service's policy.
func (a *app) checkImageCommand() *cobra.Command {
	var service string
	cmd := &cobra.Command{
		Use: "check IMAGE", Short: "Whether an image is what a service's policy asks for",
		Long: `Holds the image against the policy of the service's newest release: its form, its packages,
and its validations, for which a disposable server runs that is cut off from the network.
What it has passed before is not asked again. Ends with 1 where it does not pass.`,
		Example: "  kiln images check sha256:4f53\n  kiln images check sha256:4f53 --service shop --json",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			checks, err := a.api().ImageChecks(ctx, args[0], service)
			if err != nil {
				return err
			}
			if a.opts.json {
				err = a.document(checks)
			} else {
				a.printf("%s  %s\n", checks.Image, checks.Service)
				a.showChecks(checks)
			}
			if err == nil && !checks.Passed {
				err = exit(exitFailed)
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&service, "service", "", "by whose policy; the service that the image is of, where there is one only")
	return cmd
}

// checkImage judges the image of a declared service; nil: nothing is asked of it.
func (a *app) checkImage(ctx context.Context, s *spec.Service, m *made) (*api.ImageChecks, error) {
	if s.Policy.Image == nil {
		return nil, nil
	}
	req := api.CheckRequest{Template: s.Template, Policy: s.Policy, Author: a.author(ctx)}
	req.Template.Image = m.digest
	var checks *api.ImageChecks
	err := a.steady(ctx, func() (err error) {
		checks, err = a.api().Check(ctx, s.Name, req)
		return err
	})
	return checks, err
}

// showChecks prints what was asked of an image and what came of it.
func (a *app) showChecks(checks *api.ImageChecks) {
	if len(checks.Checks) == 0 {
		a.printf("  nothing is asked of it\n")
	}
	for _, c := range checks.Checks {
		if c.Passed || len(c.Findings) == 0 {
			a.printf("  %-6s %s: %s\n", verdictOf(c), c.Name, printable(c.Detail))
		}
		for _, f := range c.Findings {
			a.printf("  %-6s %s: %s\n", verdictOf(c), c.Name, printable(f.What))
			if f.Hint != "" {
				a.printf("         %s\n", printable(f.Hint))
			}
		}
		for _, line := range c.Log {
			a.printf("         | %s\n", printable(line))
		}
		if c.More > 0 {
			a.printf("  %-6s %s: and %d more\n", verdictOf(c), c.Name, c.More)
		}
		for _, note := range c.Notes {
			a.printf("         note: %s\n", printable(note))
		}
	}
}

func verdictOf(c api.ImageCheck) string {
	switch {
	case c.Pending:
		return "later"
	case c.Passed:
		return "ok"
	default:
		return "FAILED"
	}
}
