package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

const (
	pinPrefix       = "kiln/sha256:"
	temporaryPrefix = "kiln/new/"
	// buildkit stores images under the name it is given, as it is.
	sourceLabel = "kiln.source"
)

// PinName returns the name of the record that keeps an image.
func PinName(d model.Digest) string { return "kiln/" + string(d) }

// TemporaryName returns a name for an image that is being made. What bears one
// is removed when the builder starts.
func TemporaryName(id string) string { return temporaryPrefix + id }

func isPin(name string) bool       { return strings.HasPrefix(name, pinPrefix) }
func isTemporary(name string) bool { return strings.HasPrefix(name, temporaryPrefix) }

// Normalize returns the full form of a name as a Containerfile's FROM would
// write it: base/debian:12 is docker.io/base/debian:12.
func Normalize(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", model.Errorf(model.Invalid, "cannot use %q as the name of an image: %w", name, err).
			WithHint("a name looks like base/debian:12")
	}
	return ref.String(), nil
}

// Familiar is the short form of a full name, for people.
func Familiar(name string) string {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(ref)
}

// Named returns the image that bears a full name, or that a name of the form
// docker.io/kiln/sha256:… is of.
func (s *Store) Named(ctx context.Context, full string) (d model.Digest, here bool, err error) {
	name := full
	if digest, ok := strings.CutPrefix(full, "docker.io/kiln/"); ok && model.ValidDigest(digest) {
		name = PinName(model.Digest(digest))
	}
	r, err := s.client.ImageService().Get(s.scoped(ctx), name)
	switch {
	case errdefs.IsNotFound(err):
		return "", false, nil
	case err != nil:
		return "", false, unavailable("find image "+full, err)
	}
	return model.Digest(r.Target.Digest), true, nil
}

// pin records an image: it is kept from now on, and found by the names.
func (s *Store) pin(ctx context.Context, desc ocispec.Descriptor, source string, names ...string) error {
	desc.Annotations, desc.Platform = nil, nil // one record, whatever way it came
	record := images.Image{Name: PinName(model.Digest(desc.Digest)), Target: desc}
	if source != "" {
		record.Labels = map[string]string{sourceLabel: source}
	}
	if _, err := s.client.ImageService().Create(ctx, record); err != nil && !errdefs.IsAlreadyExists(err) {
		return unavailable("record image "+desc.Digest.String(), err)
	}
	for _, name := range names {
		if err := s.name(ctx, desc, name); err != nil {
			return err
		}
	}
	return nil
}

// name makes name mean the image, whatever it meant before.
func (s *Store) name(ctx context.Context, desc ocispec.Descriptor, name string) error {
	service := s.client.ImageService()
	record := images.Image{Name: name, Target: desc}
	for {
		_, err := service.Update(ctx, record, "target")
		if errdefs.IsNotFound(err) {
			_, err = service.Create(ctx, record)
			if errdefs.IsAlreadyExists(err) {
				continue // somebody was first: theirs is updated
			}
		}
		if err != nil {
			return unavailable("name image "+desc.Digest.String()+" "+name, err)
		}
		return nil
	}
}
