package layers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/model"
)

// Layer is a layer of an image, as its manifest and its configuration name it.
type Layer struct {
	Index  int          // the lowest is 0
	Digest model.Digest // of the bytes as stored
	DiffID model.Digest // of the archive that they unpack to
	Size   int64        // of the bytes as stored
	// Proven says that the bytes were compared with Digest just now, as they were
	// stored: that is not done again, as it takes longer than the walk itself.
	Proven bool
	// Open returns the bytes as stored. Whether they are those of Digest is for the
	// walk to find out.
	Open func() (io.ReadCloser, error)
}

// String names the layer for people, who count from 1.
func (l Layer) String() string { return fmt.Sprintf("layer %d (%s)", l.Index+1, l.Digest.Short()) }

// Of returns an image's layers, the lowest first.
//
// Invalid: manifest and configuration contradict each other, or there is something
// among the layers that is none. Unavailable: they cannot be had now.
func Of(ctx context.Context, image v1.Image) ([]Layer, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return nil, Unreadable(ctx, "the image's manifest", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, Unreadable(ctx, "the image's configuration", err)
	}
	blobs, err := image.Layers()
	if err != nil {
		return nil, Unreadable(ctx, "the image's layers", err)
	}
	if len(blobs) != len(manifest.Layers) {
		return nil, model.Errorf(model.Internal, "cannot read the image: %d of its %d layers are offered", len(blobs), len(manifest.Layers))
	}
	all := make([]Layer, len(blobs))
	for i, d := range manifest.Layers {
		all[i] = Layer{Index: i, Digest: model.Digest(d.Digest.String()), Size: d.Size, Open: blobs[i].Compressed}
		if err := all[i].OfType(string(d.MediaType)); err != nil {
			return nil, err
		}
	}
	diffIDs := make([]model.Digest, len(config.RootFS.DiffIDs))
	for i, id := range config.RootFS.DiffIDs {
		diffIDs[i] = model.Digest(id.String())
	}
	return all, Name(all, diffIDs)
}

// Name gives each layer the digest of its archive, as the image's configuration
// says them.
func Name(all []Layer, diffIDs []model.Digest) error {
	if len(all) != len(diffIDs) {
		return model.Errorf(model.Invalid, "cannot read the image: it has %d layers, and its configuration speaks of %d", len(all), len(diffIDs))
	}
	for i := range all {
		all[i].DiffID = diffIDs[i]
		for _, d := range []model.Digest{all[i].Digest, diffIDs[i]} {
			if !model.ValidDigest(string(d)) {
				return model.Errorf(model.Invalid, "cannot read layer %d: its digest %q is none of sha256", i+1, clip(string(d)))
			}
		}
	}
	return nil
}

// types are the media types of layers that are archives, each of which may have
// what it is compressed with behind it: OCI's, those of layers that were not to be
// passed on, and Docker's
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md).
var types = []string{
	"application/vnd.oci.image.layer.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
}

// OfType refuses a layer whose media type says that it is no archive of files.
func (l Layer) OfType(media string) error {
	for _, t := range types {
		switch rest, ok := strings.CutPrefix(media, t); {
		case !ok:
		case strings.HasSuffix(rest, "+encrypted"):
			return model.Errorf(model.Invalid, "cannot read %s: it is encrypted (%s)", l, clip(media)).
				WithHint("kiln has no keys of layers; decrypt the image first, with the tool that encrypted it")
		case rest == "", rest == "+gzip", rest == ".gzip", rest == "+zstd", rest == ".zstd":
			return nil
		}
	}
	return model.Errorf(model.Invalid, "cannot read %s: it is of the kind %q, and no layer of files", l, clip(media)).
		WithHint("an artifact that is no image (a chart, a signature, a model) can be kept in a registry, but not run")
}

// Unreadable says that a part of an image cannot be had now, unless err says something else.
func Unreadable(ctx context.Context, what string, err error) error {
	err = sourceError(ctx, err)
	return model.Errorf(model.CodeOf(err), "cannot read %s: %w", what, err)
}

// sourceError gives what comes from where the image is kept a class, unless it has
// one: it may be there later.
func sourceError(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*model.Error](err); ok {
		return err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return model.Errorf(model.Unavailable, "%w", err)
}

// clip is a name as messages have it.
func clip(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}
