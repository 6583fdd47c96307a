package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"kiln/internal/model"
)

// The labels by which containerd's collector keeps snapshots.
const (
	rootLabel     = "containerd.io/gc.root"
	snapshotLabel = "containerd.io/gc.ref.snapshot." + Snapshotter
)

// Strays lists the snapshots that belong to no image, no container and no
// lease, and removes them.
type Strays struct{ Store *Store }

// Objects lists them.
func (x Strays) Objects(ctx context.Context) ([]model.Object, error) {
	s := x.Store
	ctx = s.scoped(ctx)
	all := map[string]snapshots.Info{}
	err := s.client.SnapshotService(Snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		all[info.Name] = info
		return nil
	})
	if err != nil {
		return nil, unavailable("list snapshots", err)
	}
	held, err := x.held(ctx, all)
	if err != nil {
		return nil, err
	}
	var list []model.Object
	for key, info := range all {
		if held[key] {
			continue
		}
		o := model.Object{Kind: model.ObjectSnapshot, ID: key, At: info.Created.UTC()}
		if info.Parent != "" {
			o.Parents = []string{info.Parent}
		}
		if usage, err := s.client.SnapshotService(Snapshotter).Usage(ctx, key); err == nil {
			o.Bytes = usage.Size
		}
		list = append(list, o)
	}
	return list, nil
}

// held returns the snapshots that something holds, with those below them.
func (x Strays) held(ctx context.Context, all map[string]snapshots.Info) (map[string]bool, error) {
	s, held := x.Store, map[string]bool{}
	hold := func(key string) {
		for key != "" && !held[key] {
			held[key] = true
			key = all[key].Parent
		}
	}
	for key, info := range all {
		if info.Labels[rootLabel] != "" {
			hold(key)
		}
	}
	containers, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return nil, unavailable("list containers", err)
	}
	for _, c := range containers {
		hold(c.SnapshotKey)
	}
	leased, err := s.client.LeasesService().List(ctx)
	if err != nil {
		return nil, unavailable("list leases", err)
	}
	for _, l := range leased {
		resources, err := s.client.LeasesService().ListResources(ctx, l)
		if errdefs.IsNotFound(err) {
			continue // it has just ended
		}
		if err != nil {
			return nil, unavailable("list what a lease holds", err)
		}
		for _, r := range resources {
			if r.Type == "snapshots/"+Snapshotter {
				hold(r.ID)
			}
		}
	}
	err = s.client.ContentStore().Walk(ctx, func(info content.Info) error {
		for label, key := range info.Labels {
			if label == snapshotLabel || strings.HasPrefix(label, snapshotLabel+"/") {
				hold(key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, unavailable("list contents", err)
	}
	return held, nil
}

// Remove removes one. Absent is done. Precondition: something stands on it.
func (x Strays) Remove(ctx context.Context, o model.Object) error {
	err := x.Store.client.SnapshotService(Snapshotter).Remove(x.Store.scoped(ctx), o.ID)
	switch {
	case err == nil, errdefs.IsNotFound(err):
		return nil
	case errdefs.IsFailedPrecondition(err):
		return model.Errorf(model.Precondition, "cannot remove snapshot %s: something stands on it", o.ID)
	default:
		return unavailable("remove snapshot "+o.ID, err)
	}
}
