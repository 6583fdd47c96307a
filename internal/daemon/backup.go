package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/backup"
	"kiln/internal/journal"
	"kiln/internal/model"
)

// backups makes backups of the running instance for the API.
type backups struct{ src backup.Source }

// Write implements server.Backups.
func (b backups) Write(ctx context.Context, w io.Writer, req api.BackupRequest) (*api.BackupReport, error) {
	return backup.Write(ctx, w, b.src, req)
}

// VerifyBackup checks a backup. It needs no daemon.
func VerifyBackup(ctx context.Context, r io.Reader) (*api.BackupReport, error) {
	return backup.Verify(ctx, r)
}

// Restore makes a data directory of a backup. It needs no daemon.
func Restore(ctx context.Context, r io.Reader, req api.RestoreRequest, version string) (*api.RestoreReport, error) {
	return backup.Restore(ctx, r, req, backup.Restorer{Version: version, Now: time.Now(), Allow: func(id model.InstanceID) error {
		if req.Journal || !running(RunDir(id)) {
			return nil
		}
		return stillRuns(id, "the data directory that they were started with")
	}})
}

// journalThere refuses a data directory whose journal is gone: to begin anew
// there would end everything that runs as nobody's.
func journalThere(dataDir string) error {
	id, err := os.ReadFile(filepath.Join(dataDir, "instance"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a new one
	}
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot read the instance id: %w", err)
	}
	entries, err := os.ReadDir(filepath.Join(dataDir, "journal"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return model.Errorf(model.Precondition, "cannot start: the journal of instance %s is gone from %s", strings.TrimSpace(string(id)), dataDir).
			WithHint("Servers and traffic go on without the daemon. Put the journal back from a backup: kiln restore FILE --data-dir %s --journal. "+
				"To begin anew without all that was: kiln daemon with another --data-dir.", dataDir)
	}
	return nil
}

// takeIn takes the images of a restore into the store. What cannot be taken in,
// for want of room perhaps, is said and waits for the next start: servers of
// the other images need not.
func (d *daemon) takeIn(ctx context.Context) {
	pending, err := backup.PendingImages(d.cfg.DataDir)
	if err != nil {
		d.cfg.Log.Error("cannot take in the images of the backup; trying again at the next start", "error", err)
	}
	if pending == nil {
		return
	}
	all := true
	for i, img := range pending.Images {
		d.cfg.Log.Info("taking in an image of the backup", "image", string(img.Image), "number", i+1, "of", len(pending.Images), "bytes", img.Size)
		if err := d.images.Restore(ctx, pending.Layout(), img.Image, img.Names, img.Source); err != nil {
			d.cfg.Log.Error("cannot take in an image of the backup; trying again at the next start", "image", string(img.Image), "error", err)
			all = false
		}
	}
	if !all {
		return
	}
	if err := pending.Done(); err != nil {
		d.cfg.Log.Warn("cannot remove the restored images, which are in the store now", "error", err)
	}
}

// complainOfImages says which images releases need that are not there.
func (d *daemon) complainOfImages(ctx context.Context) {
	all, err := d.images.List(ctx)
	if err != nil {
		d.cfg.Log.Warn("cannot list the images", "error", err)
		return
	}
	there := map[model.Digest]bool{}
	for _, img := range all {
		there[img.Digest] = true
	}
	for _, img := range backup.MissingImages(d.state, func(digest model.Digest) bool { return there[digest] }) {
		d.cfg.Log.Error("an image is missing: get it with kiln images import or kiln images pull, or build it again",
			"image", string(img.Image), "names", strings.Join(img.Names, " "), "source", img.Source, "used_by", strings.Join(img.UsedBy, ", "))
	}
}

// arguments are those with which this daemon would be started again, for who
// restores its backup elsewhere.
func (c Config) arguments() []string {
	args := map[string]string{"--data-dir": c.DataDir, "--socket": c.Socket}
	if c.ServerNet.IsValid() {
		args["--server-net"] = c.ServerNet.String()
	}
	if c.ServiceNet.IsValid() {
		args["--service-net"] = c.ServiceNet.String()
	}
	if c.Runtime != "" {
		args["--runtime"] = c.Runtime
	}
	if c.BuildMemory > 0 {
		args["--build-memory"] = strconv.FormatInt(c.BuildMemory, 10) + "B"
	}
	list := []string{"daemon"}
	for _, name := range slices.Sorted(maps.Keys(args)) {
		list = append(list, name, args[name])
	}
	return list
}

// source is what a backup of this daemon is made of.
func (d *daemon) source(j *journal.Journal) backup.Source {
	return backup.Source{Journal: j, Images: d.images, DataDir: d.cfg.DataDir, Version: d.cfg.Version, Daemon: d.cfg.arguments()}
}
