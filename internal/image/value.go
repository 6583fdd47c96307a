package image

import (
	"bytes"
	"context"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// Value returns an image of the store as a value, whose layers are read when they
// are asked for, until ctx ends. Precondition: it or a part of it is not in the store,
// which is no fault of whoever has named it.
func (s *Store) Value(ctx context.Context, d model.Digest) (v1.Image, error) {
	parts, err := s.Blobs(ctx, d)
	if model.CodeOf(err) == model.NotFound {
		err = model.Errorf(model.Precondition, "%w", err).WithHint("build, import or pull it again")
	}
	if err != nil {
		return nil, err
	}
	v := &value{ctx: ctx, store: s, parts: parts}
	if v.manifest, err = v.read(parts[0]); err != nil {
		return nil, err
	}
	if v.config, err = v.read(parts[1]); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(v)
}

// DiffIDs returns what the layers of an image are unpacked, the lowest first; the
// image need not be recorded, as a base that a build has pulled is not. Nil: it is
// not here.
func (s *Store) DiffIDs(ctx context.Context, d model.Digest) []digest.Digest {
	ctx = s.scoped(ctx)
	info, err := s.client.ContentStore().Info(ctx, digest.Digest(d))
	if err != nil {
		return nil
	}
	_, spec, err := s.config(ctx, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
	if err != nil {
		return nil
	}
	return spec.RootFS.DiffIDs
}

// value is an image of the store.
type value struct {
	ctx              context.Context //nolint:containedctx // reading a value has no context of its own
	store            *Store
	parts            []Blob // manifest, configuration, layers
	manifest, config []byte
}

func (v *value) read(b Blob) ([]byte, error) {
	r, err := v.store.OpenBlob(v.ctx, b)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, r); err != nil {
		return nil, unavailable("read an image", err)
	}
	return text.Bytes(), nil
}

// RawManifest implements partial.CompressedImageCore.
func (v *value) RawManifest() ([]byte, error) { return v.manifest, nil }

// RawConfigFile implements partial.CompressedImageCore.
func (v *value) RawConfigFile() ([]byte, error) { return v.config, nil }

// MediaType implements partial.CompressedImageCore.
func (v *value) MediaType() (types.MediaType, error) {
	return types.MediaType(v.parts[0].MediaType), nil
}

// LayerByDigest implements partial.CompressedImageCore.
func (v *value) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	i := slices.IndexFunc(v.parts, func(b Blob) bool { return string(b.Digest) == h.String() })
	if i < 0 {
		return nil, errdefs.ErrNotFound.WithMessage("the image has no part " + h.String())
	}
	return layer{v, v.parts[i], h}, nil
}

// layer is a layer of a value.
type layer struct {
	of   *value
	blob Blob
	hash v1.Hash
}

// Digest implements partial.CompressedLayer.
func (l layer) Digest() (v1.Hash, error) { return l.hash, nil }

// Size implements partial.CompressedLayer.
func (l layer) Size() (int64, error) { return l.blob.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l layer) MediaType() (types.MediaType, error) { return types.MediaType(l.blob.MediaType), nil }

// Compressed implements partial.CompressedLayer.
func (l layer) Compressed() (io.ReadCloser, error) { return l.of.store.OpenBlob(l.of.ctx, l.blob) }
