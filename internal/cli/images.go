package cli

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) imagesCommand() *cobra.Command {
	list := func(ctx context.Context, _ []string) error { return a.listImages(ctx) }
	cmd := &cobra.Command{
		Use:     "images",
		Short:   "The images that are here",
		Example: "  kiln images\n  kiln images show base/debian:12\n  mmdebstrap --variant=minbase bookworm - | kiln images import - --name base/debian:12",
		Args:    knownCommand,
		RunE:    a.run(list),
	}
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "The images that are here", Example: "  kiln images list --json", Args: cobra.NoArgs, RunE: a.run(list)},
		&cobra.Command{
			Use: "show IMAGE", Short: "One image: by digest, its beginning, or name",
			Example: "  kiln images show sha256:4f53\n  kiln images show base/debian:12",
			Args:    cobra.ExactArgs(1),
			RunE: a.run(func(ctx context.Context, args []string) error {
				img, err := a.api().Image(ctx, args[0])
				if err != nil {
					return err
				}
				if a.opts.json {
					return a.document(img)
				}
				a.showImage(img)
				return nil
			}),
		},
		a.importCommand(),
		a.pinCommand(true), a.pinCommand(false), a.outdatedCommand(), a.verifyImageCommand(), a.diffImagesCommand(), a.billCommand(), a.historyCommand(), a.checkoutCommand(), a.checkImageCommand(),
		a.rejectCommand(), a.unrejectCommand(),
		&cobra.Command{
			Use: "pull REFERENCE", Short: "Fetch an image of a registry and record its digest",
			Example: "  kiln images pull registry.example.com/shop:1.4",
			Args:    cobra.ExactArgs(1),
			RunE: a.run(func(ctx context.Context, args []string) error {
				result, err := a.api().Pull(ctx, api.PullRequest{Ref: args[0], Author: a.author(ctx), Reason: a.opts.message})
				if err != nil {
					return err
				}
				return a.imageResult(result)
			}),
		},
	)
	return cmd
}

func (a *app) listImages(ctx context.Context) error {
	images, err := a.api().Images(ctx)
	if err != nil {
		return err
	}
	if a.opts.json {
		return a.document(images)
	}
	a.table("", "IMAGE\tSIZE\tCREATED\tSOURCE\tCOMMIT\tAUTHOR\tNAMES", func(w io.Writer) {
		for _, i := range images.Images {
			short := i.Digest.Short()
			if i.Rejected() {
				short += " (rejected)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", short, model.SizeText(i.Size), stamp(i.CreatedAt), i.Source,
				commitText(i.Provenance.Commit, i.Provenance.Dirty), orDash(printable(i.Author)), orDash(strings.Join(i.Names, " ")))
		}
	})
	return nil
}

func (a *app) showImage(i *api.Image) {
	field := func(name, value string) {
		if value != "" {
			a.printf("%-12s %s\n", name, printable(value))
		}
	}
	field("digest", string(i.Digest))
	field("names", strings.Join(i.Names, " "))
	field("size", model.SizeText(i.Size))
	field("created", stamp(i.CreatedAt))
	if !i.RemovedAt.IsZero() {
		field("removed", stamp(i.RemovedAt)+", for nothing held it any more")
	}
	if i.Pinned != nil {
		field("pinned by", strings.TrimSuffix(i.Pinned.By+": "+i.Pinned.Reason, ": "))
	}
	field("rejected", strings.TrimPrefix(rejection(&i.Image), "rejected "))
	field("source", i.Source)
	field("author", i.Author)
	field("reason", i.Reason)
	if i.Provenance.Commit != "" {
		dirty := ""
		if i.Provenance.Dirty {
			dirty = ", and the tree differed from it"
		}
		field("commit", i.Provenance.Commit+dirty)
	}
	for _, p := range i.Provenance.Parents {
		field("parent", p.Name+" "+string(p.Digest))
	}
	field("user", i.User)
	field("entrypoint", quoted(i.Entrypoint))
	field("command", quoted(i.Command))
	field("workdir", i.WorkDir)
	field("ports", strings.Join(i.Ports, " "))
	field("stop signal", i.StopSignal)
	for _, e := range i.Env {
		field("env", e)
	}
	for _, l := range i.Layers {
		field("layer", string(l.Digest)+" "+model.SizeText(l.Size))
	}
	for _, u := range i.UsedBy {
		field("used by", u)
	}
}

func quoted(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", words)
}

func (a *app) importCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take in a root filesystem, an OCI layout or archive, or a docker archive",
		Long: `Takes in a tar of a root filesystem, an OCI layout (a directory, or a tar of one) or what
"docker save" writes, compressed or not. "-" reads standard input. The name is what FROM may
call it.`,
		Example: "  mmdebstrap --variant=minbase bookworm - | kiln images import - --name base/debian:12\n  kiln images import shop.oci.tar --name shop:1.4",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if name == "" {
				return usagef("--name is missing: it is what FROM may call the image")
			}
			archive, err := a.open(args[0])
			if err != nil {
				return err
			}
			defer archive.Close()
			result, err := a.api().Import(ctx, api.ImportQuery{Name: name, Author: a.author(ctx), Reason: a.opts.message}, archive)
			if err != nil {
				return err
			}
			return a.imageResult(result)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "what FROM may call it, as base/debian:12")
	return cmd
}

func (a *app) imageResult(r *api.ImageResult) error {
	if a.opts.json {
		return a.document(r)
	}
	a.printf("%s  %s  %s  %s\n", r.Image, model.SizeText(r.Size), time.Duration(r.TookMS)*time.Millisecond, r.Name)
	return nil
}

// open returns the archive: of a file, standard input, or a directory that
// holds an OCI layout.
func (a *app) open(path string) (io.ReadCloser, error) {
	if path == "-" {
		if isTerminal(a.Stdin) {
			return nil, usagef("standard input is a terminal: pipe an archive into it")
		}
		return io.NopCloser(a.Stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, invalid("cannot read %s: %w", path, readFailure(err))
	}
	st, err := f.Stat()
	if err != nil || !st.IsDir() {
		return f, err
	}
	f.Close()
	if regular(filepath.Join(path, "oci-layout")) != nil {
		return nil, invalid("cannot import the directory %s: it has no file oci-layout", path).
			WithHint("for a root filesystem: tar -C %s -c . | kiln images import - --name …", path)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(packLayout(w, path)) }()
	return r, nil
}

// packLayout writes the regular files of an OCI layout as a tar.
func packLayout(w io.Writer, dir string) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := out.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: st.Size(), ModTime: st.ModTime()}); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyN(out, f, st.Size())
		return err
	})
	if err != nil {
		return model.Errorf(model.Invalid, "cannot read %s: %w", dir, err)
	}
	return out.Close()
}
