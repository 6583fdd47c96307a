package image

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kiln/internal/model"
)

// How long a registry may be silent: before it answers, and in the middle of an
// answer.
const (
	answerTimeout = 30 * time.Second
	stallTimeout  = time.Minute
)

// Transport reaches registries: without TLS those on the loopback interface only, and
// none that falls silent for long.
func Transport() http.RoundTripper {
	base, ok := remote.DefaultTransport.(*http.Transport)
	if !ok {
		return tlsOutside{stalls{remote.DefaultTransport, stallTimeout}}
	}
	own := base.Clone()
	own.ResponseHeaderTimeout = answerTimeout
	return tlsOutside{stalls{own, stallTimeout}}
}

// userAgent is what kiln calls itself.
const userAgent = "kiln"

// Reach is how registries are spoken to: with the credentials that keys has, and each
// request at most three times where the registry fails for the moment.
func Reach(keys authn.Keychain, rt http.RoundTripper) []remote.Option {
	return []remote.Option{
		remote.WithAuthFromKeychain(keys), remote.WithTransport(rt), remote.WithUserAgent(userAgent),
		remote.WithRetryBackoff(retries),
	}
}

// stalls ends answers that fall silent.
type stalls struct {
	next  http.RoundTripper
	after time.Duration
}

// RoundTrip implements http.RoundTripper.
func (s stalls) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	res, err := s.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &watched{from: res.Body, after: s.after, cancel: cancel}
	body.timer = time.AfterFunc(s.after, func() { cancel(errStalled) })
	body.ctx = ctx
	res.Body = body
	return res, nil
}

// errStalled is a time-out, as of a connection.
var errStalled error = stalled{}

type stalled struct{}

// Error implements error.
func (stalled) Error() string { return "the registry fell silent in the middle of its answer" }

// Timeout implements net.Error.
func (stalled) Timeout() bool { return true }

// Temporary implements net.Error.
func (stalled) Temporary() bool { return true }

var _ net.Error = stalled{}

// watched is the body of an answer.
type watched struct {
	from   io.ReadCloser
	after  time.Duration
	ctx    context.Context //nolint:containedctx // of the one answer
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	timer  *time.Timer
}

// Read implements io.Reader.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.from.Read(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Reset(w.after)
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(w.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	err := w.from.Close()
	w.cancel(nil)
	return err
}

// Push puts an image of the store into a registry: its blobs, as far as they are not
// there, then its manifest under the tag. What breaks off leaves nothing that can be
// pulled; the same again goes on with what is missing.
//
// NotFound: it is not whole in the store. Denied: the registry does not take it.
// Unavailable: it cannot be reached, or fails.
func (s *Store) Push(ctx context.Context, d model.Digest, to name.Tag, opts ...remote.Option) error {
	blobs, err := s.Blobs(ctx, d)
	if err != nil {
		return err
	}
	stored, err := s.stored(ctx, blobs)
	if err != nil {
		return err
	}
	img, err := partial.CompressedToImage(stored)
	if err != nil {
		return model.Errorf(model.Internal, "cannot push image %s: %w", d.Short(), err)
	}
	if err := remote.Write(to, img, append([]remote.Option{remote.WithContext(ctx)}, opts...)...); err != nil {
		return pushError(ctx, to.String(), err)
	}
	// Not every registry that says that it has taken something has.
	got, err := remote.Head(to.Context().Digest(string(d)), append([]remote.Option{remote.WithContext(ctx)}, opts...)...)
	if err != nil {
		return pushError(ctx, to.String(), err)
	}
	if got.Digest.String() != string(d) {
		return model.Errorf(model.Unavailable, "cannot push %s: the registry has taken %s, and says that it has %s", to, d, got.Digest)
	}
	return nil
}

// stored returns an image of the store as go-containerregistry reads it.
func (s *Store) stored(ctx context.Context, blobs []Blob) (*storedImage, error) {
	img := &storedImage{ctx: ctx, store: s, mediaType: types.MediaType(blobs[0].MediaType), blobs: map[string]Blob{}}
	for _, b := range blobs {
		img.blobs[string(b.Digest)] = b
	}
	for i, to := range []*[]byte{&img.manifest, &img.config} {
		in, err := s.OpenBlob(ctx, blobs[i])
		if err != nil {
			return nil, err
		}
		*to, err = io.ReadAll(io.LimitReader(in, 16<<20))
		if err = errors.Join(err, in.Close()); err != nil {
			return nil, unavailable("read an image", err)
		}
	}
	return img, nil
}

// storedImage implements partial.CompressedImageCore.
type storedImage struct {
	ctx              context.Context //nolint:containedctx // of the one push
	store            *Store
	mediaType        types.MediaType
	manifest, config []byte
	blobs            map[string]Blob
}

// RawManifest implements partial.CompressedImageCore.
func (i *storedImage) RawManifest() ([]byte, error) { return i.manifest, nil }

// RawConfigFile implements partial.CompressedImageCore.
func (i *storedImage) RawConfigFile() ([]byte, error) { return i.config, nil }

// MediaType implements partial.CompressedImageCore.
func (i *storedImage) MediaType() (types.MediaType, error) { return i.mediaType, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (i *storedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	b, known := i.blobs[h.String()]
	if !known {
		return nil, model.Errorf(model.NotFound, "there is no layer %s", h)
	}
	return storedLayer{i, b, h}, nil
}

type storedLayer struct {
	of   *storedImage
	blob Blob
	hash v1.Hash
}

// Digest implements partial.CompressedLayer.
func (l storedLayer) Digest() (v1.Hash, error) { return l.hash, nil }

// Size implements partial.CompressedLayer.
func (l storedLayer) Size() (int64, error) { return l.blob.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.blob.MediaType), nil
}

// Compressed implements partial.CompressedLayer.
func (l storedLayer) Compressed() (io.ReadCloser, error) {
	return l.of.store.OpenBlob(l.of.ctx, l.blob)
}

// pushError says why a registry did not take something.
func pushError(ctx context.Context, ref string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if code := model.CodeOf(err); code == model.Denied || code == model.NotFound {
		return model.Errorf(code, "cannot push %s: %w", ref, err)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed:
			return model.Errorf(model.Denied, "cannot push %s: the registry refuses: %w", ref, err).
				WithHint("give the daemon credentials that may push there: kiln daemon --publish-login FILE")
		}
	}
	return model.Errorf(model.Unavailable, "cannot push %s: the registry failed: %w", ref, err)
}
