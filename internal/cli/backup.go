package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (a *app) backupCommand() *cobra.Command {
	var noImages, evidence bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all that this kiln is into one archive, while it runs",
		Long: `Writes a consistent copy of the journal with its keys, the instance's id, its certificates and
the images of the releases that are in service or can be rolled back to; what volumes hold is for
"kiln volumes backup". Deployments go on meanwhile. The archive is checked while it is written, and FILE appears when it is whole; "-"
writes to standard output. Whoever has the archive has the keys.`,
		Example: "  kiln backup /backup/kiln-monday.tar.zst\n  kiln backup --no-images - | ssh backup 'cat > kiln.tar.zst'\n  kiln backup verify /backup/kiln-monday.tar.zst",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.backup(ctx, args[0], api.BackupRequest{Images: !noImages, Evidence: evidence})
		}),
	}
	cmd.Flags().BoolVar(&noImages, "no-images", false, "leave the images out; they have to be had elsewhere for a restore")
	cmd.Flags().BoolVar(&evidence, "evidence", false, "take along what ended servers left")
	cmd.AddCommand(&cobra.Command{
		Use:   "verify FILE",
		Short: "Check a backup; no daemon is needed",
		Long: `Reads a backup from its first byte to its last: every file's digest, the journal's chain, the
signed heads, the signature of the whole, and that its images are complete.`,
		Example: "  kiln backup verify /backup/kiln-monday.tar.zst\n  ssh backup cat kiln.tar.zst | kiln backup verify -",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			f, err := a.open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			report, err := a.Roles.VerifyBackup(ctx, f)
			if err != nil {
				return err
			}
			report.File, report.Bytes = args[0], sizeOf(f)
			return a.backupResult(report, "is whole")
		}),
	})
	return cmd
}

// sizeOf returns the size of what is a file, else 0.
func sizeOf(f io.Reader) int64 {
	if s, ok := f.(interface{ Stat() (os.FileInfo, error) }); ok {
		if st, err := s.Stat(); err == nil {
			return st.Size()
		}
	}
	return 0
}

func (a *app) backup(ctx context.Context, file string, req api.BackupRequest) error {
	if file == "-" {
		if isTerminal(a.Stdout) {
			return usagef("standard output is a terminal: name a file, or pipe the backup elsewhere")
		}
		report, err := a.copyBackup(ctx, req, a.Stdout)
		if err != nil {
			return err
		}
		a.progressf("backup of instance %s up to event %d, %s", report.Instance, report.Seq, model.SizeText(report.Bytes))
		return nil
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	var report *api.BackupReport
	_, err = writeWhole(path, 0o600, func(w io.Writer) (err error) {
		report, err = a.copyBackup(ctx, req, w)
		return err
	})
	if err != nil {
		return err
	}
	report.File = path
	return a.backupResult(report, "written")
}

// copyBackup copies a backup to w and checks it on the way: what is reported is
// what was read in it.
func (a *app) copyBackup(ctx context.Context, req api.BackupRequest, w io.Writer) (*api.BackupReport, error) {
	type verdict struct {
		report *api.BackupReport
		err    error
	}
	r, check := io.Pipe()
	checked := make(chan verdict, 1)
	go func() {
		report, err := a.Roles.VerifyBackup(ctx, r)
		_, _ = io.Copy(io.Discard, r) // what is copied is not held up by what it is
		checked <- verdict{report, err}
	}()
	progress := &progress{a: a}
	err := a.api().Backup(ctx, req, io.MultiWriter(w, check, progress))
	_ = check.CloseWithError(err) // nil: the end of it
	v := <-checked
	progress.end()
	if err != nil {
		return nil, err
	}
	if v.err != nil {
		return nil, v.err
	}
	v.report.Bytes = progress.n
	return v.report, nil
}

// progress shows on a terminal how much was written.
type progress struct {
	a     *app
	n     int64
	shown time.Time
}

func (p *progress) Write(b []byte) (int, error) {
	p.n += int64(len(b))
	if isTerminal(p.a.Stderr) && time.Since(p.shown) > 200*time.Millisecond {
		p.shown = time.Now()
		fmt.Fprintf(p.a.Stderr, "\r\x1b[K%s", model.SizeText(p.n))
	}
	return len(b), nil
}

func (p *progress) end() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.a.Stderr, "\r\x1b[K")
	}
}

func (a *app) backupResult(r *api.BackupReport, verdict string) error {
	if a.opts.json {
		return a.document(r)
	}
	a.printf("%s %s: instance %s, made %s by kiln %s, journal up to event %d (%s)\n",
		r.File, verdict, r.Instance, stamp(r.MadeAt), r.Version, r.Seq, r.Hash[:min(12, len(r.Hash))])
	a.listBackup(r)
	return nil
}

func (a *app) listBackup(r *api.BackupReport) {
	for _, img := range r.Images {
		a.printf("  image %s  %s  %s  %s\n", img.Image.Short(), model.SizeText(img.Size), orDash(strings.Join(img.Names, " ")), strings.Join(img.UsedBy, ", "))
	}
	for _, img := range r.Missing {
		a.printf("  without image %s  %s  %s\n", img.Image.Short(), orDash(strings.Join(img.Names, " ")), strings.Join(img.UsedBy, ", "))
	}
	a.tellVolumes(r.Volumes)
}

// tellVolumes names the volumes of which a backup holds nothing.
func (a *app) tellVolumes(names []string) {
	for _, name := range names {
		a.printf("  without what volume %s holds: kiln volumes backup writes it, kiln volumes import brings it back\n", name)
	}
}

func (a *app) restoreCommand() *cobra.Command {
	var journal bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a data directory of a backup",
		Long: `Checks a backup and makes a data directory of it. The next daemon there has the same releases,
history and certificates, takes over what still runs of the instance on this machine, and makes
what is missing from the images in the backup. No daemon may run there, and the directory has
to be absent or empty; with --journal it is there, and only its journal, damaged or lost, is put
back: images and servers stay. What happened after the backup was made is lost.`,
		Example: "  kiln restore /backup/kiln-monday.tar.zst\n  kiln restore kiln.tar.zst --data-dir /srv/kiln\n  kiln restore kiln.tar.zst --journal",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			dir, err := filepath.Abs(a.dataDir())
			if err != nil {
				return err
			}
			f, err := a.open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			report, err := a.Roles.Restore(ctx, f, api.RestoreRequest{DataDir: dir, Journal: journal})
			if err != nil {
				return err
			}
			report.File, report.Bytes = args[0], sizeOf(f)
			return a.restoreResult(report)
		}),
	}
	cmd.Flags().BoolVar(&journal, "journal", false, "put back the journal alone, into a data directory that is there")
	return cmd
}

func (a *app) restoreResult(r *api.RestoreReport) error {
	if a.opts.json {
		return a.document(r)
	}
	a.printf("%s: instance %s as of %s, journal up to event %d\n", r.DataDir, r.Instance, stamp(r.MadeAt), r.Seq)
	a.listBackup(&r.BackupReport)
	if r.Kept != "" {
		a.printf("the damaged journal is kept in %s\n", r.Kept)
	}
	if len(r.Missing) > 0 {
		a.printf("the images above that are missing have to be had before their servers can run: kiln images import, kiln images pull, or build them again\n")
	}
	a.printf("start it with: kiln %s\n", strings.Join(commandFor(r), " "))
	return nil
}

// commandFor returns the arguments of the daemon as they were, but for where it
// lives now.
func commandFor(r *api.RestoreReport) []string {
	args := []string{"daemon", "--data-dir", r.DataDir}
	for i := 1; i+1 < len(r.Daemon); i += 2 {
		flag, value := r.Daemon[i], r.Daemon[i+1]
		if flag != "--data-dir" && (flag != "--socket" || filepath.Base(value) != "kiln.sock") {
			args = append(args, flag, value)
		}
	}
	return args
}
