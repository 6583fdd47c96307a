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

func (a *app) gcCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what nothing holds: images, build cache, remnants",
		Long: `Removes images, records of the build cache, and remnants that nothing holds. What runs, is
parked, is being deployed or waits, what can be rolled back to (retention in kiln.hcl), what is
pinned, and what all these stand on stays. kiln does this by itself once a day and when the
disk gets low. With --dry-run nothing is removed: every object is listed with what becomes of
it, and why.`,
		Example: "  kiln gc --dry-run\n  kiln gc\n  kiln gc --dry-run --json",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			var found *api.Survey
			var err error
			if dryRun {
				found, err = a.api().Survey(ctx)
			} else {
				found, err = a.api().Sweep(ctx, api.SweepRequest{Author: a.author(ctx)})
			}
			if err != nil {
				return err
			}
			if a.opts.json {
				err = a.document(found)
			} else {
				a.survey(found)
			}
			if len(found.Failed) > 0 {
				return exit(exitFailed)
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "list what would go and what stays, and remove nothing")
	return cmd
}

// survey prints what is kept, or of a sweep what went.
func (a *app) survey(s *api.Survey) {
	a.table("", "OBJECT\tID\tNAME\tBYTES\t\tWHY", func(w io.Writer) {
		for _, k := range s.Objects {
			word := "stays"
			switch {
			case !k.Keep && s.DryRun:
				word = "goes"
			case !k.Keep:
				word = "removed"
			case !s.DryRun:
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Kind, objectID(k.Object), orDash(printable(clipped(k.Name))), model.SizeText(k.Bytes), word, printable(k.Reason))
		}
	})
	verb := "were removed"
	if s.DryRun {
		verb = "would go"
	}
	a.printf("%s of %s %s; %s serve nobody\n", model.SizeText(s.Freed), model.SizeText(s.Bytes), verb, model.SizeText(s.Idle))
	for _, m := range s.Missing {
		a.progressf("not looked at: %s", printable(m))
	}
	for _, f := range s.Failed {
		a.progressf("not removed: %s", printable(f))
	}
}

// objectID is short where that is enough to find the object.
func objectID(o model.Object) string {
	if strings.HasPrefix(o.ID, "sha256:") {
		return model.Digest(o.ID).Short()
	}
	return clipped(o.ID)
}

// clipped bounds what would make a table too wide.
func clipped(s string) string {
	const most = 48
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func (a *app) pinCommand(pinned bool) *cobra.Command {
	use, short, example := "pin IMAGE", "Keep an image, whatever retention says", "  kiln images pin sha256:4f53 -m \"for the audit\""
	if !pinned {
		use, short, example = "unpin IMAGE", "Let retention decide about an image again", "  kiln images unpin sha256:4f53"
	}
	return &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			img, err := a.api().Pin(ctx, args[0], api.PinRequest{Pinned: pinned, Author: a.author(ctx), Reason: a.opts.message})
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(img)
			}
			if img.Pinned == nil {
				a.printf("%s  not pinned any more\n", img.Digest.Short())
			} else {
				a.printf("%s  pinned by %s\n", img.Digest.Short(), printable(img.Pinned.By))
			}
			return nil
		}),
	}
}

func (a *app) outdatedCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "outdated",
		Short: "Which services stand on a base that has a newer image",
		Long: `Lists the services whose image was built on a base (FROM) whose name means another image by
now: one that was imported or pulled since. kiln rebuild --base brings them onto it.`,
		Example: "  kiln images outdated\n  kiln rebuild --base base/debian:12",
		Args:    cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			found, err := a.api().Outdated(ctx)
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(found)
			}
			if len(found.Services) == 0 {
				a.printf("every service stands on the newest image of its base that is here\n")
				return nil
			}
			a.table("", "SERVICE\tRELEASE\tBASE\tSTANDS ON\tNEWEST\tSINCE", func(w io.Writer) {
				for _, s := range found.Services {
					newest := s.Newest.Short()
					if s.Removed {
						newest += " (removed)"
					}
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.Service, s.Release, s.Base, s.Has.Short(), newest, stamp(s.Since))
				}
			})
			return nil
		}),
	}
}

// troubles says what kiln itself cannot do beside its work for the services.
func (a *app) troubles(all []string) {
	for _, t := range all {
		a.printf("trouble  %s\n", printable(t))
	}
}

// storage says how much of the disk serves nobody.
func (a *app) storage(s *api.Storage) {
	if s == nil {
		return
	}
	a.printf("\nstorage  %s kept, %s of it for nobody who is served now", model.SizeText(s.Bytes), model.SizeText(s.Idle))
	if s.Removable > 0 {
		a.printf(", %s can go", model.SizeText(s.Removable))
	}
	a.printf(" (kiln gc --dry-run)\n")
	if d := s.Disk; d.State == model.DiskLow || d.State == model.DiskShort {
		a.printf("disk     %s at %s: %s of %s were free\n", d.State, d.Path, model.SizeText(d.Free), model.SizeText(d.Total))
	}
}
