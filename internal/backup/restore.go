package backup

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/journal"
	"kiln/internal/model"
)

const (
	// restoringDir is where a restore writes until everything has been checked.
	restoringDir = ".restoring"
	// PendingDir is where, in a data directory, the images of a restore wait for
	// the daemon, which takes them into its store.
	PendingDir = "restored-images"
	// pendingList says which images those are.
	pendingList = "images.json"
)

// Restorer is who restores.
type Restorer struct {
	Version string // of this kiln
	Now     time.Time
	Allow   func(model.InstanceID) error // whether the instance may be restored here; nil: yes
}

// Restore makes a data directory of an archive. Everything is written beside
// its place and checked; only then it comes to be what the daemon reads, the
// journal last. Precondition: there is something already.
func Restore(ctx context.Context, r io.Reader, req api.RestoreRequest, by Restorer) (report *api.RestoreReport, err error) {
	made, err := vacant(ctx, req)
	if err != nil {
		return nil, err
	}
	tmp := filepath.Join(req.DataDir, restoringDir)
	defer func() {
		err = errors.Join(err, os.RemoveAll(tmp))
		if err != nil && made {
			_ = os.Remove(req.DataDir) // it was made for this, and is empty
		}
	}()
	if err := os.RemoveAll(tmp); err != nil {
		return nil, cannotWrite(err)
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, cannotWrite(err)
	}
	rebuilt, err := journal.NewRebuild(ctx, filepath.Join(tmp, "journal"))
	if err != nil {
		return nil, err
	}
	defer rebuilt.Close()
	m, key, signedHeads, err := read(ctx, r, &unpacker{dir: tmp, journal: rebuilt})
	if err != nil {
		return nil, err
	}
	report = &api.RestoreReport{BackupReport: *m.report(), DataDir: req.DataDir}
	report.Key, report.Signed, report.Volumes = hex.EncodeToString(key), signedHeads, volumesOf(rebuilt.Chain().State())
	if err := belongs(req, m.Instance); err != nil {
		return nil, err
	}
	if by.Allow != nil {
		if err := by.Allow(m.Instance); err != nil {
			return nil, err
		}
	}
	if report.Epoch, err = rebuilt.Finish(ctx, by.Version, m.MadeAt, by.Now); err != nil {
		return nil, err
	}
	report.Kept, err = settle(req, tmp, m, by.Now)
	return report, err
}

// vacant refuses a data directory in which a restore would destroy something,
// and makes one that is absent.
func vacant(ctx context.Context, req api.RestoreRequest) (made bool, err error) {
	entries, err := os.ReadDir(req.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		if req.Journal {
			return false, model.Errorf(model.Precondition, "cannot restore the journal alone: there is no %s", req.DataDir).
				WithHint("without --journal everything of the backup is restored")
		}
		if err := os.MkdirAll(req.DataDir, 0o711); err != nil {
			return false, cannotWrite(err)
		}
		return true, nil
	}
	if err != nil {
		return false, cannotWrite(err)
	}
	if req.Journal {
		return false, mendable(ctx, req.DataDir)
	}
	for _, e := range entries {
		if e.Name() != restoringDir && e.Name() != "lost+found" {
			return false, model.Errorf(model.Precondition, "cannot restore to %s: it is not empty: there is %s", req.DataDir, e.Name()).
				WithHint("Choose another --data-dir, or move this one away once nothing of its kiln runs. " +
					"If only its journal is damaged or lost: kiln restore FILE --data-dir DIRECTORY --journal keeps images and servers.")
		}
	}
	return false, nil
}

// mendable refuses to replace a journal that a daemon uses, or that is whole.
func mendable(ctx context.Context, dataDir string) error {
	dir := filepath.Join(dataDir, "journal")
	if entries, err := os.ReadDir(dir); errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	report, err := journal.VerifyFile(ctx, dir)
	switch {
	case model.CodeOf(err) == model.Conflict:
		return err
	case err != nil, !report.Whole():
		return nil //nolint:nilerr // what cannot be verified is what a restore mends
	}
	return model.Errorf(model.Precondition, "cannot restore the journal of %s: it is whole, with %d events, and nothing of it has to be given up", dataDir, report.Events).
		WithHint("start the daemon; to go back on purpose, move %s away first", dir)
}

// belongs refuses a journal of another instance than the data directory's.
func belongs(req api.RestoreRequest, id model.InstanceID) error {
	if !req.Journal {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(req.DataDir, "instance"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cannotWrite(err)
	}
	if is := strings.TrimSpace(string(b)); is != string(id) {
		return model.Errorf(model.Conflict, "cannot restore the journal of %s: it is of instance %s, and the backup is of %s", req.DataDir, is, id).
			WithHint("use a backup of that instance, or restore this one to an empty --data-dir")
	}
	return nil
}

// settle moves what was written to its place, the journal last but for the
// instance's id, and returns where a damaged journal is kept.
func settle(req api.RestoreRequest, tmp string, m *manifest, now time.Time) (kept string, err error) {
	if len(m.Images) > 0 {
		list, err := json.Marshal(m.Images)
		if err != nil {
			return "", cannotWrite(err)
		}
		if err := os.WriteFile(filepath.Join(tmp, "images", pendingList), list, 0o600); err != nil {
			return "", cannotWrite(err)
		}
	}
	moves := [][2]string{{"images", PendingDir}, {"certificates", "certificates"}, {"evidence", "evidence"}, {"vault", "vault"}, {AlertsFile, AlertsFile}, {RegistryFile, RegistryFile}, {SigningKey, SigningKey}, {"journal", "journal"}, {"instance", "instance"}}
	for _, move := range moves {
		from, to := filepath.Join(tmp, move[0]), filepath.Join(req.DataDir, move[1])
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if req.Journal && slices.Contains(declaredFiles, move[1]) {
			continue // whoever took it away since the backup meant that
		}
		if _, err := os.Lstat(to); err == nil {
			switch move[1] {
			case "journal":
				kept = to + ".damaged-" + now.UTC().Format("20060102T150405Z")
				if err := os.Rename(to, kept); err != nil {
					return "", cannotWrite(err)
				}
			case PendingDir: // of a restore before this one
				if err := os.RemoveAll(to); err != nil {
					return "", cannotWrite(err)
				}
			default:
				continue // the data directory's own
			}
		}
		if err := os.Rename(from, to); err != nil {
			return "", cannotWrite(err)
		}
	}
	if err := syncDir(req.DataDir); err != nil {
		return "", cannotWrite(err)
	}
	return kept, nil
}

func cannotWrite(err error) error {
	return model.Errorf(model.Unavailable, "cannot restore: %w", err)
}

// unpacker is a sink that writes a data directory.
type unpacker struct {
	dir     string
	journal *journal.Rebuild
}

func (u *unpacker) events(ctx context.Context, lines []byte) error { return u.journal.Add(ctx, lines) }

func (u *unpacker) chain() *journal.Chain { return u.journal.Chain() }

func (u *unpacker) file(name string, content io.Reader) error {
	if seal, ok := strings.CutPrefix(name, journalDir); ok {
		b, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return u.journal.Seal(seal, b)
	}
	path := filepath.Join(u.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return cannotWrite(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return cannotWrite(err)
	}
	_, err = io.Copy(diskWriter{f}, content)
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return cannotWrite(err)
	}
	return err
}

// diskWriter tells a disk that is full from an archive that is damaged.
type diskWriter struct{ f *os.File }

func (d diskWriter) Write(p []byte) (int, error) {
	n, err := d.f.Write(p)
	if err != nil {
		err = cannotWrite(err)
	}
	return n, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Pending is the images that a restore left for the daemon.
type Pending struct {
	dir    string
	Images []api.BackupImage
}

// Layout is the OCI layout that holds them.
func (p *Pending) Layout() fs.FS { return os.DirFS(p.dir) }

// Done removes them.
func (p *Pending) Done() error { return os.RemoveAll(p.dir) }

// PendingImages returns what a restore left, nil if nothing.
func PendingImages(dataDir string) (*Pending, error) {
	p := &Pending{dir: filepath.Join(dataDir, PendingDir)}
	b, err := os.ReadFile(filepath.Join(p.dir, pendingList))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p.Images)
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read the restored images: %w", err)
	}
	slices.SortFunc(p.Images, func(a, b api.BackupImage) int { return strings.Compare(string(a.Image), string(b.Image)) })
	return p, nil
}

// MissingImages lists the images that releases need, by what a journal's state
// says, and that there says are not there.
func MissingImages(s *model.State, there func(model.Digest) bool) []api.BackupImage {
	return slices.DeleteFunc(neededImages(s), func(img api.BackupImage) bool { return there(img.Image) })
}
