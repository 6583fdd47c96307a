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

func (a *app) billCommand() *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use: "sbom IMAGE", Short: "What is in an image: its packages, as SPDX or CycloneDX",
		Long: `Prints the list of what is in an image (a software bill of materials) as a document in JSON:
SPDX 2.3, or CycloneDX 1.6. The same image gives the same document.`,
		Example: "  kiln images sbom base/debian:12 >debian.spdx.json\n  kiln images sbom sha256:4f53 --form cyclonedx",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.api().Bill(ctx, args[0], form, a.Stdout)
		}),
	}
	cmd.Flags().StringVar(&form, "form", api.SPDX, "spdx or cyclonedx")
	return cmd
}

func (a *app) diffImagesCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "diff IMAGE IMAGE", Short: "How the second image differs from the first",
		Long: `Shows the packages, the files and the settings in which the second image differs from the
first, and their sizes. A file that is there in both and whose time alone differs is the same.`,
		Example: "  kiln images diff sha256:4f53 sha256:9a21\n  kiln images diff base/debian:12 sha256:4f53 --all",
		Args:    cobra.ExactArgs(2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			diff, err := a.api().ImageDiff(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			if a.opts.json {
				return a.document(diff)
			}
			a.showDiff(diff, all)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every file, not the first 100")
	return cmd
}

// filesShown is how many files of a difference are shown unless all are asked for.
const filesShown = 100

func (a *app) showDiff(d *api.ImageDiff, all bool) {
	a.printf("%s → %s\n", d.Before.Digest.Short(), d.After.Digest.Short())
	a.printf("size: %s → %s as stored, %s → %s unpacked; %d → %d files\n",
		model.SizeText(d.Before.Compressed), model.SizeText(d.After.Compressed),
		model.SizeText(d.Before.FileBytes), model.SizeText(d.After.FileBytes), d.Before.Files, d.After.Files)
	a.printf("layers: %d → %d, the lowest %d are the same\n", len(d.Before.Layers), len(d.After.Layers), d.SharedLayers)
	if len(d.Packages)+len(d.Config)+len(d.Files) == 0 {
		a.printf("nothing differs\n")
		return
	}
	if len(d.Packages) > 0 {
		a.table("", "\npackages", func(w io.Writer) {
			for _, p := range d.Packages {
				fmt.Fprintf(w, "  %s %s\t%s\t%s\n", mark(p.Change), printable(p.Name), p.Type, printable(between(p.Before, p.After)))
			}
		})
	}
	if len(d.Config) > 0 {
		a.table("", "\nsettings", func(w io.Writer) {
			for _, c := range d.Config {
				what := strings.TrimSpace(strings.ReplaceAll(c.Field, "_", " ") + " " + c.Key)
				fmt.Fprintf(w, "  %s %s\t%s\n", mark(c.Change), printable(what), printable(between(strings.Join(c.Before, " "), strings.Join(c.After, " "))))
			}
		})
	}
	files := d.Files
	if !all && len(files) > filesShown {
		files = files[:filesShown]
	}
	if len(files) > 0 {
		a.table("", "\nfiles", func(w io.Writer) {
			for _, f := range files {
				fmt.Fprintf(w, "  %s /%s\t%s\n", mark(f.Change), printable(strings.TrimPrefix(f.Path, "./")), fileWords(f))
			}
		})
	}
	if more := len(d.Files) - len(files); more > 0 {
		a.printf("  and %d more (--all)\n", more)
	}
}

// mark is a change at the beginning of a line.
func mark(change string) string {
	switch change {
	case "added":
		return "+"
	case "removed":
		return "-"
	default:
		return "~"
	}
}

func between(before, after string) string {
	switch {
	case before == "":
		return after
	case after == "":
		return before
	default:
		return before + " → " + after
	}
}

// fileWords says what has become of a file, and in which layer.
func fileWords(f api.FileChange) string {
	switch {
	case f.Before == nil:
		return fmt.Sprintf("%s, layer %d", kindAndSize(f.After), f.After.Layer.Index+1)
	case f.After == nil:
		return kindAndSize(f.Before)
	default:
		return fmt.Sprintf("%s, layer %d", strings.Join(f.Aspects, ", "), f.After.Layer.Index+1)
	}
}

func kindAndSize(f *api.ImageFile) string {
	if f.Kind == "file" {
		return model.SizeText(f.Size)
	}
	return f.Kind
}
