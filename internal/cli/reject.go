package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) rejectCommand() *cobra.Command {
	var reason string
	var undo bool
	cmd := &cobra.Command{
		Use:   "reject IMAGE --reason TEXT",
		Short: "Mark an image as bad: nobody deploys, promotes or rolls back to it any more",
		Long: `Marks an image as bad, in the journal and under a signature that is attached to it in the
registry, so that other kilns that take it from there and trust this one's key refuse it, too.
It is not deployed, promoted or rolled back to any more; a deployment that brings it is ended
if it can be. Servers that run it go on, and are listed: a rollback takes them out of service.`,
		Example: "  kiln images reject sha256:4f53 --reason \"charges twice\"\n  kiln images reject sha256:4f53 --undo",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.reject(ctx, args[0], undo, cmp.Or(reason, a.opts.message))
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what is wrong with it")
	cmd.Flags().BoolVar(&undo, "undo", false, "it is not bad after all, as kiln images unreject")
	return cmd
}

func (a *app) unrejectCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "unreject IMAGE", Short: "Say that an image is not bad after all",
		Example: "  kiln images unreject sha256:4f53 --reason \"it was the database\"",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.reject(ctx, args[0], true, cmp.Or(reason, a.opts.message))
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why it is good")
	return cmd
}

func (a *app) reject(ctx context.Context, image string, lifted bool, reason string) error {
	if !lifted && reason == "" {
		return usagef("--reason is missing: it says what is wrong with the image")
	}
	said, err := a.api().Reject(ctx, image, api.RejectRequest{Lifted: lifted, Reason: reason, Author: a.author(ctx)})
	if err != nil {
		return err
	}
	if said.Trouble != "" {
		fmt.Fprintf(a.Stderr, "kiln: the word is in force here; others cannot read it: %s\n", said.Trouble)
	}
	if a.opts.json {
		return a.document(said)
	}
	switch {
	case said.Rejected:
		a.printf("%s  rejected by %s: %s\n", said.Image.Short(), printable(said.Rejection.By), printable(said.Rejection.Reason))
	default:
		a.printf("%s  not rejected\n", said.Image.Short())
		return nil
	}
	if len(said.Running) == 0 {
		a.printf("no server runs it\n")
		return nil
	}
	a.table("", "SERVER\tSERVICE\tRELEASE\tIN SERVICE", func(w io.Writer) {
		for _, r := range said.Running {
			fmt.Fprintf(w, "%s\t%s\t%d\t%t\n", r.Server, r.Service, r.Release, r.InService)
		}
	})
	return nil
}

// rejection says in a word that an image is bad.
func rejection(i *model.Image) string {
	if !i.Rejected() {
		return ""
	}
	return "rejected by " + i.Rejection.By + ": " + i.Rejection.Reason
}
