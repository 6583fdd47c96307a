package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) canaryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "canary",
		Short: "Pause, resume or finish a deployment that goes by stages",
		Long: `A canary, and a rolling deployment too, goes by stages: each is held for its time, then the
next one follows by itself. These commands act on the one that runs; kiln abort gives
everything back to the old release.`,
		Example: "  kiln canary pause shop --reason \"look at the errors\"\n  kiln canary resume shop\n  kiln canary finish shop",
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.pauseCommand(), a.resumeCommand(), a.finishCommand())
	return cmd
}

func (a *app) pauseCommand() *cobra.Command {
	var reason string
	var long time.Duration
	cmd := &cobra.Command{
		Use:   "pause SERVICE",
		Short: "Hold the running deployment at the stage that it has reached",
		Long: `Holds the deployment where it is until somebody resumes or finishes it. When the time is
over it is aborted, and everything goes back to the old release.`,
		Example: "  kiln canary pause shop\n  kiln canary pause shop --for 1h --reason \"look at the errors\"",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if long < 0 || long > 0 && long < time.Second {
				return usagef("--for is a duration of at least 1s, as 30m or 1h")
			}
			return a.stage(ctx, a.api().Pause, args[0], api.StageRequest{Reason: reason, For: model.Duration(long)}, "pause")
		}),
	}
	reasonFlag(cmd, &reason)
	lengthFlag(cmd, &long, "for", 0, "how long at most; then it is aborted (default 24h)")
	return cmd
}

func (a *app) resumeCommand() *cobra.Command {
	return a.goOn("resume", (*api.Client).Resume, &cobra.Command{
		Use:     "resume SERVICE",
		Short:   "Go on with a paused deployment",
		Long:    "Goes on with the deployment at the stage where it was paused. The time of the pause does not\ncount towards its deadline.",
		Example: "  kiln canary resume shop",
	})
}

func (a *app) finishCommand() *cobra.Command {
	return a.goOn("finish", (*api.Client).Finish, &cobra.Command{
		Use:     "finish SERVICE",
		Short:   "Pass over the stages that are left",
		Long:    "Makes all servers of the new release and gives it everything, once they have passed every check.\nIt ends a pause.",
		Example: "  kiln canary finish shop --reason \"looks good\"",
	})
}

// goOn completes a command that lets a deployment go on.
func (a *app) goOn(verb string, send func(*api.Client, context.Context, string, api.StageRequest) (*api.StageAccepted, error), cmd *cobra.Command) *cobra.Command {
	var reason string
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = a.run(func(ctx context.Context, args []string) error {
		call := func(ctx context.Context, service string, req api.StageRequest) (*api.StageAccepted, error) {
			return send(a.api(), ctx, service, req)
		}
		return a.stage(ctx, call, args[0], api.StageRequest{Reason: reason}, verb)
	})
	reasonFlag(cmd, &reason)
	return cmd
}

// reasonFlag is --message under the name that fits what is no release.
func reasonFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "reason", "", "why, for the history")
}

// stage sends a command about the running deployment's stages, and says how it
// stands since.
func (a *app) stage(ctx context.Context, send func(context.Context, string, api.StageRequest) (*api.StageAccepted, error),
	service string, req api.StageRequest, verb string,
) error {
	req.Author = a.author(ctx)
	if req.Reason == "" {
		req.Reason = a.opts.message
	}
	acc, err := send(ctx, service, req)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(acc)
	}
	d := acc.Deployment
	switch {
	case verb == "pause" && d.PausedUntil != nil:
		a.printf("%s: %s is paused until %s at %s; then it is aborted\n", service, d.ID, stamp(*d.PausedUntil), stageText(d.Staging, d.To))
		a.printf("  kiln canary resume %s goes on, kiln canary finish %s passes over the stages that are left\n", service, service)
	case verb == "resume":
		a.printf("%s: %s goes on at %s\n", service, d.ID, stageText(d.Staging, d.To))
	default:
		a.printf("%s: %s passes over the stages that are left: everything goes to release %d once its servers have passed every check\n", service, d.ID, d.To)
	}
	return nil
}

// stageText says which stage a deployment is at: "stage 2 of 3: 50 % of the
// requests to release 7". It is empty for one that switches at once.
func stageText(s api.Staging, release int) string {
	if len(s.Stages) < 2 || s.Stage < 1 || s.Stage > len(s.Stages) {
		return ""
	}
	return fmt.Sprintf("stage %d of %d: %s", s.Stage, len(s.Stages), shareText(s.Stages[s.Stage-1], release))
}

// shareText says what of the traffic a stage gives to the new release.
func shareText(st api.Stage, release int) string {
	switch {
	case st.Old == 0:
		return fmt.Sprintf("everything to release %d", release)
	case st.Weight > 0:
		return fmt.Sprintf("%d %% of the requests to release %d", st.Weight, release)
	default:
		return fmt.Sprintf("%d %s of release %d beside %d old", st.New, plural(st.New, "server"), release, st.Old)
	}
}

// standing says in a line what a deployment does and waits for.
func standing(service string, phase model.DeployPhase, waitingFor string, staging *api.Staging, release int) string {
	state := string(phase)
	switch {
	case phase == model.DeployQueued:
		state += behind(waitingFor)
	case waitingFor != "":
		state += ": " + waitingFor
	}
	if staging == nil {
		return state
	}
	at := stageText(*staging, release)
	switch {
	case at == "" || phase == model.DeployEnded:
		return state
	case staging.Paused:
		return fmt.Sprintf("paused at %s%s", at, pauseText(service, *staging))
	case phase == model.DeployHolding:
		if hold := staging.Stages[staging.Stage-1].Hold; hold > 0 {
			at += ", held " + hold.String()
		}
		return at
	default:
		return at + ": " + state
	}
}

// pauseText says who paused a deployment, until when, and how it goes on.
func pauseText(service string, s api.Staging) string {
	text := " by " + printable(s.PausedBy)
	if s.PausedUntil != nil {
		text += ", until " + stamp(*s.PausedUntil)
	}
	return text + "; to go on: kiln canary resume " + service + ", or finish"
}
