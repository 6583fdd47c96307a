package sign

import (
	"bytes"
	"encoding/json"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kiln/internal/model"
)

// The annotations of an artifact that has a bundle
// (https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md), and of any.
const (
	annotationContent   = "dev.sigstore.bundle.content"
	annotationPredicate = "dev.sigstore.bundle.predicateType"
	annotationCreated   = "org.opencontainers.image.created"
)

// contentDSSE is what annotationContent says of a bundle with a statement.
const contentDSSE = "dsse-envelope"

// emptyMediaType is that of a configuration which says nothing
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidance-for-an-empty-descriptor).
const emptyMediaType types.MediaType = "application/vnd.oci.empty.v1+json"

// emptyConfig is such a configuration.
var emptyConfig = []byte("{}")

// artifact is a manifest of OCI 1.1 that carries a bundle and refers to an image. It
// implements what partial.CompressedToImage asks for.
type artifact struct {
	raw   []byte
	layer v1.Layer
}

// Artifact returns the artifact that carries a bundle as a referrer of the image,
// whose manifest subject describes: media type, size and digest. The same in gives
// the same out.
//
// Invalid: it is no bundle with a statement in it (ErrNoBundle).
func Artifact(bundle []byte, subject v1.Descriptor, created time.Time) (v1.Image, error) {
	s, _, err := Peek(bundle)
	if err != nil {
		return nil, err
	}
	layer := static.NewLayer(bundle, BundleMediaType)
	content, err := partial.Descriptor(layer)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot attach a bundle: %w", err)
	}
	config, size, err := v1.SHA256(bytes.NewReader(emptyConfig))
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot attach a bundle: %w", err)
	}
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  BundleMediaType,
		Config:        v1.Descriptor{MediaType: emptyMediaType, Size: size, Digest: config},
		Layers:        []v1.Descriptor{*content},
		Subject:       &v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest},
		Annotations: map[string]string{
			annotationContent:   contentDSSE,
			annotationPredicate: s.PredicateType,
			annotationCreated:   stamp(created),
		},
	})
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot attach a bundle: %w", err)
	}
	img, err := partial.CompressedToImage(artifact{raw: raw, layer: layer})
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot attach a bundle: %w", err)
	}
	return img, nil
}

// RawConfigFile implements partial.CompressedImageCore.
func (a artifact) RawConfigFile() ([]byte, error) { return emptyConfig, nil }

// MediaType implements partial.CompressedImageCore.
func (a artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// RawManifest implements partial.CompressedImageCore.
func (a artifact) RawManifest() ([]byte, error) { return a.raw, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (a artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if d, err := a.layer.Digest(); err != nil || d != h {
		return nil, model.Errorf(model.NotFound, "there is no layer %s", h)
	}
	return a.layer, nil
}
