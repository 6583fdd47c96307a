package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// settledPrefix begins the labels by which layers refer to what they became.
const settledPrefix = "containerd.io/gc.ref.content.kiln-at-"

// Inventory lists the images of the store with the room that each takes, and
// removes them.
type Inventory struct{ Store *Store }

// parts are the blobs and the snapshots of an image.
type parts struct {
	blobs     map[string]int64 // bytes, by digest
	layers    []string
	snapshots []string // by key, the lowest first
}

// Objects lists the images. The bytes of each are those that no other has.
func (i Inventory) Objects(ctx context.Context) ([]model.Object, error) {
	s := i.Store
	ctx = s.scoped(ctx)
	pins, all, err := s.pinned(ctx)
	if err != nil {
		return nil, err
	}
	users := usersOf(all)
	var list []model.Object
	for _, pin := range pins {
		o := model.Object{Kind: model.ObjectImage, ID: pin.Target.Digest.String(), At: pin.CreatedAt.UTC()}
		p := all[o.ID]
		for blob, size := range p.blobs {
			if users[blob] == 1 {
				o.Bytes += size
			}
		}
		for _, key := range p.snapshots {
			if users[key] != 1 {
				continue
			}
			usage, err := s.client.SnapshotService(Snapshotter).Usage(ctx, key)
			switch {
			case err == nil:
				o.Bytes += usage.Size
			case !errdefs.IsNotFound(err): // it need not be unpacked
				return nil, unavailable("measure image "+model.Digest(o.ID).Short(), err)
			}
		}
		if names, err := s.namesOf(ctx, pin); err == nil && len(names) > 0 {
			o.Name = Familiar(names[0])
		}
		list = append(list, o)
	}
	return list, nil
}

// usersOf counts the images that have each blob and each snapshot.
func usersOf(all map[string]parts) map[string]int {
	users := map[string]int{}
	for _, p := range all {
		for blob := range p.blobs {
			users[blob]++
		}
		for _, key := range p.snapshots {
			users[key]++
		}
	}
	return users
}

// pinned returns the records of all images, and what each consists of, as far
// as it is there.
func (s *Store) pinned(ctx context.Context) ([]images.Image, map[string]parts, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, nil, unavailable("list images", err)
	}
	var pins []images.Image
	all := map[string]parts{}
	for _, r := range records {
		if !isPin(r.Name) {
			continue
		}
		p, err := s.partsOf(ctx, r.Target)
		if err != nil {
			return nil, nil, unavailable("read image "+model.Digest(r.Target.Digest).Short(), err)
		}
		pins, all[r.Target.Digest.String()] = append(pins, r), p
	}
	return pins, all, nil
}

// partsOf returns what an image consists of. Of one that is not whole it is
// what can be known.
func (s *Store) partsOf(ctx context.Context, target ocispec.Descriptor) (parts, error) {
	p := parts{blobs: map[string]int64{target.Digest.String(): target.Size}}
	m, err := s.manifest(ctx, target)
	if errdefs.IsNotFound(err) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p.blobs[m.Config.Digest.String()] = m.Config.Size
	for _, l := range m.Layers {
		p.blobs[l.Digest.String()] = l.Size
		p.layers = append(p.layers, l.Digest.String())
	}
	var config ocispec.Image
	if err := readJSON(ctx, s.client.ContentStore(), m.Config, &config); err != nil {
		if errdefs.IsNotFound(err) {
			return p, nil
		}
		return p, err
	}
	for n := range config.RootFS.DiffIDs {
		p.snapshots = append(p.snapshots, identity.ChainID(config.RootFS.DiffIDs[:n+1]).String())
	}
	return p, nil
}

func (s *Store) namesOf(ctx context.Context, pin images.Image) ([]string, error) {
	bearers, err := s.client.ImageService().List(ctx, "target.digest=="+pin.Target.Digest.String())
	var names []string
	for _, r := range bearers {
		if !isPin(r.Name) && !isTemporary(r.Name) {
			names = append(names, r.Name)
		}
	}
	return names, err
}

// Remove removes an image with all its names, and gives its space back, also
// where the build cache has what it was made of. Absent is done. Precondition:
// there is a server of it.
func (i Inventory) Remove(ctx context.Context, o model.Object) error {
	s, d := i.Store, model.Digest(o.ID)
	scoped := s.scoped(ctx)
	_, all, err := s.pinned(scoped)
	if err != nil {
		return err
	}
	if err := s.unused(scoped, d, all); err != nil {
		return err
	}
	if err := s.forgetSettled(scoped, o.ID, all); err != nil {
		return err
	}
	if err := s.Delete(ctx, d); model.CodeOf(err) != model.NotFound {
		return err
	}
	return nil
}

// unused refuses what a server's file system stands on, whatever the journal
// says, unless another image keeps it as well.
func (s *Store) unused(ctx context.Context, d model.Digest, all map[string]parts) error {
	layers := all[string(d)].snapshots
	if len(layers) == 0 {
		return nil
	}
	top := layers[len(layers)-1]
	if usersOf(all)[top] > 1 {
		return nil
	}
	containers, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return unavailable("remove image "+d.Short(), err)
	}
	for _, c := range containers {
		info, err := s.client.SnapshotService(Snapshotter).Stat(ctx, c.SnapshotKey)
		if err == nil && info.Parent == top {
			return model.Errorf(model.Precondition, "cannot remove image %s: %s runs on it", d.Short(), c.ID)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return unavailable("remove image "+d.Short(), err)
		}
	}
	return nil
}

// forgetSettled has the layers that an image alone has not be held any more by
// those that they were made of, which the build cache keeps.
func (s *Store) forgetSettled(ctx context.Context, image string, all map[string]parts) error {
	users, own := usersOf(all), map[string]bool{}
	for _, l := range all[image].layers {
		own[l] = users[l] == 1
	}
	type link struct {
		source content.Info
		label  string
	}
	var links []link
	err := s.client.ContentStore().Walk(ctx, func(info content.Info) error {
		for label, to := range info.Labels {
			if strings.HasPrefix(label, settledPrefix) && own[to] && to != info.Digest.String() {
				links = append(links, link{info, label})
			}
		}
		return nil
	})
	if err != nil {
		return unavailable("look for what image "+image+" was made of", err)
	}
	for _, l := range links {
		without := content.Info{Digest: l.source.Digest, Labels: map[string]string{l.label: ""}}
		if _, err := s.client.ContentStore().Update(ctx, without, "labels."+l.label); err != nil && !errdefs.IsNotFound(err) {
			return unavailable("forget what image "+image+" was made of", err)
		}
	}
	return nil
}
