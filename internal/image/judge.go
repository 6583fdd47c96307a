package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// judge reads an image's layers before they are unpacked, and refuses what no image
// should have: names and links that lead out of it, what is made to exhaust the
// machine, layers that are none. Nothing of it is on the machine's disk then, but
// the archives. Whether a layer unpacks to what the configuration says is compared
// when it is.
func (s *Store) judge(ctx context.Context, desc ocispec.Descriptor) error {
	m, spec, err := s.config(ctx, desc)
	if _, coded := errors.AsType[*model.Error](err); coded {
		return err
	}
	if err != nil {
		return unavailable("read the image", err)
	}
	all := make([]layers.Layer, len(m.Layers))
	for i, d := range m.Layers {
		all[i] = layers.Layer{Index: i, Digest: model.Digest(d.Digest), Size: d.Size, Open: func() (io.ReadCloser, error) { return s.open(ctx, d) }}
		if err := all[i].OfType(d.MediaType); err != nil {
			return err
		}
	}
	diffIDs := make([]model.Digest, len(spec.RootFS.DiffIDs))
	for i, d := range spec.RootFS.DiffIDs {
		diffIDs[i] = model.Digest(d)
	}
	if err := layers.Name(all, diffIDs); err != nil {
		return err
	}
	w := layers.NewWalker(layers.Limits{})
	w.Unpacked = true // as said above
	for _, l := range all {
		if _, err := w.Walk(ctx, l, func(*layers.Entry) error { return nil }); err != nil {
			return s.OfStored(ctx, err)
		}
	}
	return nil
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
	gone := os.Remove(filepath.Join(s.blobs, blob.Algorithm().String(), blob.Encoded()))
	gone = errors.Join(gone, s.client.ContentStore().Delete(s.scoped(ctx), blob))
	s.log.Error("a layer was changed where it is kept, and is removed", "digest", string(d), "error", gone)
	return model.Errorf(model.Precondition, "%w", err).
		WithHint("it was changed where it is kept, and is removed there: build, import or pull it again; the disk may be failing")
}

// open returns the content of a blob.
func (s *Store) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := s.client.ContentStore().ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(r), r}, nil
}
