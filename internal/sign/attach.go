package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

// Attachment is a bundle that a registry keeps as a referrer of an image. What it
// says of itself is nobody's word: Verify tells.
type Attachment struct {
	Manifest      digest.Digest // of the artifact
	Bundle        digest.Digest // of the bundle's bytes: its BundleDigest
	Size          int64         // of the bundle, in bytes
	PredicateType string        // as an annotation has it; "": it has none
	Created       time.Time     // likewise; zero: it has none, or no time
	// Err is why it cannot be read, where only this one cannot: then only Manifest
	// is known.
	Err error
}

// maxAttachments is how many bundles of an image are looked at. More than a few tens
// are not there in earnest.
const maxAttachments = 1000

// bundlePrefix begins the media type of bundles of all versions.
const bundlePrefix = "application/vnd.dev.sigstore.bundle"

// pushTries is how often an attachment is put into the list of its image, where
// others change that at the same time.
const pushTries = 5

// Push attaches a bundle to an image in a registry. When it returns nil, the registry
// lists it. Where the registry has no referrers API, the list is an index under the
// tag sha256-HEX, as the specification has it
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#referrers-tag-schema);
// registries do not keep two writers of that from undoing each other's work, which
// is noticed for what is pushed here, not for what was there: one kiln pushes the
// attachments of an image one after the other. To push the same again, with the same
// time, changes nothing, and mends what was left half done.
//
// opts are the caller's transport and credentials.
//
// Invalid: it is no bundle. NotFound: the image is not there. Denied: the registry
// does not allow it. Unavailable: it cannot be reached, or fails.
func Push(ctx context.Context, image name.Digest, bundle []byte, created time.Time, opts ...remote.Option) (Attachment, error) {
	puller, pusher, err := clients(opts)
	if err != nil {
		return Attachment{}, err
	}
	fail := func(err error) (Attachment, error) {
		return Attachment{}, registryError(ctx, "attach a statement to "+image.String(), err)
	}
	subject, err := puller.Head(ctx, image)
	if err != nil {
		return fail(err)
	}
	img, err := Artifact(bundle, *subject, created)
	if err != nil {
		return Attachment{}, err
	}
	manifest, err := img.Digest()
	if err == nil {
		err = upload(ctx, pusher, image.Context(), img)
	}
	if err != nil {
		return fail(err)
	}
	ref := image.Context().Digest(manifest.String())
	for range pushTries {
		// Put, unlike Push, also completes the list of referrers where the manifest
		// is there already.
		if err := pusher.Put(ctx, ref, img); err != nil {
			return fail(err)
		}
		listed, err := referrers(ctx, puller, image)
		if err != nil {
			return fail(err)
		}
		if slices.ContainsFunc(listed, func(d v1.Descriptor) bool { return d.Digest == manifest }) {
			a := attachmentOf(ctx, puller, image, manifest)
			return a, a.Err
		}
	}
	return Attachment{}, model.Errorf(model.Unavailable, "cannot attach a statement to %s: its registry has taken it and does not list it", image).
		WithHint("try again; if it stays so, its registry lists no referrers, and has another use for the tag %s", strings.Replace(image.DigestStr(), ":", "-", 1))
}

// upload stores what the manifest of an artifact names.
func upload(ctx context.Context, pusher *remote.Pusher, repository name.Repository, img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return err
	}
	for _, layer := range append(layers, config) {
		if err := pusher.Upload(ctx, repository, layer); err != nil {
			return err
		}
	}
	return nil
}

// List returns the bundles that are attached to an image, in the order of the digests
// of their manifests. Other things that are attached to it are left out; of a bundle
// that is damaged Err says so.
//
// opts are the caller's transport and credentials.
//
// Denied: the registry does not allow it. Unavailable: it cannot be reached, or
// fails. That the image itself is not there is no error.
func List(ctx context.Context, image name.Digest, opts ...remote.Option) ([]Attachment, error) {
	puller, _, err := clients(opts)
	if err != nil {
		return nil, err
	}
	listed, err := referrers(ctx, puller, image)
	if err != nil {
		return nil, registryError(ctx, "read what is attached to "+image.String(), err)
	}
	var found []Attachment
	for _, d := range listed {
		// Some registries list the type of the configuration, which says nothing.
		bundle := strings.HasPrefix(d.ArtifactType, bundlePrefix)
		if !bundle && d.ArtifactType != "" && d.ArtifactType != string(emptyMediaType) {
			continue
		}
		if len(found) == maxAttachments {
			return nil, model.Errorf(model.Invalid, "cannot read what is attached to %s: it is more than %d bundles", image, maxAttachments).
				WithHint("look who may write to this repository")
		}
		a := attachmentOf(ctx, puller, image, d.Digest)
		if code := model.CodeOf(a.Err); code == model.Unavailable || code == model.Denied || ctx.Err() != nil {
			return nil, a.Err // not this one's fault
		}
		if bundle || !errors.Is(a.Err, errOtherArtifact) {
			found = append(found, a)
		}
	}
	slices.SortFunc(found, func(a, b Attachment) int { return strings.Compare(string(a.Manifest), string(b.Manifest)) })
	return found, nil
}

// Fetch returns the bytes of a bundle that List has found. They are those of its
// digest.
//
// NotFound: the registry lists it, and has lost it. Invalid: it is too large, or what
// came is something else. Denied and Unavailable: as List.
func Fetch(ctx context.Context, repository name.Repository, a Attachment, opts ...remote.Option) ([]byte, error) {
	if a.Err != nil {
		return nil, a.Err
	}
	what := fmt.Sprintf("read the statement %s in %s", a.Bundle, repository)
	if a.Size > MaxBundle {
		return nil, model.Errorf(model.Invalid, "cannot %s: it has %d bytes, more than %d", what, a.Size, MaxBundle)
	}
	puller, _, err := clients(opts)
	if err != nil {
		return nil, err
	}
	layer, err := puller.Layer(ctx, repository.Digest(string(a.Bundle)))
	if err != nil {
		return nil, registryError(ctx, what, err)
	}
	in, err := layer.Compressed() // as it is: its reader compares it with its digest
	if err != nil {
		return nil, registryError(ctx, what, err)
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, MaxBundle+1))
	if err != nil {
		return nil, registryError(ctx, what, err)
	}
	if BundleDigest(text) != a.Bundle {
		return nil, model.Errorf(model.Invalid, "cannot %s: what came is not what that digest names", what)
	}
	return text, nil
}

// clients returns what reads from a registry and what writes to it.
func clients(opts []remote.Option) (*remote.Puller, *remote.Pusher, error) {
	opts = append([]remote.Option{remote.WithUserAgent("kiln")}, opts...)
	puller, err := remote.NewPuller(opts...)
	if err != nil {
		return nil, nil, model.Errorf(model.Invalid, "cannot speak to a registry: %w", err)
	}
	pusher, err := remote.NewPusher(opts...)
	if err != nil {
		return nil, nil, model.Errorf(model.Invalid, "cannot speak to a registry: %w", err)
	}
	return puller, pusher, nil
}

// referrers lists what refers to the image, by the API or the tag.
func referrers(ctx context.Context, puller *remote.Puller, image name.Digest) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(image, remote.WithContext(ctx), remote.Reuse(puller))
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return m.Manifests, nil
}

// errOtherArtifact: an artifact has something else in it than a bundle.
var errOtherArtifact = errors.New("there is no bundle in it")

// attachmentOf reads the manifest of an artifact: the list by tag has no annotations,
// and no list has the digest of the bundle.
func attachmentOf(ctx context.Context, puller *remote.Puller, image name.Digest, manifest v1.Hash) Attachment {
	a := Attachment{Manifest: digest.Digest(manifest.String())}
	what := fmt.Sprintf("read the statement %s in %s", a.Manifest, image.Context())
	got, err := puller.Get(ctx, image.Context().Digest(manifest.String()))
	if err != nil {
		a.Err = registryError(ctx, what, err)
		return a
	}
	var m v1.Manifest
	switch err := json.Unmarshal(got.Manifest, &m); {
	case err != nil:
		a.Err = model.Errorf(model.Invalid, "cannot %s: its manifest is none: %w", what, err)
	case len(m.Layers) != 1 || !strings.HasPrefix(string(m.Layers[0].MediaType), bundlePrefix):
		a.Err = model.Errorf(model.Invalid, "cannot %s: %w", what, errOtherArtifact)
	case m.Subject == nil || m.Subject.Digest.String() != image.DigestStr():
		a.Err = model.Errorf(model.Invalid, "cannot %s: it is not attached to %s, though it is listed there", what, image.DigestStr())
	}
	if a.Err != nil {
		return a
	}
	a.Bundle, a.Size = digest.Digest(m.Layers[0].Digest.String()), m.Layers[0].Size
	a.PredicateType = m.Annotations[annotationPredicate]
	if at, err := time.Parse(time.RFC3339, m.Annotations[annotationCreated]); err == nil {
		a.Created = at.UTC()
	}
	return a
}

// registryError says why a registry did not do what was asked for.
func registryError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch status := answer.StatusCode; {
		case status == http.StatusNotFound:
			return model.Errorf(model.NotFound, "cannot %s: the registry does not have it", what).
				WithHint("check the name and the digest; push the image before what is attached to it")
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			return model.Errorf(model.Denied, "cannot %s: the registry refuses: %w", what, err).
				WithHint("log in to the registry as the user that runs kiln: docker login")
		case status >= http.StatusBadRequest && status < http.StatusInternalServerError && status != http.StatusTooManyRequests:
			return model.Errorf(model.Invalid, "cannot %s: the registry answered: %w", what, err)
		}
		return model.Errorf(model.Unavailable, "cannot %s: the registry answered: %w", what, err)
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) {
		return model.Errorf(model.Unavailable, "cannot %s: %w", what, err)
	}
	return model.Errorf(model.Invalid, "cannot %s: what the registry gave cannot be used: %w", what, err)
}
