package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// Blob is a part of an image: its manifest, its configuration, or a layer.
type Blob struct {
	Digest    model.Digest
	MediaType string
	Size      int64
}

// Blobs returns the parts of an image, its manifest first. NotFound: the image
// or a part of it is not in the store.
func (s *Store) Blobs(ctx context.Context, d model.Digest) ([]Blob, error) {
	ctx = s.scoped(ctx)
	record, err := s.client.ImageService().Get(ctx, PinName(d))
	if errdefs.IsNotFound(err) {
		return nil, model.Errorf(model.NotFound, "image %s is not in the store", d)
	}
	if err != nil {
		return nil, unavailable("find image "+d.Short(), err)
	}
	m, err := s.manifest(ctx, record.Target)
	if errdefs.IsNotFound(err) {
		return nil, model.Errorf(model.NotFound, "image %s is not whole: its manifest is missing", d)
	}
	if err != nil {
		return nil, unavailable("read image "+d.Short(), err)
	}
	parts := append([]ocispec.Descriptor{record.Target, m.Config}, m.Layers...)
	blobs := make([]Blob, len(parts))
	for i, p := range parts {
		info, err := s.client.ContentStore().Info(ctx, p.Digest)
		if errdefs.IsNotFound(err) {
			return nil, model.Errorf(model.NotFound, "image %s is not whole: %s is missing", d, p.Digest)
		}
		if err != nil {
			return nil, unavailable("read image "+d.Short(), err)
		}
		blobs[i] = Blob{Digest: model.Digest(p.Digest), MediaType: p.MediaType, Size: info.Size}
	}
	return blobs, nil
}

// ReadBlob opens a part of an image for reading anywhere in it. NotFound: it is
// not in the store.
func (s *Store) ReadBlob(ctx context.Context, b Blob) (content.ReaderAt, error) {
	r, err := local.OpenReader(s.file(digest.Digest(b.Digest)))
	return r, ofBlob(b.Digest, err)
}

// OpenBlob returns the content of a part of an image.
func (s *Store) OpenBlob(ctx context.Context, b Blob) (io.ReadCloser, error) {
	f, err := os.Open(s.file(digest.Digest(b.Digest)))
	return f, ofBlob(b.Digest, err)
}

// file is where containerd keeps a blob: what it is asked for it sends in small pieces,
// each on request.
func (s *Store) file(d digest.Digest) string {
	return filepath.Join(s.blobs, d.Algorithm().String(), d.Encoded())
}

// ofBlob says which blob cannot be opened.
func ofBlob(d model.Digest, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errdefs.IsNotFound(err):
		return model.Errorf(model.NotFound, "%s of an image is not in the store", d)
	}
	return unavailable("read "+string(d)+" of an image", err)
}

// Restore takes in an image of an OCI layout in which its parts are files of
// blobs/sha256, records it under its digest and the names, and unpacks it.
// Invalid: a part is missing or is not what its digest says.
func (s *Store) Restore(ctx context.Context, layout fs.FS, d model.Digest, names []string, source string) error {
	return s.leased(ctx, func(ctx context.Context, to *ingest) error {
		desc, err := s.restoreBlob(ctx, to, layout, ocispec.Descriptor{Digest: digest.Digest(d)})
		if err != nil {
			return err
		}
		var kind struct {
			MediaType string `json:"mediaType"`
		}
		if err := readJSON(ctx, s.client.ContentStore(), desc, &kind); err != nil {
			return err
		}
		desc.MediaType = kind.MediaType
		if desc.MediaType == "" { // the field came with version 1.1 of the format
			desc.MediaType = ocispec.MediaTypeImageManifest
		}
		m, err := s.manifest(ctx, desc)
		if err != nil {
			return err
		}
		for _, part := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if _, err := s.restoreBlob(ctx, to, layout, part); err != nil {
				return err
			}
		}
		if err := s.labelChildren(ctx, desc); err != nil {
			return err
		}
		_, err = s.admit(ctx, desc, source, names)
		return err
	})
}

// restoreBlob writes one part to the store, unless it is there.
func (s *Store) restoreBlob(ctx context.Context, to *ingest, layout fs.FS, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	f, err := layout.Open("blobs/" + desc.Digest.Algorithm().String() + "/" + desc.Digest.Encoded())
	if errors.Is(err, fs.ErrNotExist) {
		if info, err := s.client.ContentStore().Info(ctx, desc.Digest); err == nil {
			desc.Size = info.Size
			return desc, nil
		}
		return desc, model.Errorf(model.Invalid, "cannot take the image in: %s is missing", desc.Digest)
	}
	if err != nil {
		return desc, model.Errorf(model.Unavailable, "cannot take the image in: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return desc, model.Errorf(model.Unavailable, "cannot take the image in: %w", err)
	}
	desc.Size = st.Size()
	err = content.WriteBlob(ctx, to, "restore-"+desc.Digest.String(), f, desc)
	switch {
	case err == nil || errdefs.IsAlreadyExists(err):
		return desc, nil
	case errdefs.IsFailedPrecondition(err):
		return desc, model.Errorf(model.Invalid, "cannot take the image in: %s has another content than its digest says", desc.Digest)
	default:
		return desc, unavailable("take the image in", err)
	}
}
