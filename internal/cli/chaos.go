package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) chaosCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Disturb servers on purpose, and see what comes of it",
		Long: `A service that declares chaos { … } is disturbed by itself, at random times within its
hours; these commands do so now, and tell what the experiments have shown. None begins while
a deployment runs, with the last healthy server, or while the service is not whole. Where the
disruption budget (deploy { max_unavailable }) lets no server be away, a spare one is made
before. One that lasts is undone at once when a deployment begins or another server of the
service suffers.`,
		Example: "  kiln chaos run shop --kind kill\n  kiln chaos report shop",
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.chaosRunCommand(), a.chaosStopCommand(), a.chaosReportCommand())
	return cmd
}

func (a *app) chaosRunCommand() *cobra.Command {
	var kind, server string
	var lasts time.Duration
	var kinds []string
	for _, k := range model.ChaosKinds() {
		kinds = append(kinds, string(k))
	}
	cmd := &cobra.Command{
		Use:   "run SERVICE",
		Short: "Disturb a server of the service now",
		Long: `Disturbs one server and waits until it is known what came of it: how long until that was
noticed, how long until the service was whole again, how many requests failed. It ends with
exit code 0 if the service recovered or the server withstood it, with 1 if not.`,
		Example: "  kiln chaos run shop --kind kill\n  kiln chaos run shop --kind freeze --lasts 10s --server shop-abcdef",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if kind == "" {
				return usagef("--kind is missing; the kinds are %s", strings.Join(kinds, ", "))
			}
			return a.chaosRun(ctx, args[0], api.ChaosRequest{
				Server: model.ServerID(server), Kind: model.ChaosKind(kind), Lasts: model.Duration(lasts),
			})
		}),
	}
	cmd.Flags().StringVar(&kind, "kind", "", strings.Join(kinds, ", "))
	cmd.Flags().StringVar(&server, "server", "", "this one (default: any that is healthy)")
	lengthFlag(cmd, &lasts, "lasts", 0, "how long at most, of those that last (default: as declared, or "+model.DefaultChaosLasts.String()+")")
	return cmd
}

func (a *app) chaosStopCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stop SERVICE",
		Short:   "Undo the disturbance that is in force, and end its experiment",
		Example: "  kiln chaos stop shop",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			acc, err := a.api().StopChaos(ctx, args[0], api.ChaosStopRequest{Author: a.author(ctx)})
			if err != nil {
				return err
			}
			x, err := a.awaitExperiment(ctx, acc.Experiment)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(x)
			}
			a.printf("%s\n", experimentText(*x))
			return nil
		}),
	}
}

func (a *app) chaosReportCommand() *cobra.Command {
	var svg string
	cmd := &cobra.Command{
		Use:   "report [SERVICE]",
		Short: "Show what experiments have shown",
		Long: `Shows every experiment that is remembered (the newest 1000 of each service; the journal has
all), a line for each kind, and with --svg writes the distribution of the times to recover as a
picture.`,
		Example: "  kiln chaos report\n  kiln chaos report shop --svg recovery.svg",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.chaosReport(ctx, strings.Join(args, ""), svg)
		}),
	}
	cmd.Flags().StringVar(&svg, "svg", "", "write the picture to this file; -: standard output")
	return cmd
}

func (a *app) chaosRun(ctx context.Context, service string, req api.ChaosRequest) error {
	req.Author = a.author(ctx)
	acc, err := a.api().RunChaos(ctx, service, req)
	if err != nil {
		return err
	}
	x := &acc.Experiment
	if !a.detached() {
		if !a.opts.json {
			a.progressf("%s: %s is disturbed: %s", x.ID, x.Server, x.Kind)
		}
		if x, err = a.awaitExperiment(ctx, *x); err != nil {
			return err
		}
	}
	if a.opts.json {
		if err := a.document(x); err != nil {
			return err
		}
	} else {
		a.printf("%s\n", experimentText(*x))
	}
	switch x.Outcome {
	case model.ChaosStopped, model.ChaosFailed:
		return exit(exitFailed)
	default:
		return nil
	}
}

// awaitExperiment watches an experiment until it has ended.
func (a *app) awaitExperiment(ctx context.Context, x api.Experiment) (*api.Experiment, error) {
	if a.opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.opts.timeout, errTimeout)
		defer cancel()
	}
	const pause = 200 * time.Millisecond
	for {
		var now *api.Experiment
		err := a.steady(ctx, func() (err error) {
			now, err = a.api().Experiment(ctx, x.ID)
			return err
		})
		switch {
		case ctx.Err() != nil:
			a.progressf("%s; experiment %s goes on: kiln chaos report %s", a.whyStopped(ctx, nil), x.ID, x.Service)
			return nil, exit(exitUnknown)
		case err != nil:
			return nil, err
		case now.Outcome != "":
			return now, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// experimentText says in a line what came of an experiment.
func experimentText(x api.Experiment) string {
	if x.Outcome == "" {
		return fmt.Sprintf("%s: %s of %s runs", x.ID, x.Kind, x.Server)
	}
	return fmt.Sprintf("%s: %s of %s: %s: %s; %d %s failed", x.ID, x.Kind, x.Server, x.Outcome, x.Reason, x.Failed, plural(int(x.Failed), "request"))
}

func (a *app) chaosReport(ctx context.Context, service, svg string) error {
	var report *api.ChaosReport
	err := a.steady(ctx, func() (err error) {
		report, err = a.api().ChaosReport(ctx, service)
		return err
	})
	if err != nil {
		return err
	}
	if svg == "-" && a.opts.json {
		return usagef("--svg - and --json both write to standard output: name a file for the picture")
	}
	if svg != "" {
		if err := a.writePicture(svg, recoveryPicture(service, report.Experiments)); err != nil || svg == "-" {
			return err
		}
	}
	if a.opts.json {
		return a.document(report)
	}
	if len(report.Experiments) == 0 {
		a.printf("no experiment was made yet: kiln chaos run SERVICE --kind kill\n")
		return nil
	}
	a.table("", "EXPERIMENT\tSTARTED\tSERVER\tKIND\tBY\tNOTICED\tWHOLE\tFAILED\tOUTCOME", func(w io.Writer) {
		for _, x := range report.Experiments {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", x.ID, stamp(x.StartedAt), x.Server, x.Kind, printable(x.By),
				afterText(x.DetectedAfter), afterText(x.RecoveredAfter), x.Failed, cmp.Or(string(x.Outcome), "runs"))
		}
	})
	a.printf("\n")
	a.table("", "KIND\tEXPERIMENTS\tRECOVERED\tWITHSTOOD\tSTOPPED\tFAILED\tNOTICED (MEDIAN)\tWHOLE (MEDIAN)\tWHOLE (LONGEST)\tREQUESTS FAILED", func(w io.Writer) {
		for _, kind := range model.ChaosKinds() {
			if s := summaryOf(report.Experiments, kind); s.count > 0 {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%d\n", kind, s.count, s.outcomes[model.ChaosRecovered], s.outcomes[model.ChaosWithstood],
					s.outcomes[model.ChaosStopped], s.outcomes[model.ChaosFailed], median(s.detected), median(s.recovered), longest(s.recovered), s.failed)
			}
		}
	})
	return nil
}

func (a *app) writePicture(path string, picture []byte) error {
	if err := a.writeOut(path, picture); err != nil {
		return err
	}
	if path != "-" && !a.opts.json {
		a.progressf("wrote %s", path)
	}
	return nil
}

// summary is what the experiments of one kind have shown.
type summary struct {
	count               int
	outcomes            map[model.ChaosOutcome]int
	detected, recovered []time.Duration // sorted
	failed              uint64
}

func summaryOf(experiments []api.Experiment, kind model.ChaosKind) summary {
	s := summary{outcomes: map[model.ChaosOutcome]int{}}
	for _, x := range experiments {
		if x.Kind != kind {
			continue
		}
		s.count++
		s.failed += x.Failed
		s.outcomes[x.Outcome]++
		if x.DetectedAfter != nil {
			s.detected = append(s.detected, x.DetectedAfter.D())
		}
		if x.RecoveredAfter != nil {
			s.recovered = append(s.recovered, x.RecoveredAfter.D())
		}
	}
	slices.Sort(s.detected)
	slices.Sort(s.recovered)
	return s
}

func afterText(d *model.Duration) string {
	if d == nil {
		return "-"
	}
	return shortly(d.D())
}

// shortly writes a duration with as many digits as a person wants.
func shortly(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return model.Duration(d.Round(time.Second)).String()
	case d >= time.Second:
		return model.Duration(d.Round(100 * time.Millisecond)).String()
	default:
		return model.Duration(d.Round(time.Millisecond)).String()
	}
}

func median(sorted []time.Duration) string {
	if len(sorted) == 0 {
		return "-"
	}
	return shortly(middle(sorted))
}

// middle is the median of what is sorted and not empty.
func middle(sorted []time.Duration) time.Duration {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func longest(sorted []time.Duration) string {
	if len(sorted) == 0 {
		return "-"
	}
	return shortly(sorted[len(sorted)-1])
}
