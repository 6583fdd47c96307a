package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// imageRecord is containerd's record of an image.
type imageRecord = images.Image

func (c Config) mountsDir() string { return filepath.Join(c.RunDir, "mounts") }

// rootLabels keep a snapshot from being collected until it is removed or
// committed under another name.
func rootLabels() snapshots.Opt {
	return snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "kiln"})
}

// withMount calls look with the mounts' file system, for the time of the call.
func (e *Engine) withMount(mounts []mount.Mount, look func(root string) error) (err error) {
	root, err := os.MkdirTemp(e.mountsDir(), "m-")
	if err != nil {
		return fmt.Errorf("cannot mount an image: %w", err)
	}
	defer func() {
		// Not recursively: if it is still mounted, its content stays.
		if removing := os.Remove(root); err == nil && removing != nil {
			err = fmt.Errorf("cannot unmount an image: %w", removing)
		}
	}()
	if err := mount.All(mounts, root); err != nil {
		return fmt.Errorf("cannot mount an image: %w", err)
	}
	defer func() { _ = mount.UnmountAll(root, unix.MNT_DETACH) }()
	return look(root)
}

// withView is withMount for a committed snapshot, which cannot be written.
func (e *Engine) withView(ctx context.Context, parent string, look func(root string) error) error {
	service := e.client.SnapshotService(snapshotter)
	key := "kiln-view/" + shortHash(parent, fmt.Sprint(os.Getpid()), filepath.Base(e.RunDir))
	unlock, err := e.locks.lock(ctx, "view") // views are short
	if err != nil {
		return err
	}
	defer unlock()
	_ = service.Remove(ctx, key)
	mounts, err := service.View(ctx, key, parent, rootLabels())
	if err != nil {
		return containerdError(err, "look into an image")
	}
	defer func() {
		if err := service.Remove(context.WithoutCancel(ctx), key); err != nil {
			e.Log.Warn("cannot remove a view", "key", key, "error", err)
		}
	}()
	return e.withMount(mounts, look)
}

// unmountLeftovers removes the mounts of an engine that ended while it looked.
func (e *Engine) unmountLeftovers() {
	entries, err := os.ReadDir(e.mountsDir())
	if err != nil {
		return
	}
	for _, entry := range entries {
		dir := filepath.Join(e.mountsDir(), entry.Name())
		_ = mount.UnmountAll(dir, unix.MNT_DETACH)
		_ = os.Remove(dir)
	}
}

// overlayDirs finds in an overlay mount where changes would be, and the layers
// below, uppermost first.
func overlayDirs(mounts []mount.Mount) (upper string, lowers []string) {
	for _, m := range mounts {
		if m.Type == "bind" {
			return m.Source, nil
		}
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = dir
			}
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				lowers = strings.Split(dirs, ":")
			}
		}
	}
	return upper, lowers
}
