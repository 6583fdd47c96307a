package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/sign"
)

func (a *app) approveCommand() *cobra.Command {
	var environment, reason, key, passphrase string
	var list bool
	cmd := &cobra.Command{
		Use:   "approve IMAGE|SERVICE --for ENVIRONMENT",
		Short: "Say that an image may serve in an environment",
		Long: `Attaches a signed approval to an image: that it may serve in the environment. A service
stands for the image that it has in service now. Who approves is the user whose process
asks, as the kernel tells the daemon; with --key it is whoever has that key, which the
kiln has to believe (kiln key trust). An approval is of one image, and for one environment.`,
		Example: "  kiln approve shop-staging --for production --reason \"tried it\"\n  kiln approve sha256:4f53 --for production --key ann.key\n  kiln approve sha256:4f53 --list",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			switch {
			case list && environment != "":
				return usagef("--list shows all approvals, and --for gives one: take one of them out")
			case list:
				return a.listApprovals(ctx, args[0])
			case environment == "":
				return usagef("--for is missing: the environment in which the image may serve")
			case passphrase != "" && key == "":
				return usagef("--passphrase is that of --key")
			}
			req := api.ApproveRequest{Environment: environment, Reason: cmp.Or(reason, a.opts.message), Author: a.author(ctx)}
			return a.approve(ctx, args[0], req, key, passphrase)
		}),
	}
	cmd.Flags().StringVar(&environment, "for", "", "the environment")
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().StringVar(&key, "key", "", "a private key's file, to sign with instead of the kiln's")
	cmd.Flags().StringVar(&passphrase, "passphrase", "", "the file with the passphrase of --key")
	cmd.Flags().BoolVar(&list, "list", false, "who has approved of it")
	return cmd
}

func (a *app) approve(ctx context.Context, image string, req api.ApproveRequest, key, passphrase string) error {
	if key != "" {
		known, err := a.api().Approvals(ctx, image)
		if err != nil {
			return err
		}
		image = string(known.Image) // what was signed is what is approved
		if req.Bundle, err = a.signedApproval(known.Image, req, key, passphrase); err != nil {
			return err
		}
	}
	said, err := a.api().Approve(ctx, image, req)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(said)
	}
	a.printf("%s  approved for %s by %s\n", said.Image.Short(), said.Environment, printable(said.By))
	return nil
}

// signedApproval is an approval signed with a key of the approver's own.
func (a *app) signedApproval(image model.Digest, req api.ApproveRequest, key, passphrase string) (json.RawMessage, error) {
	var secret []byte
	if passphrase != "" {
		text, err := os.ReadFile(passphrase)
		if err != nil {
			return nil, invalid("cannot read the passphrase: %w", readFailure(err))
		}
		secret = bytes.TrimRight(text, "\r\n")
	}
	private, err := sign.ReadPrivateKey(key, secret)
	if err != nil {
		return nil, err
	}
	predicate, err := json.Marshal(api.ApprovalPredicate{Environment: req.Environment, By: req.Author, Reason: req.Reason, At: a.Now().UTC()})
	if err != nil {
		return nil, err
	}
	return private.Attest(digest.Digest(image), model.ApprovalType, predicate)
}

func (a *app) listApprovals(ctx context.Context, image string) error {
	list, err := a.api().Approvals(ctx, image)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(list)
	}
	if len(list.Approvals) == 0 {
		a.printf("nobody has approved of image %s\n", list.Image.Short())
		return nil
	}
	a.table("", "BY\tFOR\tWHEN\tSIGNED WITH\tREASON", func(w io.Writer) {
		for _, said := range list.Approvals {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(said.By), printable(said.Environment), stamp(said.At), said.Key[:min(len(said.Key), 12)], printable(said.Reason))
		}
	})
	return nil
}
