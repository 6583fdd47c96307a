package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

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
	there, err := s.blobsOf(ctx, parsed.Context())
	if err != nil {
		return model.Image{}, pullError(ctx, ref, err)
	}
	p := &pull{Store: s, ref: ref, from: remoteImage, there: there, progress: progress}
	var img model.Image
	err = s.leased(ctx, func(ctx context.Context, to *ingest) error {
		p.to = to
		desc, err := p.manifest(ctx)
		if err == nil {
			err = p.layers(ctx, desc)
		}
		if err == nil {
			err = s.labelChildren(ctx, desc)
		}
		if err == nil {
			img, err = s.record(ctx, desc, full, []string{full})
		}
		return err
	})
	return img, err
}

// pull is an image on its way here. The store compares what arrives with the digests
// of the manifest, and the manifest with its own.
type pull struct {
	*Store
	to    *ingest
	ref   string
	from  v1.Image
	there blobs
	m     ocispec.Manifest

	mu       sync.Mutex
	read     int64
	progress func(Progress)
}

// manifest fetches the manifest and the configuration.
func (p *pull) manifest(ctx context.Context) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	raw, err := p.from.RawManifest()
	if err != nil {
		return none, pullError(ctx, p.ref, err)
	}
	mediaType, err := p.from.MediaType()
	if err != nil {
		return none, pullError(ctx, p.ref, err)
	}
	if err := decodeJSON(raw, &p.m); err != nil {
		return none, err
	}
	if !images.IsManifestType(string(mediaType)) {
		return none, model.Errorf(model.Invalid, "cannot pull %s: it is of the kind %q, not an image", p.ref, mediaType)
	}
	if _, err := p.blob(ctx, p.m.Config); err != nil {
		return none, err
	}
	desc := ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	w, err := content.OpenWriter(ctx, p.to, content.WithRef(desc.Digest.String()), content.WithDescriptor(desc))
	if err == nil {
		defer w.Close()
		err = content.Copy(ctx, w, bytes.NewReader(raw), desc.Size, desc.Digest, content.WithLabels(manifestLabels(p.m.Config, p.m.Layers)))
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return none, unavailable("store the image", err)
	}
	return p.platformManifest(ctx, desc)
}

// fetches is how many layers are fetched at once. With more, all come late, and the
// lowest, which is unpacked first, with them.
const fetches = 2

// layers fetches the layers, and judges and unpacks each as soon as it is here and
// those below it are unpacked.
func (p *pull) layers(ctx context.Context, desc ocispec.Descriptor) error {
	j, err := p.judging(ctx, desc)
	if err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	here, slots := make([]chan struct{}, len(j.layers)), make(chan struct{}, fetches)
	first := map[digest.Digest]chan struct{}{} // of those that are in the image twice
	for i, d := range p.m.Layers {
		if here[i] = first[d.Digest]; here[i] != nil {
			continue
		}
		here[i] = make(chan struct{})
		first[d.Digest] = here[i]
	}
	work.Go(func() error {
		for i, d := range p.m.Layers {
			if first[d.Digest] == nil {
				continue
			}
			delete(first, d.Digest)
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			work.Go(func() (err error) {
				defer func() { <-slots }()
				if j.layers[i].Proven, err = p.blob(ctx, d); err == nil {
					close(here[i])
				}
				return err
			})
		}
		return nil
	})
	work.Go(func() error {
		var chain []digest.Digest
		for i, d := range p.m.Layers {
			select {
			case <-here[i]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			layer := rootfs.Layer{Diff: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(j.layers[i].DiffID)}, Blob: d}
			err := j.layer(ctx, i)
			if err == nil {
				err = p.unpackLayer(ctx, layer, chain)
			}
			if err != nil {
				return err
			}
			chain = append(chain, layer.Diff.Digest)
		}
		return nil
	})
	return work.Wait()
}

// blob stores the configuration or a layer, unless it is here. Fresh: it was not, and
// was compared with its digest.
func (p *pull) blob(ctx context.Context, d ocispec.Descriptor) (fresh bool, err error) {
	defer func() {
		if err == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.read += d.Size
			p.progress(Progress{Phase: "reading", Bytes: p.read})
		}
	}()
	w, err := content.OpenWriter(ctx, p.to, content.WithRef(d.Digest.String()), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, unavailable("store the image", err)
	}
	defer w.Close()
	source, err := p.there.open(ctx, d)
	if err != nil {
		return false, pullError(ctx, p.ref, err)
	}
	defer source.Close()
	in := &input{ctx: ctx, r: source, progress: func(Progress) {}}
	err = content.Copy(ctx, w, in, d.Size, d.Digest)
	switch _, network := errors.AsType[net.Error](in.err); {
	case err == nil:
		return true, nil
	case errdefs.IsAlreadyExists(err):
		return false, nil
	case network, errors.Is(in.err, io.ErrUnexpectedEOF):
		return false, pullError(ctx, p.ref, in.err)
	case !errdefs.IsFailedPrecondition(err) && !errors.Is(err, io.ErrUnexpectedEOF):
		return false, unavailable("store the image", err)
	}
	return false, model.Errorf(model.Invalid, "cannot pull %s: what the registry gave for %s does not match its digest: %w", p.ref, d.Digest, err)
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
