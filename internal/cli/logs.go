package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	var tail int
	var since string
	cmd := &cobra.Command{
		Use:     "logs SERVER|SERVICE",
		Short:   "What servers write",
		Example: "  kiln logs shop --tail 50\n  kiln logs shop-ab2c3d -f\n  kiln logs shop --since 10m --json",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			q := api.LogQuery{Service: args[0], Follow: follow, Tail: tail}
			if tail < 0 {
				return usagef("--tail is a number of lines")
			}
			if since != "" {
				at, err := a.moment(since)
				if err != nil {
					return err
				}
				q.Since = at.UTC().Format(time.RFC3339Nano)
			}
			return a.logs(ctx, q)
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written from now on")
	cmd.Flags().IntVar(&tail, "tail", 0, "only the last so many lines")
	cmd.Flags().StringVar(&since, "since", "", "only what is newer: 10m, 2d, or 2026-01-02T15:04:05Z")
	return cmd
}

// moment reads a point in time, or how long ago it was.
func (a *app) moment(text string) (time.Time, error) {
	if d, err := model.ParseDuration(text); err == nil && d >= 0 {
		return a.Now().Add(-d.D()), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, usagef("%q is neither a time like 10m nor one like 2026-01-02T15:04:05Z", text)
}

// logs prints lines. A name that could be a server's is tried as one first.
func (a *app) logs(ctx context.Context, q api.LogQuery) error {
	service := q.Service
	if model.ValidServerID(service) {
		q.Server, q.Service = model.ServerID(service), ""
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	err := a.api().Logs(ctx, q, a.logLine)
	if q.Server != "" && model.CodeOf(err) == model.NotFound && model.ValidServiceName(service) {
		q.Server, q.Service = "", service
		if again := a.api().Logs(ctx, q, a.logLine); model.CodeOf(again) != model.NotFound {
			err = again
		}
	}
	return stopped(ctx, q.Follow, err)
}

func (a *app) logLine(l api.LogLine) error {
	if a.opts.json {
		return a.line(l)
	}
	_, err := fmt.Fprintf(a.Stdout, "%s %s %s\n", l.At.UTC().Format("2006-01-02T15:04:05.000Z"), l.Server, printable(l.Text))
	return err
}

// bounded ends a context after --timeout.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.opts.timeout > 0 {
		return context.WithTimeoutCause(ctx, a.opts.timeout, errTimeout)
	}
	return context.WithCancel(ctx)
}

// stopped takes the end of following that was asked for as no error.
func stopped(ctx context.Context, follow bool, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if follow || errors.Is(context.Cause(ctx), context.Canceled) {
		return nil
	}
	return &exitError{exitUnknown, errTimeout}
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var after uint64
	cmd := &cobra.Command{
		Use:     "events [SERVICE]",
		Short:   "What happened and why, from the journal",
		Example: "  kiln events shop\n  kiln events -f\n  kiln events --after 1200 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			q := api.EventQuery{After: after, Follow: follow}
			if len(args) == 1 {
				q.Service = args[0]
			}
			ctx, cancel := a.bounded(ctx)
			defer cancel()
			return stopped(ctx, follow, a.api().Events(ctx, q, a.eventLine))
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on")
	cmd.Flags().Uint64Var(&after, "after", 0, "only what comes after this number")
	return cmd
}

func (a *app) eventLine(e api.Event) error {
	if a.opts.json {
		return a.line(e)
	}
	who := ""
	if e.Actor != "" && e.Actor != "kiln" {
		who = " (" + printable(e.Actor) + ")"
	}
	hash := ""
	if e.Hash != "" {
		hash = " " + e.Hash[:min(12, len(e.Hash))]
	}
	_, err := fmt.Fprintf(a.Stdout, "%6d%s %s %-20s %s%s\n", e.Seq, hash, stamp(e.At), e.Kind, printable(e.Text), who)
	return err
}

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Who did what, and whether the journal is whole",
		Example: "  kiln audit list shop\n  kiln audit verify\n  kiln audit report shop --since 90d -o shop.html",
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var after uint64
	list := &cobra.Command{
		Use:     "list [SERVICE]",
		Short:   "Every event with its hash",
		Example: "  kiln audit list --after 100",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			q := api.EventQuery{After: after}
			if len(args) == 1 {
				q.Service = args[0]
			}
			return a.api().Audit(ctx, q, a.eventLine)
		}),
	}
	list.Flags().Uint64Var(&after, "after", 0, "only what comes after this number")
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Recompute the journal's chain and check its signed heads",
		Long: `Recomputes the journal's chain and checks its signed heads. Where no daemon answers, the
journal is read from the files in the data directory.`,
		Example: "  kiln audit verify",
		Args:    cobra.NoArgs,
		RunE:    a.run(func(ctx context.Context, _ []string) error { return a.verify(ctx) }),
	}
	cmd.AddCommand(list, verify, a.reportCommand())
	return cmd
}

func (a *app) verify(ctx context.Context) error {
	report, err := a.api().Verify(ctx)
	if model.CodeOf(err) == model.Unavailable {
		// A daemon that refuses a damaged journal cannot say what is wrong
		// with it: then it is read from its files.
		if found, offline := a.Roles.VerifyJournal(ctx, a.dataDir()); offline == nil {
			report, err = found, nil
		}
	}
	if err != nil {
		return err
	}
	code := exitDone
	if !report.Whole {
		code = exitFailed
	}
	if a.opts.json {
		if err := a.document(report); err != nil {
			return err
		}
		return exit(code)
	}
	if report.Whole {
		a.printf("the journal is whole: %d events, %d signed heads, head %s\n", report.Events, report.Signed, report.Head)
		return nil
	}
	a.printf("the journal is NOT whole: %d events, head %s\n", report.Events, report.Head)
	for _, p := range report.Problems {
		a.printf("  %s\n", p)
	}
	return exit(code)
}
