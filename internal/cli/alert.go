package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) alertCommand() *cobra.Command {
	list := func(ctx context.Context, _ []string) error { return a.listAlerts(ctx) }
	cmd := &cobra.Command{
		Use:   "alert",
		Short: "Who is told what happens, and whether they can be told",
		Long: `Receivers are webhooks and commands. They are declared in alerts.hcl in the data directory, or in
the file that the daemon was given with --alerts; docs/alerts.md shows how.`,
		Example: "  kiln alert ls\n  kiln alert test ops",
		Args:    knownCommand,
		RunE:    a.run(list),
	}
	cmd.AddCommand(
		&cobra.Command{Use: "ls", Short: "The receivers, and how they stand", Example: "  kiln alert ls --json", Args: cobra.NoArgs, RunE: a.run(list)},
		&cobra.Command{
			Use: "test [NAME]", Short: "Tell one receiver, or all, that this is a test",
			Example: "  kiln alert test\n  kiln alert test ops",
			Args:    cobra.MaximumNArgs(1),
			RunE:    a.run(a.testAlerts),
		},
	)
	return cmd
}

func (a *app) listAlerts(ctx context.Context) error {
	out, err := a.api().Alerts(ctx)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(out)
	}
	if out.Error != "" {
		a.printf("the file is not taken up: %s\n", printable(out.Error))
	}
	if len(out.Receivers) == 0 {
		a.printf("nobody is told: declare receivers in %s\n", out.File)
		return nil
	}
	a.table("", "RECEIVER\tKIND\tTARGET\tDELIVERED\tGIVEN UP\tEVENTS", func(w io.Writer) {
		for _, r := range out.Receivers {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.Name, r.Kind, printable(r.Target), r.Delivered, r.Failed, selection(r))
		}
	})
	for _, r := range out.Receivers {
		if r.Error != "" {
			a.printf("%s: cannot be told, %d times so far, %d events wait: %s\n", r.Name, r.Tries, r.Behind, printable(r.Error))
		}
	}
	return nil
}

// selection says what a receiver is told.
func selection(r api.AlertReceiver) string {
	text := strings.Join(r.Events, ", ")
	if len(r.Services) > 0 {
		text += " of " + strings.Join(r.Services, ", ")
	}
	return text
}

// testAlerts makes a test call. One that fails is a failure.
func (a *app) testAlerts(ctx context.Context, args []string) error {
	in := api.AlertTest{By: a.author(ctx)}
	if len(args) > 0 {
		in.Name = args[0]
	}
	out, err := a.api().TestAlerts(ctx, in)
	if err != nil {
		return err
	}
	failed := 0
	for _, r := range out.Receivers {
		if r.Error != "" {
			failed++
		}
	}
	if a.opts.json {
		if err := a.document(out); err != nil {
			return err
		}
	} else {
		for _, r := range out.Receivers {
			if r.Error != "" {
				a.printf("%s: %s\n", r.Name, printable(r.Error))
				continue
			}
			a.printf("%s: acknowledged after %d ms\n", r.Name, r.TookMS)
		}
	}
	if failed > 0 {
		return model.Errorf(model.Unavailable, "%d of %d receivers could not be told", failed, len(out.Receivers))
	}
	return nil
}
