package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/source"
	"kiln/internal/spec"
)

func (a *app) checkoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "checkout IMAGE [DIRECTORY]", Short: "What an image was built from, as a directory to go on from",
		Long: `Makes a directory of what the image was built from: build context, Containerfile and declaration, as
they were. What is built from there goes on from that image: kiln images history shows it as a branch.
Without DIRECTORY it is SERVICE-DIGEST, here; one that has something in it is left alone.

The source of an image that was built here is kept beside it as long as its content. What .dockerignore
leaves out is not in it, nor are repositories (.git).`,
		Example: "  kiln images checkout sha256:4f53\n  kiln images checkout sha256:4f53 fix && cd fix && kiln build",
		Args:    cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if len(args) == 2 {
				if err := vacant(args[1]); err != nil {
					return err
				}
			}
			src, archive, err := a.api().Source(ctx, args[0])
			if err != nil {
				return err
			}
			defer archive.Close()
			if !model.ValidServiceName(src.Config.Service) {
				return &exitError{exitFailed, model.Errorf(model.Denied, "cannot check out image %s: its source is said to be of service %q, which is no name", src.Image.Short(), src.Config.Service)}
			}
			dir := src.Config.Service + "-" + src.Image.Short()
			if len(args) == 2 {
				dir = args[1]
			}
			if err := a.checkout(src, archive, dir); err != nil {
				return err
			}
			return a.checkedOut(src, dir)
		}),
	}
}

// vacant refuses what something is in, or is no directory.
func vacant(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	cannot := func(err error) error {
		return invalid("cannot check out to %s: %w", dir, readFailure(err)).WithHint("name a directory that is empty, or not there yet")
	}
	if err != nil {
		return cannot(err)
	}
	defer f.Close()
	switch names, err := f.Readdirnames(1); {
	case len(names) > 0:
		return cannot(errors.New("it is not empty"))
	case err != nil && !errors.Is(err, io.EOF):
		return cannot(err)
	}
	return nil
}

// checkout makes the directory. When it fails, nothing of it is left.
func (a *app) checkout(src *api.Source, archive io.Reader, dir string) (err error) {
	if err := vacant(dir); err != nil {
		return err
	}
	_, missing := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return invalid("cannot make %s: %w", dir, readFailure(err))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return invalid("cannot use %s: %w", dir, readFailure(err))
	}
	defer root.Close()
	defer func() {
		if err == nil {
			return
		}
		if missing != nil {
			_ = os.RemoveAll(dir) // what is left of it is told by the error
			return
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			_ = root.RemoveAll(e.Name())
		}
	}()
	whole, err := fetched(src, archive, dir)
	if err != nil {
		return err
	}
	defer whole.Close()
	if _, err := source.Unpack(whole, root); err != nil {
		return &exitError{exitFailed, model.Errorf(model.CodeOf(err), "cannot check out image %s: %w", src.Image.Short(), err).WithHint("%s", model.HintOf(err))}
	}
	into, err := root.OpenRoot(src.Config.Context) // no link of the archive's leads out of it
	if err != nil {
		return &exitError{exitFailed, model.Errorf(model.Denied, "cannot check out image %s: the build context %q of its source cannot be used: %w", src.Image.Short(), src.Config.Context, readFailure(err))}
	}
	defer into.Close()
	return writeOrigin(into, origin{Image: src.Image, Service: src.Config.Service, Commit: src.Commit})
}

// fetched is an archive that is all here, and the one that the daemon has named. Its
// file has no name.
func fetched(src *api.Source, archive io.Reader, dir string) (_ *os.File, err error) {
	f, err := os.CreateTemp(dir, ".kiln-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, &exitError{exitFailed, model.Errorf(model.Unavailable, "cannot check out to %s: %w", dir, readFailure(err))}
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(archive, source.MaxArchive+1))
	if _, known := errors.AsType[*model.Error](err); known {
		return nil, err
	}
	if err != nil {
		return nil, &exitError{exitFailed, model.Errorf(model.Unavailable, "cannot check out to %s: %w", dir, err)}
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != string(src.Archive) {
		return nil, &exitError{exitFailed, model.Errorf(model.Denied, "cannot check out image %s: what came is %s, and its source is %s", src.Image.Short(), model.Digest(got).Short(), src.Archive.Short())}
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// checkedOut says what is there now, and how to go on.
func (a *app) checkedOut(src *api.Source, dir string) error {
	if a.opts.json {
		return a.document(struct {
			Image     model.Digest `json:"image"`
			Directory string       `json:"directory"`
			Files     int          `json:"files"`
			Bytes     int64        `json:"bytes"`
			Commit    string       `json:"commit"`
			Service   string       `json:"service"`
		}{src.Image, dir, src.Files, src.Bytes, src.Commit, src.Config.Service})
	}
	from := ""
	if src.Commit != "" {
		from = ", commit " + commitText(src.Commit, src.Dirty)
	}
	a.printf("%s  image %s, service %s%s: %d files, %s\n", dir, src.Image.Short(), src.Config.Service, from, src.Files, model.SizeText(src.Bytes))
	build := "kiln build " + src.Config.Service
	if src.Config.Declaration != defaultFile {
		build = fmt.Sprintf("kiln build -f %s %s", src.Config.Declaration, src.Config.Service)
	}
	a.printf("build it with: cd %s && %s\n", dir, build)
	if text, err := os.ReadFile(filepath.Join(dir, src.Config.Declaration)); err == nil {
		file, _ := spec.Parse(src.Config.Declaration, text)
		if s := file.Service(src.Config.Service); s != nil && s.Build != nil && (filepath.IsAbs(s.Build.Context) || filepath.IsAbs(s.Build.Containerfile)) {
			a.printf("%s names a place of its own: the context is %s now, the Containerfile %s\n", src.Config.Declaration,
				filepath.Join(dir, src.Config.Context), filepath.Join(dir, src.Config.Containerfile))
		}
	}
	return nil
}

// origin says which image a build context was taken out of, or what was built from
// that since.
type origin struct {
	Version int          `json:"kiln_origin"` // 1
	Image   model.Digest `json:"image"`
	Service string       `json:"service"`
	Commit  string       `json:"commit,omitempty"`
}

func writeOrigin(dir *os.Root, o origin) error {
	o.Version = 1
	text, err := json.Marshal(o)
	if err == nil {
		err = dir.WriteFile(source.OriginFile, append(text, '\n'), 0o644)
	}
	if err != nil {
		return &exitError{exitFailed, model.Errorf(model.Unavailable, "cannot write down where %s comes from: %w", dir.Name(), readFailure(err))}
	}
	return nil
}

// originOf reads which image a build context goes on from; the zero value: none is
// known.
func (a *app) originOf(dir string) (o origin) {
	at := filepath.Join(dir, source.OriginFile)
	text, err := os.ReadFile(at)
	if errors.Is(err, fs.ErrNotExist) {
		return origin{}
	}
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err == nil && (o.Version != 1 || !model.ValidDigest(string(o.Image))) {
		err = errors.New("it names no image")
	}
	if err != nil {
		a.progressf("cannot read %s: %v; which image the build goes on from is told by commits, or by their order", at, readFailure(err))
		return origin{}
	}
	return o
}

// goesOn notes that what is built next from a context goes on from an image.
func (a *app) goesOn(dir string, o origin, built model.Digest) {
	if o.Image == "" || o.Image == built {
		return
	}
	o.Image, o.Commit = built, ""
	root, err := os.OpenRoot(dir)
	if err == nil {
		defer root.Close()
		err = writeOrigin(root, o)
	}
	if err != nil {
		a.progressf("%v", err)
	}
}

// seen is what an image is about to be built from.
type seen struct {
	tree source.Tree
	list source.Listing
	err  error // why it cannot be kept
}

// see lists what an image is about to be built from.
func (a *app) see(ctx context.Context, s *spec.Service, dir string) (x seen) {
	beside := filepath.Dir(a.opts.file)
	x.tree, x.err = source.Find(dir, s.Build.Containerfile, a.opts.file, a.lockPath(), filepath.Join(beside, api.AllowFile))
	if x.err == nil {
		x.tree.Without, x.err = a.secretFiles()
	}
	if x.err == nil {
		x.list, x.err = x.tree.List(ctx)
	}
	return x
}

// secretFiles are the files that the declaration takes secrets from, in plain text:
// they are kept nowhere.
func (a *app) secretFiles() (names []string, err error) {
	file, err := a.declaration()
	if err != nil {
		return nil, err
	}
	all := []*spec.File{file}
	for _, e := range file.Environments {
		all = append(all, file.In(e.Name))
	}
	for _, f := range all {
		for _, s := range f.Services {
			for _, x := range s.Secrets {
				if x.From.Kind != spec.FromFile {
					continue
				}
				name, err := filepath.Abs(a.besideDeclaration(x.From.Path))
				if err != nil {
					return nil, invalid("cannot find the file of secret %s: %w", x.Name, err)
				}
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// keepSource brings the daemon what an image was built from, if it is still the same.
// A build is none the worse where that cannot be: it is said.
func (a *app) keepSource(ctx context.Context, s *spec.Service, x seen, req api.BuildRequest, last *api.BuildEvent) {
	err := x.err
	if err == nil {
		err = a.sendSource(ctx, s, x, req, last)
	}
	if err != nil && ctx.Err() == nil {
		a.progressf("what image %s was built from is not kept: %v", last.Result.Image.Short(), err)
		if hint := model.HintOf(err); hint != "" {
			a.progressf("  %s", hint)
		}
	}
}

func (a *app) sendSource(ctx context.Context, s *spec.Service, x seen, req api.BuildRequest, last *api.BuildEvent) error {
	now, err := x.tree.List(ctx)
	if err != nil {
		return err
	}
	if name := x.list.Differs(now); name != "" {
		return model.Errorf(model.Conflict, "%s was changed during the build", name)
	}
	head := api.SourceHead{Allow: req.Allow, Config: api.SourceConfig{
		Service: req.Service, Declaration: a.within(x.tree, a.opts.file), Context: x.tree.Context,
		Containerfile: a.within(x.tree, s.Build.Containerfile), Target: req.Target, Args: req.Args,
	}}
	if !filepath.IsAbs(s.Build.Containerfile) {
		head.Config.Containerfile = path.Join(x.tree.Context, filepath.ToSlash(s.Build.Containerfile))
	}
	instead := map[string][]byte{}
	if last.Lock != "" && !a.opts.locked {
		instead[a.within(x.tree, a.lockPath())] = []byte(last.Lock)
	}
	archive, packed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := now.Pack(ctx, packed, instead)
		packed.CloseWithError(err)
		done <- err
	}()
	_, err = a.api().KeepSource(ctx, last.Result.Image, head, archive)
	archive.Close() // whatever came of it: nobody reads on
	if own, ok := errors.AsType[*model.Error](<-done); ok {
		return own
	}
	return err
}

// within is a path as an archive of the tree has it.
func (a *app) within(t source.Tree, name string) string {
	full, err := filepath.Abs(name)
	if err != nil {
		return filepath.ToSlash(name) // the tree was found by the same
	}
	return t.Rel(full)
}
