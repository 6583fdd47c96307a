package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/engine/local/filetree"
	"kiln/internal/model"
)

var _ engine.Volumes = (*Engine)(nil)

// A volume is a directory of the data directory:
//
//	volumes/SERVICE/NAME/volume.json    what it was made as
//	volumes/SERVICE/NAME/fs/            its content
//	volumes/SERVICE/NAME/fs.new, .old   of an interrupted change of the content
//	volumes/SERVICE/NAME/snapshots/ID/  the content as it was
//
// The ids that files belong to are the server's own: a server with a user
// namespace sees it through a mount that maps them, so that no file has to be
// changed when the next server has another range.
type volumeDir string

const volumeFile = "volume.json"

func (c Config) volumesDir() string { return filepath.Join(c.DataDir, "volumes") }
func (c Config) volume(service, name string) volumeDir {
	return volumeDir(filepath.Join(c.volumesDir(), service, name))
}

// exportPrefix begins the name of a copy that is written as an archive.
const exportPrefix = "export-"

func (d volumeDir) content() string           { return filepath.Join(string(d), "fs") }
func (d volumeDir) fresh() string             { return filepath.Join(string(d), "fs.new") }
func (d volumeDir) old() string               { return filepath.Join(string(d), "fs.old") }
func (d volumeDir) snapshots() string         { return filepath.Join(string(d), "snapshots") }
func (d volumeDir) snapshot(id string) string { return filepath.Join(d.snapshots(), id) }

// volumeRecord is what volume.json holds.
type volumeRecord struct {
	Service   string             `json:"service"`
	Name      string             `json:"name"`
	Access    model.VolumeAccess `json:"access"`
	Size      int64              `json:"size,omitempty"`
	CreatedAt time.Time          `json:"created_at"`
}

func (d volumeDir) record() (r volumeRecord, err error) {
	b, err := os.ReadFile(filepath.Join(string(d), volumeFile))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// removeDrafts removes copies of volumes that a daemon which was killed had not
// finished: of archives on their way out, and of snapshots. Nobody has one yet.
func (e *Engine) removeDrafts() {
	for _, left := range []string{exportPrefix + "*", filepath.Join("snapshots", ".*")} {
		drafts, _ := filepath.Glob(filepath.Join(e.volumesDir(), "*", "*", left)) // the pattern is none that could be bad
		for _, draft := range drafts {
			e.Log.Info("removing a copy of a volume that was not finished", "path", draft)
			if err := os.RemoveAll(draft); err != nil {
				e.Log.Warn("cannot remove a copy of a volume that was not finished", "path", draft, "error", err)
			}
		}
	}
}

// lockVolume has one change of a volume at a time.
func (e *Engine) lockVolume(ctx context.Context, service, name string) (func(), error) {
	return e.locks.lock(ctx, model.ServerID("volume/"+service+"/"+name))
}

// holders returns the servers that have the volume: all whose process may run.
func holders(records []*record, service, name string, but model.ServerID) (ids []model.ServerID, single bool) {
	for _, r := range records {
		if r.Template.Service != service || r.Exit != nil || r.ID == but {
			continue
		}
		for _, m := range r.Template.Volumes {
			if m.Volume == name {
				ids = append(ids, r.ID)
				single = single || m.Access != model.Shared
			}
		}
	}
	slices.Sort(ids)
	return ids, single
}

// mayHaveLocked refuses a server whose volume another has, where either needs
// it alone.
func (e *Engine) mayHaveLocked(id model.ServerID, t model.Template) error {
	if len(t.Volumes) == 0 {
		return nil
	}
	records := make([]*record, 0, len(e.servers))
	for _, s := range e.servers {
		records = append(records, s.record)
	}
	for _, m := range t.Volumes {
		others, single := holders(records, t.Service, m.Volume, id)
		if len(others) > 0 && (single || m.Access != model.Shared) {
			return model.Errorf(model.Unavailable, "volume %s of %s is had by %s, and is one server's at a time", m.Volume, t.Service, others[0])
		}
	}
	return nil
}

// owner is whom a new volume belongs to, and who may enter it.
type owner struct {
	uid, gid uint32
	mode     os.FileMode
}

// volumeOwner is the owner of the image's directory at the place; where that is
// root, the user that the server runs as, who could not write to it otherwise.
func (p *plan) volumeOwner(at string) owner {
	o, found := p.owners[at]
	if !found || o.uid == 0 {
		o.uid, o.gid = p.user.UID, p.user.GID
	}
	if o.mode == 0 {
		o.mode = 0o755
	}
	return o
}

// ensureVolume makes the volume where there is none, and has its bound be the
// declared one.
func (e *Engine) ensureVolume(ctx context.Context, r *record, p *plan, m model.Mount) error {
	unlock, err := e.lockVolume(ctx, r.Template.Service, m.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	d := e.volume(r.Template.Service, m.Volume)
	if err := d.settle(); err != nil {
		return fmt.Errorf("cannot bring volume %s in order: %w", m.Volume, err)
	}
	if _, err := os.Stat(d.content()); errors.Is(err, os.ErrNotExist) {
		if err := d.make(p.volumeOwner(filepath.Clean(m.Path))); err != nil {
			return fmt.Errorf("cannot make volume %s: %w", m.Volume, err)
		}
		e.Log.Info("made a volume", "service", r.Template.Service, "volume", m.Volume)
	} else if err != nil {
		return err
	}
	was, err := d.record()
	if err != nil || was.Access != m.Access || was.Size != m.Size {
		if was.CreatedAt.IsZero() {
			was.CreatedAt = time.Now().UTC()
		}
		now := volumeRecord{Service: r.Template.Service, Name: m.Volume, Access: m.Access, Size: m.Size, CreatedAt: was.CreatedAt}
		if err := d.write(now); err != nil {
			return fmt.Errorf("cannot record volume %s: %w", m.Volume, err)
		}
	}
	if err := bound(d.content(), e.project(r.Template.Service, m.Volume), m.Size); err != nil && m.Size > 0 {
		e.Log.Warn("the size of a volume cannot be enforced", "service", r.Template.Service, "volume", m.Volume, "error", err)
	}
	return nil
}

func (d volumeDir) make(o owner) error {
	if err := os.MkdirAll(d.snapshots(), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(d.fresh()); err != nil {
		return err
	}
	if err := os.Mkdir(d.fresh(), 0o700); err != nil {
		return err
	}
	if err := os.Chown(d.fresh(), int(o.uid), int(o.gid)); err != nil {
		return err
	}
	if err := os.Chmod(d.fresh(), o.mode); err != nil {
		return err
	}
	return os.Rename(d.fresh(), d.content())
}

func (d volumeDir) write(r volumeRecord) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(string(d), volumeFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// settle ends a change of the content that was interrupted: the old content
// stays where the new one was not in place.
func (d volumeDir) settle() error {
	_, err := os.Stat(d.content())
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Rename(d.old(), d.content()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return errors.Join(os.RemoveAll(d.fresh()), os.RemoveAll(d.old()))
}

// replace puts what is in fresh into the content's place. The caller has seen
// to it that no server has the volume.
func (d volumeDir) replace() error {
	if err := syncFS(d.fresh()); err != nil {
		return err
	}
	if err := os.Rename(d.content(), d.old()); err != nil {
		return err
	}
	if err := os.Rename(d.fresh(), d.content()); err != nil {
		return errors.Join(err, os.Rename(d.old(), d.content()))
	}
	if err := syncFS(string(d)); err != nil {
		return err
	}
	return os.RemoveAll(d.old())
}

// syncFS makes everything on the directory's file system durable.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// volumeMount is where the volume is taken from when the server starts: it is
// mounted there with the server's ids until the server has it.
func (c Config) volumeMount(id model.ServerID, name string) string {
	return filepath.Join(c.mountsDir(), string(id)+"."+name)
}

func (e *Engine) volumeMounts(r *record) []specs.Mount {
	mounts := make([]specs.Mount, 0, len(r.Template.Volumes))
	for _, m := range r.Template.Volumes {
		mounts = append(mounts, specs.Mount{
			Destination: filepath.Clean(m.Path), Type: "bind", Source: e.volumeMount(r.ID, m.Volume),
			Options: []string{"bind", "rw", "nosuid", "nodev"},
		})
	}
	return mounts
}

// giveVolumes makes what the server's volumes need, and mounts them where its
// process is started from. The caller calls release when it has started.
func (e *Engine) giveVolumes(ctx context.Context, r *record, p *plan) (release func(), err error) {
	var mounted []string
	release = func() {
		for _, at := range mounted {
			_ = unix.Unmount(at, unix.MNT_DETACH)
			_ = os.Remove(at) // what stays is removed when the engine is opened
		}
	}
	for _, m := range r.Template.Volumes {
		if err := e.ensureVolume(ctx, r, p, m); err != nil {
			release()
			return nil, err
		}
		at := e.volumeMount(r.ID, m.Volume)
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			release()
			return nil, err
		}
		mounted = append(mounted, at)
		if err := e.mountVolume(r, m, at); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

func (e *Engine) mountVolume(r *record, m model.Mount, at string) error {
	content := e.volume(r.Template.Service, m.Volume).content()
	if r.IDs == 0 {
		return unix.Mount(content, at, "", unix.MS_BIND, "")
	}
	space, err := os.Open(e.userns(r.ID))
	if err != nil {
		return err
	}
	defer space.Close()
	if err := mount.IDMapMountWithAttrs(content, at, int(space.Fd()), unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, 0); err != nil {
		return model.Errorf(model.Precondition, "cannot map the ids of volume %s: %w", m.Volume, err).
			WithHint("the data directory has to lie on a file system that can be mounted with mapped ids (ext4, xfs, btrfs; Linux 5.19 or newer), or user_namespace = false")
	}
	return nil
}

// ObserveVolumes implements engine.Volumes.
func (e *Engine) ObserveVolumes(ctx context.Context) ([]engine.VolumeObserved, error) {
	dirs, err := filepath.Glob(filepath.Join(e.volumesDir(), "*", "*", volumeFile))
	if err != nil {
		return nil, err
	}
	clones := len(dirs) > 0 && filetree.CanClone(e.volumesDir())
	records := e.records()
	all := make([]engine.VolumeObserved, 0, len(dirs))
	for _, file := range dirs {
		d := volumeDir(filepath.Dir(file))
		r, err := d.record()
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", file, err)
		}
		o := engine.VolumeObserved{Service: r.Service, Name: r.Name, Path: d.content(), CanCopy: clones}
		o.Servers, _ = holders(records, r.Service, r.Name, "")
		if o.Used, o.Free, o.Bounded, err = e.room(ctx, d, r); err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(d.snapshots())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), ".") {
				o.Snapshots = append(o.Snapshots, entry.Name())
			}
		}
		all = append(all, o)
	}
	return all, nil
}

// room returns what a volume uses, and what it still may.
func (e *Engine) room(ctx context.Context, d volumeDir, r volumeRecord) (used, free int64, bounded bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(string(d), &st); err != nil {
		return 0, 0, false, fmt.Errorf("cannot see how much room there is in %s: %w", d, err)
	}
	free = int64(st.Bavail) * st.Bsize
	if r.Size > 0 {
		if used, limit, err := quota(d.content(), e.project(r.Service, r.Name)); err == nil && limit > 0 {
			return used, max(0, min(free, limit-used)), true, nil
		}
	}
	used, err = filetree.Usage(ctx, d.content())
	if err != nil {
		return 0, 0, false, fmt.Errorf("cannot see how large %s is: %w", d.content(), err)
	}
	return used, free, false, nil
}

// found refuses what is no volume.
func (e *Engine) found(service, name string) (volumeDir, error) {
	if !model.ValidServiceName(service) || !model.ValidServiceName(name) {
		return "", model.Errorf(model.NotFound, "%s has no volume %q", service, name)
	}
	d := e.volume(service, name)
	if _, err := os.Stat(filepath.Join(string(d), volumeFile)); err != nil {
		return "", model.Errorf(model.NotFound, "%s has no volume %q", service, name)
	}
	return d, nil
}

// unheld refuses a volume that a server has.
func (e *Engine) unheld(service, name, what string) error {
	if ids, _ := holders(e.records(), service, name, ""); len(ids) > 0 {
		return model.Errorf(model.Precondition, "cannot %s volume %s of %s: server %s has it", what, name, service, ids[0]).
			WithHint("kiln scale %s 0 ends its servers", service)
	}
	return nil
}

// SnapshotVolume implements engine.Volumes. The same id again is done.
func (e *Engine) SnapshotVolume(ctx context.Context, service, name, id string) error {
	d, err := e.found(service, name)
	if err != nil {
		return err
	}
	if !validSnapshotID(id) {
		return model.Errorf(model.Invalid, "%q cannot be the name of a snapshot", id)
	}
	unlock, err := e.lockVolume(ctx, service, name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(d.snapshot(id)); err == nil {
		return nil
	}
	if !filetree.CanClone(string(d)) {
		return model.Errorf(model.Precondition, "cannot make a snapshot of volume %s of %s: the file system below %s (%s) cannot share the blocks of files",
			name, service, e.DataDir, fileSystem(e.DataDir)).WithHint("btrfs and xfs can; kiln volumes backup %s/%s writes a whole copy", service, name)
	}
	if err := os.MkdirAll(d.snapshots(), 0o700); err != nil {
		return err
	}
	draft := d.snapshot("." + id)
	if err := os.RemoveAll(draft); err != nil {
		return err
	}
	if err := filetree.Clone(ctx, d.content(), draft); err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	if err := syncFS(draft); err != nil {
		return err
	}
	return os.Rename(draft, d.snapshot(id))
}

// validSnapshotID reports whether the name is one path element without tricks.
func validSnapshotID(id string) bool {
	return id != "" && len(id) <= 64 && id[0] != '.' && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// fileSystem names the kind of file system that a path lies on.
func fileSystem(path string) string {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return "unknown"
	}
	kinds := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.F2FS_SUPER_MAGIC: "f2fs",
	}
	if kind, known := kinds[int64(st.Type)]; known { //nolint:unconvert // its type differs between architectures
		return kind
	}
	return fmt.Sprintf("type %#x", st.Type)
}

// RestoreVolume implements engine.Volumes.
func (e *Engine) RestoreVolume(ctx context.Context, service, name, id string) error {
	return e.refill(ctx, service, name, "restore", func(d volumeDir) error {
		if !validSnapshotID(id) {
			return model.Errorf(model.NotFound, "volume %s of %s has no snapshot %q", name, service, id)
		}
		if _, err := os.Stat(d.snapshot(id)); err != nil {
			return model.Errorf(model.NotFound, "volume %s of %s has no snapshot %q", name, service, id)
		}
		return filetree.Clone(ctx, d.snapshot(id), d.fresh())
	})
}

// ImportVolume implements engine.Volumes.
func (e *Engine) ImportVolume(ctx context.Context, service, name string, r io.Reader) error {
	return e.refill(ctx, service, name, "import", func(d volumeDir) error {
		if err := os.Mkdir(d.fresh(), 0o755); err != nil {
			return err
		}
		return filetree.Read(ctx, r, d.fresh())
	})
}

// refill replaces the content of a volume by what fill makes.
func (e *Engine) refill(ctx context.Context, service, name, what string, fill func(volumeDir) error) error {
	d := e.volume(service, name)
	if !model.ValidServiceName(service) || !model.ValidServiceName(name) {
		return model.Errorf(model.Invalid, "%s/%s cannot be a volume", service, name)
	}
	unlock, err := e.lockVolume(ctx, service, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := e.unheld(service, name, what); err != nil {
		return err
	}
	if _, err := d.record(); errors.Is(err, os.ErrNotExist) && what == "import" {
		// What comes from another machine may come before its service.
		if err := errors.Join(d.make(owner{mode: 0o755}), d.write(volumeRecord{Service: service, Name: name, Access: model.SingleWriter, CreatedAt: time.Now().UTC()})); err != nil {
			return err
		}
	} else if err != nil {
		return model.Errorf(model.NotFound, "%s has no volume %q", service, name)
	}
	if err := d.settle(); err != nil {
		return err
	}
	if err := fill(d); err != nil {
		return errors.Join(fmt.Errorf("cannot %s volume %s of %s, which stays as it was: %w", what, name, service, err), os.RemoveAll(d.fresh()))
	}
	if r, err := d.record(); err == nil {
		_ = bound(d.fresh(), e.project(service, name), r.Size) // said when a server gets it
	}
	return d.replace()
}

// RemoveVolume implements engine.Volumes.
func (e *Engine) RemoveVolume(ctx context.Context, service, name, id string) error {
	d, err := e.found(service, name)
	if model.CodeOf(err) == model.NotFound {
		return nil
	}
	unlock, err := e.lockVolume(ctx, service, name)
	if err != nil {
		return err
	}
	defer unlock()
	if id != "" {
		if !validSnapshotID(id) {
			return nil
		}
		return os.RemoveAll(d.snapshot(id))
	}
	if err := e.unheld(service, name, "remove"); err != nil {
		return err
	}
	_ = bound(d.content(), e.project(service, name), 0) // gives back the bound's entry, where there is one
	// Without the record it is no volume any more, whatever interrupts the rest.
	if err := os.Remove(filepath.Join(string(d), volumeFile)); err != nil {
		return err
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(string(d))) // stays where there are other volumes
	return nil
}

// ExportVolume implements engine.Volumes.
func (e *Engine) ExportVolume(ctx context.Context, service, name string, w io.Writer) error {
	d, err := e.found(service, name)
	if err != nil {
		return err
	}
	from := d.content()
	if filetree.CanClone(string(d)) {
		copied := filepath.Join(string(d), exportPrefix+shortHash(fmt.Sprint(time.Now().UnixNano())))
		defer os.RemoveAll(copied)
		if err := filetree.Clone(ctx, from, copied); err != nil {
			return err
		}
		from = copied
	}
	return filetree.Write(ctx, from, w)
}
