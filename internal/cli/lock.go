package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/lock"
	"kiln/internal/model"
	"kiln/internal/spec"
)

// relockOptions are how the lock file is made anew.
type relockOptions struct {
	only    []string // what is fetched anew; none: everything
	whole   bool     // every service's: what is wrong with the file does not matter
	changes []lock.Change
}

func (a *app) lockedFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.opts.locked, "locked", false, "build from "+api.LockFile+" alone, without a network, and refuse what is not in it")
}

func (a *app) lockCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "What the images are made from: make it anew, look whether it is here",
		Long: `kiln.lock, beside the declaration, says what images are made from: the digests of base images,
of what ADD fetches and, where a service says network = "locked", of all that its build has
fetched. kiln keeps the bytes, so that the same image can be built when nobody else has them.`,
		Example: "  kiln lock update\n  kiln lock verify",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVarP(&a.opts.file, "file", "f", defaultFile, "the declaration")
	f.StringVarP(&a.opts.where, "environment", "e", "", "the environment, of a declaration that has some (KILN_ENVIRONMENT)")
	cmd.AddCommand(a.lockUpdateCommand(), a.lockVerifyCommand())
	return cmd
}

func (a *app) lockUpdateCommand() *cobra.Command {
	var only []string
	cmd := &cobra.Command{
		Use:   "update [SERVICE…]",
		Short: "Build against the network, and lock what was fetched",
		Long: `Builds the image of each service anew against the network, writes down in kiln.lock what it was
made from, keeps the bytes, and shows what has changed. A build that fails changes nothing.

With --only, what the patterns mean is fetched anew, and everything else is taken from the lock: a
word that the name or URL has, or the whole of it with * for anything.

Standard output gets the changes; with --json one line for each service.`,
		Example: "  kiln lock update\n  kiln lock update shop\n  kiln lock update shop --only base/debian:12 --only 'https://deb.debian.org/*'",
		RunE: a.run(func(ctx context.Context, names []string) error {
			a.opts.relock = &relockOptions{only: only, whole: len(names) == 0 && len(only) == 0}
			services, err := a.toBuild(names)
			if err != nil {
				return err
			}
			if err := a.checkOnly(services, only); err != nil {
				return err
			}
			worst := exitDone
			for _, s := range services {
				if s.Build == nil {
					if len(names) > 0 {
						a.progressf("%s: nothing to lock: its image is not built, but taken as it is", s.Name)
					}
					continue
				}
				a.opts.relock.changes = []lock.Change{}
				m, err := a.make(ctx, s, how{})
				if err != nil {
					complain(a.Stderr, err)
					worst = max(worst, exitCode(err))
					continue
				}
				if err := a.relocked(s, m); err != nil {
					return err
				}
			}
			return exit(worst)
		}),
	}
	cmd.Flags().StringArrayVar(&only, "only", nil, "fetch anew what matches, and leave the rest as it is; may be given several times")
	return cmd
}

// checkOnly refuses patterns that mean nothing in the lock file.
func (a *app) checkOnly(services []*spec.Service, only []string) error {
	file, _, err := a.lockFile()
	if err != nil {
		return err
	}
	for _, pattern := range only {
		meant := false
		for _, s := range services {
			if section := file.Service(declaredName(s)); section != nil {
				meant = meant || slices.ContainsFunc(section.Entries, func(e lock.Entry) bool { return e.Matches(pattern) })
			}
		}
		if !meant {
			return invalid("nothing in %s matches %q", a.lockPath(), pattern).
				WithHint("a pattern is a word that a name or URL of the file has, or the whole of it with * for anything")
		}
	}
	return nil
}

// relocked prints what has changed for a service.
func (a *app) relocked(s *spec.Service, m *made) error {
	changes := a.opts.relock.changes
	if a.opts.json {
		return a.line(struct {
			Service string        `json:"service"`
			Image   model.Digest  `json:"image"`
			File    string        `json:"file"`
			Changes []lock.Change `json:"changes"`
		}{declaredName(s), m.digest, a.lockPath(), changes})
	}
	a.printf("%s  %s\n", declaredName(s), m.digest)
	if len(changes) == 0 {
		a.printf("  nothing has changed\n")
	}
	a.printChanges(a.Stdout, changes)
	return nil
}

// printChanges shows changes as a diff: each line as the file has it.
func (a *app) printChanges(w io.Writer, changes []lock.Change) {
	for _, c := range changes {
		if c.Before != nil {
			fmt.Fprintf(w, "  - %s\n", printable(c.Before.String()))
		}
		if c.After != nil {
			fmt.Fprintf(w, "  + %s\n", printable(c.After.String()))
		}
	}
}

// lockPath is where the lock file is.
func (a *app) lockPath() string { return filepath.Join(filepath.Dir(a.opts.file), api.LockFile) }

// lockFile reads the lock file; without one it is empty, as is its text.
func (a *app) lockFile() (*lock.File, string, error) {
	path := a.lockPath()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &lock.File{}, "", nil
	}
	if err != nil {
		return nil, "", invalid("cannot read %s: %w", path, readFailure(err))
	}
	file, err := lock.Parse(path, text)
	if err != nil && a.opts.relock != nil && a.opts.relock.whole {
		return &lock.File{}, "", nil // all of it is made anew
	}
	return file, string(text), err
}

// lockFor is what a build of the service is told of the lock file; nil: nothing.
func (a *app) lockFor(s *spec.Service) (*api.Lock, error) {
	file, text, err := a.lockFile()
	if err != nil {
		return nil, err
	}
	update := a.opts.relock
	if file.Service(declaredName(s)) == nil && s.Build.Network != spec.NetworkLocked && !a.opts.locked && update == nil {
		return nil, nil //nolint:nilnil // it has no lock
	}
	l := &api.Lock{File: a.lockPath(), Text: text, Sealed: a.opts.locked}
	if update != nil {
		l.Update, l.Only = true, update.only
	}
	return l, nil
}

// lockAfter writes down what a service's image was made from, if that is news.
func (a *app) lockAfter(s *spec.Service, asked *api.Lock, text string) error {
	if asked == nil || asked.Sealed || text == "" {
		return nil
	}
	path, name := a.lockPath(), declaredName(s)
	made, err := lock.Parse(path, []byte(text))
	if err != nil {
		return err
	}
	now, _, err := a.lockFile() // somebody may have written it meanwhile
	if err != nil {
		return err
	}
	section := made.Service(name)
	if section == nil {
		return nil
	}
	var before []lock.Entry
	known := now.Service(name)
	if known != nil {
		before = known.Entries
	}
	changes := lock.Diff(before, section.Entries)
	if a.opts.relock != nil {
		a.opts.relock.changes = changes
	}
	if known != nil && len(changes) == 0 {
		return nil
	}
	_, err = writeWhole(path, 0o644, func(w io.Writer) error {
		_, err := io.WriteString(w, now.With(name, section.Entries).String())
		return err
	})
	if err == nil && a.opts.relock == nil {
		a.progressf("%s: %s has changed: what is new there was fetched now", name, path)
		a.printChanges(a.Stderr, changes)
	}
	return err
}

func (a *app) lockVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [SERVICE…]",
		Short: "Whether everything that the lock file names is here",
		Long: `Looks whether kiln has every base image and all the bytes that kiln.lock names, and reads the bytes
whole. What is missing is told with its line, and the exit code is 1. With that done, kiln build
--locked needs nobody.`,
		Example: "  kiln lock verify\n  kiln lock verify shop --json",
		RunE: a.run(func(ctx context.Context, names []string) error {
			file, text, err := a.lockFile()
			if err != nil {
				return err
			}
			if text == "" {
				return invalid("there is no %s", a.lockPath()).WithHint("kiln lock update writes one")
			}
			if len(names) == 0 {
				for _, s := range file.Services {
					names = append(names, s.Name)
				}
			}
			worst := exitDone
			for _, name := range names {
				s := file.Service(name)
				if s == nil {
					return invalid("%s has no service %q", a.lockPath(), name).WithHint("kiln lock update %s locks it", name)
				}
				whole, err := a.verifyLock(ctx, s)
				if err != nil {
					return err
				}
				if !whole {
					worst = exitFailed
				}
			}
			return exit(worst)
		}),
	}
}

// lackingEntry is an entry that kiln cannot build from.
type lackingEntry struct {
	lock.Entry
	Line int    `json:"line"`
	Why  string `json:"why"`
}

// verifyLock looks for what a service is made from, and prints what it finds.
func (a *app) verifyLock(ctx context.Context, s *lock.Service) (whole bool, err error) {
	req := api.InputsRequest{Digests: []model.Digest{}}
	bytes := int64(0)
	for _, e := range s.Entries {
		if e.Kind != lock.Base && e.Digest != "" && !slices.Contains(req.Digests, e.Digest) {
			req.Digests = append(req.Digests, e.Digest)
			bytes += e.Size
		}
	}
	report, err := a.api().Inputs(ctx, req)
	if err != nil {
		return false, err
	}
	lacking := []lackingEntry{}
	for _, e := range s.Entries {
		why := ""
		switch {
		case e.Kind == lock.Base:
			if why, err = a.verifyBase(ctx, e); err != nil {
				return false, err
			}
		case slices.Contains(report.Absent, e.Digest):
			why = "its bytes are not here"
		case slices.Contains(report.Damaged, e.Digest):
			why = "its bytes were changed on the disk"
		case e.Kind == lock.Git && e.Digest == "":
			why = "the file names no bundle"
		}
		if why != "" {
			lacking = append(lacking, lackingEntry{e, e.Line, why})
		}
	}
	if a.opts.json {
		return len(lacking) == 0, a.line(struct {
			Service string         `json:"service"`
			Entries int            `json:"entries"`
			Bytes   int64          `json:"bytes"`
			Whole   bool           `json:"whole"`
			Lacking []lackingEntry `json:"lacking"`
		}{s.Name, len(s.Entries), bytes, len(lacking) == 0, lacking})
	}
	for _, l := range lacking {
		a.printf("%s:%d: %s %s: %s\n", a.lockPath(), l.Line, l.Kind, printable(l.Name), l.Why)
	}
	verdict := "all of it is here"
	if len(lacking) > 0 {
		verdict = fmt.Sprintf("%d are lacking", len(lacking))
	}
	a.printf("%s  %d entries, %s: %s\n", s.Name, len(s.Entries), model.SizeText(bytes), verdict)
	return len(lacking) == 0, nil
}

// verifyBase says what is wrong with a base image; "": nothing.
func (a *app) verifyBase(ctx context.Context, e lock.Entry) (string, error) {
	img, err := a.api().Image(ctx, e.Name)
	switch {
	case model.CodeOf(err) == model.NotFound:
		return "the image is not here", nil
	case err != nil:
		return "", err
	case !img.RemovedAt.IsZero():
		return "the image was removed", nil
	case img.Digest != e.Digest:
		return "the image of that name is " + string(img.Digest) + ", and the lock says " + string(e.Digest), nil
	}
	return "", nil
}
