package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// Pull gets an image from its registry, records it under its digest and under
// ref, and unpacks it. ref is a name with a tag or with a digest; where it
// names several platforms, this machine's is taken. Credentials are those of
// docker's configuration file. Registries on the loopback interface are spoken
// to without TLS, no other.
//
// NotFound: the registry has no such image. Denied: it does not give it.
// Unavailable: it cannot be reached. Invalid: it is not a reference, or what
// the registry gave does not match its digest.
func (s *Store) Pull(ctx context.Context, ref string, progress func(Progress)) (model.Image, error) {
	full, err := Normalize(ref)
	if err != nil {
		return model.Image{}, err
	}
	parsed, err := name.ParseReference(full)
	if err != nil {
		return model.Image{}, model.Errorf(model.Invalid, "cannot pull %q: %w", ref, err)
	}
	remoteImage, err := remote.Image(parsed, append(Reach(s.keys, s.transport),
		remote.WithContext(ctx),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
	)...)
	if err != nil {
		return model.Image{}, pullError(ctx, ref, err)
	}
	var img model.Image
	err = s.leased(ctx, func(ctx context.Context, to *ingest) error {
		desc, err := s.fetch(ctx, to, ref, remoteImage, progress)
		if err != nil {
			return err
		}
		progress(Progress{Phase: "unpacking", Bytes: desc.Size})
		img, err = s.admit(ctx, desc, full, []string{full})
		return err
	})
	return img, err
}

// fetch stores the content of a registry's image. The store verifies what
// arrives against the digests of the manifest, and the manifest against its own.
func (s *Store) fetch(ctx context.Context, to *ingest, ref string, img v1.Image, progress func(Progress)) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	raw, err := img.RawManifest()
	if err != nil {
		return none, pullError(ctx, ref, err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return none, pullError(ctx, ref, err)
	}
	var m ocispec.Manifest
	if err := decodeJSON(raw, &m); err != nil {
		return none, err
	}
	if !images.IsManifestType(string(mediaType)) {
		return none, model.Errorf(model.Invalid, "cannot pull %s: it is of the kind %q, not an image", ref, mediaType)
	}
	read := int64(0)
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := fetchBlob(ctx, to, ref, img, m, d); err != nil {
			return none, err
		}
		read += d.Size
		progress(Progress{Phase: "reading", Bytes: read})
	}
	desc := ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	w, err := content.OpenWriter(ctx, to, content.WithRef(desc.Digest.String()), content.WithDescriptor(desc))
	if err == nil {
		defer w.Close()
		err = content.Copy(ctx, w, bytes.NewReader(raw), desc.Size, desc.Digest, content.WithLabels(manifestLabels(m.Config, m.Layers)))
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return none, unavailable("store the image", err)
	}
	if err := s.labelChildren(ctx, desc); err != nil {
		return none, err
	}
	return s.platformManifest(ctx, desc)
}

// fetchBlob stores the configuration or a layer, unless it is here.
func fetchBlob(ctx context.Context, to *ingest, ref string, img v1.Image, m ocispec.Manifest, d ocispec.Descriptor) error {
	w, err := content.OpenWriter(ctx, to, content.WithRef(d.Digest.String()), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return unavailable("store the image", err)
	}
	defer w.Close()
	var source io.ReadCloser
	if d.Digest == m.Config.Digest {
		raw, err := img.RawConfigFile()
		if err != nil {
			return pullError(ctx, ref, err)
		}
		source = io.NopCloser(bytes.NewReader(raw))
	} else {
		layer, err := img.LayerByDigest(v1.Hash{Algorithm: d.Digest.Algorithm().String(), Hex: d.Digest.Encoded()})
		if err != nil {
			return pullError(ctx, ref, err)
		}
		if source, err = layer.Compressed(); err != nil {
			return pullError(ctx, ref, err)
		}
	}
	defer source.Close()
	in := &input{ctx: ctx, r: source, progress: func(Progress) {}}
	if err := content.Copy(ctx, w, in, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		var netErr net.Error
		if errors.As(in.err, &netErr) || errors.Is(in.err, io.ErrUnexpectedEOF) {
			return pullError(ctx, ref, in.err)
		}
		return model.Errorf(model.Invalid, "cannot pull %s: what the registry gave for %s does not match its digest: %w", ref, d.Digest, err)
	}
	return nil
}

// pullError says why a registry gave nothing.
func pullError(ctx context.Context, ref string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusNotFound:
			return model.Errorf(model.NotFound, "cannot pull %s: its registry has no such image", ref).
				WithHint("check the name, the tag and the digest")
		case http.StatusUnauthorized, http.StatusForbidden:
			return model.Errorf(model.Denied, "cannot pull %s: its registry refuses: %w", ref, err).
				WithHint("log in to the registry as the user that runs kiln: docker login")
		}
		return model.Errorf(model.Unavailable, "cannot pull %s: its registry answered: %w", ref, err)
	}
	if model.CodeOf(err) == model.Denied {
		return model.Errorf(model.Denied, "cannot pull %s: %w", ref, err)
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) {
		return model.Errorf(model.Unavailable, "cannot pull %s: its answer broke off, or did not come: %w", ref, err)
	}
	return model.Errorf(model.Invalid, "cannot pull %s: what its registry gave is not what was asked for: %w", ref, err)
}

// tlsOutside refuses plain HTTP beyond the loopback interface.
type tlsOutside struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t tlsOutside) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" || isLoopback(r.URL.Hostname()) {
		return t.next.RoundTrip(r)
	}
	return nil, model.Errorf(model.Denied, "the registry %s speaks no TLS", r.URL.Host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
