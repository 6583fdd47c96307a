package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) driftCommand() *cobra.Command {
	var code bool
	cmd := &cobra.Command{
		Use:   "drift [SERVICE]",
		Short: "Servers that are not their template any more, and what was done",
		Long: `What is not as its template says: what it is, where, since when, how it was seen, and what
was done about it; servers that were replaced for it too. docs/drift.md says what is looked at.`,
		Example: "  kiln drift\n  kiln drift shop --json\n  kiln drift --exit-code && echo nothing drifts\n  kiln drift verify shop-k3x7qa",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			service := ""
			if len(args) == 1 {
				service = args[0]
			}
			d, err := a.api().Drift(ctx, service)
			if err != nil {
				return err
			}
			if a.opts.json {
				err = a.document(d)
			} else {
				a.drift(d)
			}
			if err == nil && code && d.Drifted {
				return exit(exitChanges)
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&code, "exit-code", false, fmt.Sprintf("exit with %d while anything drifts", exitChanges))
	cmd.AddCommand(a.driftVerifyCommand())
	return cmd
}

// drift prints what drifts, and what has.
func (a *app) drift(d *api.Drift) {
	if len(d.Servers)+len(d.Fleet) == 0 {
		a.printf("nothing drifts\n")
	}
	for i, s := range d.Servers {
		if i > 0 {
			a.printf("\n")
		}
		a.printf("%s  %s, since %s\n", s.Server, s.Phase, stamp(s.Since))
		for _, f := range s.Findings {
			a.finding(f)
		}
		if s.More > 0 {
			a.printf("  and %d more\n", s.More)
		}
		a.printf("  done   %s\n", printable(s.Done))
	}
	if len(d.Fleet) > 0 {
		if len(d.Servers) > 0 {
			a.printf("\n")
		}
		a.printf("fleet\n")
	}
	for _, f := range d.Fleet {
		a.finding(f)
		if f.Done != "" {
			a.printf("         done: %s\n", printable(f.Done))
		}
	}
	for _, h := range d.Halted {
		a.printf("%s: %s\n", h.Service, printable(h.Reason))
	}
	if !d.Drifted && len(d.Servers)+len(d.Fleet) > 0 {
		a.printf("\nnothing of it stands any more\n")
	}
}

func (a *app) finding(f api.DriftFound) {
	what := f.What
	if !f.Stands {
		what += " (no more)"
	}
	a.printf("  %s: %s\n", what, printable(f.Where))
	if f.Detail != "" {
		a.printf("         %s\n", printable(f.Detail))
	}
	a.printf("         seen %s: %s\n", stamp(f.At), printable(f.How))
}

func (a *app) driftVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify SERVER",
		Short: "Compare a server with its template now, byte for byte",
		Long: `Looks at everything at once: the server's own layer, every byte of the layers that it stands
on against the image's own, its processes, its configuration. It exits with 1 if anything differs.`,
		Example: "  kiln drift verify shop-k3x7qa",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			v, err := a.api().VerifyServer(ctx, model.ServerID(args[0]))
			if err != nil {
				return err
			}
			if a.opts.json {
				err = a.document(v)
			} else {
				a.verification(v)
			}
			if err == nil && !v.Same {
				return exit(exitFailed)
			}
			return err
		}),
	}
}

func (a *app) verification(v *api.Verification) {
	if v.Same {
		a.printf("%s is its template, byte for byte: image %s, looked at in %d ms\n", v.Server, v.Image.Short(), v.TookMS)
		return
	}
	a.printf("%s is not its template: image %s, looked at in %d ms\n", v.Server, v.Image.Short(), v.TookMS)
	a.table("  ", "WHAT\tWHERE\tSEEN", func(w io.Writer) {
		for _, f := range v.Findings {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", f.What, printable(f.Where), printable(said(f)))
		}
	})
}

// said is what a finding says besides.
func said(f model.Finding) string {
	text := f.Detail
	if f.Session != "" {
		text = "of session " + f.Session + " " + text
	}
	return orDash(text)
}
