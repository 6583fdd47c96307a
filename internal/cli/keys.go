package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
)

func (a *app) listKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Whose signatures are believed",
		Long: `Lists this kiln's key, its former ones, and those of others that it trusts. What a former key
signed while it was in use stays good.`,
		Example: "  kiln key list\n  kiln key list --json",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			list, err := a.api().Keys(ctx)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(list)
			}
			a.table("", "NAME\tKEY\tALGORITHM\tSTATE\tFROM\tUNTIL\tWHY", func(w io.Writer) {
				for _, k := range list.Keys {
					why := k.Ended
					if k.Revoked != nil {
						why = k.Revoked.Reason
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, k.ID[:min(len(k.ID), 12)], k.Algorithm, k.State, when(k.NotBefore), when(k.NotAfter), printable(why))
				}
			})
			return nil
		}),
	}
}

// when shows a time, or that there is none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func (a *app) rotateKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Sign with a new key from now on",
		Long: `Makes a new key and signs with it from now on. The private half of the one before is gone; its
public half stays known, so that what it signed stays good. What is here and was built here
is signed with the new key as well.`,
		Example: "  kiln key rotate -m \"a year has passed\"\n  kiln key >kiln.pub",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			key, err := a.api().RotateKey(ctx, api.RotateRequest{Author: a.author(ctx), Reason: a.opts.message})
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
}

func (a *app) trustKeyCommand() *cobra.Command {
	var in api.TrustRequest
	var from, until string
	cmd := &cobra.Command{
		Use: "trust FILE", Short: "Believe signatures of another's key",
		Long: `Reads a public key in PEM and believes its signatures from now on: of another kiln (kiln key
shows its key), of whoever signs with cosign, of people who approve.`,
		Example: "  kiln key trust alice.pub --name alice\n  kiln key trust ci.pub --name ci --until 2027-01-01T00:00:00Z",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return invalid("cannot read the key %s: %w", args[0], readFailure(err))
			}
			for _, bound := range []struct {
				flag, text string
				to         *time.Time
			}{{"--from", from, &in.NotBefore}, {"--until", until, &in.NotAfter}} {
				if bound.text == "" {
					continue
				}
				if *bound.to, err = time.Parse(time.RFC3339, bound.text); err != nil {
					return usagef("%s: %q is not a time like 2027-01-02T15:04:05Z", bound.flag, bound.text)
				}
			}
			in.PEM, in.Author, in.Reason = string(text), a.author(ctx), a.opts.message
			key, err := a.api().TrustKey(ctx, in)
			if err != nil {
				return err
			}
			return a.showKey(key, "signatures of key %s (%s) are believed from now on\n")
		}),
	}
	cmd.Flags().StringVar(&in.Name, "name", "", "what the key is called here, as alice")
	cmd.Flags().StringVar(&from, "from", "", "when its use begins, as 2027-01-02T15:04:05Z")
	cmd.Flags().StringVar(&until, "until", "", "when its use ends")
	return cmd
}

func (a *app) distrustKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "distrust NAME", Short: "Believe signatures of another's key no more",
		Long: `Forgets another's key: all that it signed falls. Where a key got into other hands, revoke it
instead: it is then never trusted again.`,
		Example: "  kiln key distrust alice",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			key, err := a.api().RevokeKey(ctx, args[0], api.RevokeRequest{Forget: true, Author: a.author(ctx), Reason: a.opts.message})
			if err != nil {
				return err
			}
			return a.showKey(key, "signatures of key %s (%s) are not believed any more\n")
		}),
	}
}

func (a *app) revokeKeyCommand() *cobra.Command {
	var since, reason string
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "Take back what a key signed",
		Long: `Takes back all that a key signed, or with --since what it signed from then on. It is never
trusted again. This kiln's present key has to be rotated first.`,
		Example: "  kiln key revoke ci --reason \"its runner was broken into\" --since 2026-11-20T08:00:00Z\n  kiln key revoke kiln-1 --reason lost",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			in := api.RevokeRequest{Author: a.author(ctx), Reason: reason}
			if in.Reason == "" {
				in.Reason = a.opts.message
			}
			if since != "" {
				at, err := a.moment(since)
				if err != nil {
					return err
				}
				in.Since = at
			}
			key, err := a.api().RevokeKey(ctx, args[0], in)
			if err != nil {
				return err
			}
			return a.showKey(key, "key %s (%s) is revoked\n")
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "what it signed before stays good: a time, or how long ago")
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	return cmd
}

func (a *app) showKey(key *api.KnownKey, format string) error {
	if a.opts.json {
		return a.document(key)
	}
	a.printf(format, key.Name, key.ID[:min(len(key.ID), 12)])
	return nil
}
