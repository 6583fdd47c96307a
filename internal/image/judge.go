package image

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// judgement reads an image's layers before they are unpacked, each when those below
// it were read, and refuses what no image should have: names and links that lead out
// of it, what is made to exhaust the machine, layers that are none. Nothing of a layer
// is on the machine's disk then, but its archive. Whether it unpacks to what the
// configuration says is compared when it is.
type judgement struct {
	store  *Store
	layers []layers.Layer
	walker layers.Walker
}

// judging begins the judgement of an image whose manifest and configuration are in
// the store.
func (s *Store) judging(ctx context.Context, desc ocispec.Descriptor) (*judgement, error) {
	m, spec, err := s.config(ctx, desc)
	if _, coded := errors.AsType[*model.Error](err); coded {
		return nil, err
	}
	if err != nil {
		return nil, unavailable("read the image", err)
	}
	all := make([]layers.Layer, len(m.Layers))
	for i, d := range m.Layers {
		all[i] = layers.Layer{Index: i, Digest: model.Digest(d.Digest), Size: d.Size}
		all[i].Open = func() (io.ReadCloser, error) { return s.OpenBlob(ctx, Blob{Digest: all[i].Digest}) }
		if err := all[i].OfType(d.MediaType); err != nil {
			return nil, err
		}
	}
	diffIDs := make([]model.Digest, len(spec.RootFS.DiffIDs))
	for i, d := range spec.RootFS.DiffIDs {
		diffIDs[i] = model.Digest(d)
	}
	if err := layers.Name(all, diffIDs); err != nil {
		return nil, err
	}
	w := layers.NewWalker(layers.Limits{})
	w.Unpacked = true // as said above
	return &judgement{s, all, w}, nil
}

// layer judges the next layer.
func (j *judgement) layer(ctx context.Context, i int) error {
	_, err := j.walker.Walk(ctx, j.layers[i], func(*layers.Entry) error { return nil })
	return j.store.OfStored(ctx, err)
}

// judge judges all layers of an image.
func (s *Store) judge(ctx context.Context, desc ocispec.Descriptor) error {
	j, err := s.judging(ctx, desc)
	for i := 0; err == nil && i < len(j.layers); i++ {
		err = j.layer(ctx, i)
	}
	return err
}

// OfStored returns what to say of an error of a walk over what is kept here, where
// nothing gets without being compared with its digest. A layer that is damaged all
// the same is taken away: with it gone, whoever brings it again is not told that it
// is here.
func (s *Store) OfStored(ctx context.Context, err error) error {
	d, damaged := layers.Damaged(err)
	if !damaged {
		return err
	}
	blob := digest.Digest(d)
	// The file first: containerd leaves it until it collects, and takes it for whole
	// if the blob comes again before.
	gone := os.Remove(s.file(blob))
	gone = errors.Join(gone, s.client.ContentStore().Delete(s.scoped(ctx), blob))
	s.log.Error("a layer was changed where it is kept, and is removed", "digest", string(d), "error", gone)
	return model.Errorf(model.Precondition, "%w", err).
		WithHint("it was changed where it is kept, and is removed there: build, import or pull it again; the disk may be failing")
}
