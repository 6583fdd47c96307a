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

// keyCommand shows the key that images are signed with.
func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "The public key that images are signed with, and whose signatures are believed",
		Long: `Prints the public key that the daemon signs images with, in PEM. Whoever has it can check
kiln's word without kiln.`,
		Example: "  kiln key >kiln.pub\n  kiln key --json",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			key, err := a.api().Key(ctx)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(key)
			}
			a.printf("%s", key.PEM)
			return nil
		}),
	}
	cmd.AddCommand(a.listKeysCommand(), a.rotateKeyCommand(), a.trustKeyCommand(), a.distrustKeyCommand(), a.revokeKeyCommand())
	return cmd
}

// verifyImageCommand checks what is attached to an image.
func (a *app) verifyImageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify IMAGE", Short: "Check the signature of an image, and what else is said of it under one",
		Long: `Reads every signed statement that is attached to the image in the registry and checks it: that
it was signed with this kiln's key, about this very image, and was not changed since. Ends
with 1 where the image is not signed by this kiln.`,
		Example: "  kiln images verify sha256:4f53\n  kiln images verify sha256:4f53 --json",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			list, err := a.api().Statements(ctx, args[0])
			if err != nil {
				return err
			}
			if a.opts.json {
				err = a.document(list)
			} else {
				a.showStatements(list)
			}
			if err == nil && !list.Signed {
				err = &exitError{exitFailed, model.Errorf(model.Denied, "image %s is not signed by this kiln", list.Image.Short()).
					WithHint("kiln signs what it builds; kiln build makes it again")}
			}
			return err
		}),
	}
}

func (a *app) showStatements(list *api.Statements) {
	a.printf("%s\n", list.Image)
	if len(list.Statements) == 0 {
		return
	}
	if len(list.Passed) > 0 {
		a.printf("passed %s\n", printable(strings.Join(list.Passed, ", ")))
	}
	a.table("", "REPOSITORY\tWHAT\tSIGNED WITH\tWHEN\t", func(w io.Writer) {
		for _, s := range list.Statements {
			verdict, when, key := "holds", "-", "-"
			if s.At != nil {
				when = s.At.Local().Format("2006-01-02 15:04:05")
			}
			if s.Key != "" {
				key = s.Key[:min(len(s.Key), 12)] + " " + s.KeyName
			}
			if !s.Holds {
				verdict = "DOES NOT HOLD: " + printable(s.Trouble)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Repository, statementName(s.Type), key, when, verdict)
		}
	})
}

// statementName is what people call a type of statements.
func statementName(kind string) string {
	switch kind {
	case model.SignatureType:
		return "signature"
	case model.ProvenanceType:
		return "provenance"
	case model.ApprovalType:
		return "approval"
	case model.ServedType:
		return "time in service"
	case model.RejectionType:
		return "rejection"
	case model.TestResultType:
		return "checks"
	case model.SPDXType:
		return "SBOM (SPDX)"
	case model.CycloneDXType:
		return "SBOM (CycloneDX)"
	case model.SourceType:
		return "source"
	case "":
		return "?"
	default:
		return printable(kind)
	}
}
