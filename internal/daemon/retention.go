package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/internal/control"
	"kiln/internal/engine/local"
	"kiln/internal/image"
	"kiln/internal/model"
	"kiln/internal/vault"
)

// newRetention gathers what keeps objects that may go.
func (d *daemon) newRetention() *control.Retention {
	return control.NewRetention(control.RetentionConfig{
		Control: d.control, Clock: d.clock, Rooms: rooms(d.cfg.DataDir), Log: d.cfg.Log,
		Sources: []control.Source{
			{Kind: model.ObjectImage, Inventory: withSources{image.Inventory{Store: d.images}, d.sources}},
			{Kind: model.ObjectInputs, Inventory: image.InputInventory{Store: d.images}},
			{Kind: model.ObjectSnapshot, Inventory: image.Strays{Store: d.images}},
			{Kind: model.ObjectBuildCache, Inventory: buildCache{d.builds}, Ready: d.builds.up},
			{Kind: model.ObjectLog, Inventory: local.LogInventory{Engine: d.engine}},
			{Kind: model.ObjectSecret, Inventory: vault.Inventory{Vault: d.vault, Kind: model.ObjectSecret}},
			{Kind: model.ObjectConfig, Inventory: vault.Inventory{Vault: d.vault, Kind: model.ObjectConfig}},
			{Kind: model.ObjectEvidence, Inventory: d.evidence},
		},
	})
}

// up reports whether a builder runs.
func (b *builds) up(ctx context.Context) bool { return b.client.Ping(ctx) == nil }

// buildCache is what the builder keeps, which is started to be asked.
type buildCache struct{ builds *builds }

// Objects implements engine.Inventory.
func (b buildCache) Objects(ctx context.Context) ([]model.Object, error) {
	if err := b.builds.ensure(ctx); err != nil {
		return nil, err
	}
	return b.builds.client.Cache(ctx)
}

// Remove implements engine.Inventory.
func (b buildCache) Remove(ctx context.Context, o model.Object) error {
	return b.RemoveAll(ctx, []model.Object{o})
}

// RemoveAll removes many at once, which takes the builder one walk.
func (b buildCache) RemoveAll(ctx context.Context, objects []model.Object) error {
	if err := b.builds.ensure(ctx); err != nil {
		return err
	}
	ids := make([]string, len(objects))
	for i, o := range objects {
		ids[i] = o.ID
	}
	return b.builds.client.RemoveCache(ctx, ids)
}

// startRetention removes what is kept no longer, until ctx ends.
func (d *daemon) startRetention(ctx context.Context) {
	d.running.Go(func() { d.retain.Run(ctx) })
	d.running.Go(func() { d.trimEvidence(ctx) })
	d.running.Go(d.sweepLists)
}

// rooms is the data directory, whose parts may lie on different disks.
type rooms string

// Rooms implements control.Rooms.
func (r rooms) Rooms() ([]model.Disk, error) {
	var list []model.Disk
	seen := map[uint64]bool{}
	for _, part := range []string{"containerd", "buildkit", "."} {
		path := filepath.Join(string(r), part)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was built yet
		}
		if err != nil {
			return nil, model.Errorf(model.Unavailable, "cannot look at the disk: %w", err)
		}
		on, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[on.Dev] {
			continue
		}
		seen[on.Dev] = true
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return nil, model.Errorf(model.Unavailable, "cannot look at the disk of %s: %w", path, err)
		}
		list = append(list, model.Disk{
			Path: path, Free: int64(st.Bavail) * st.Bsize, Total: int64(st.Blocks) * st.Bsize,
		})
	}
	return list, nil
}
