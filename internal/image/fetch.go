package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// blobs is where a repository of a registry has its blobs. What it gives is compared
// with nothing but its size: the store compares digests as it takes blobs in, and what
// package remote does, to compare them too, takes longer than all else of a pull.
type blobs struct {
	client     *http.Client
	repository name.Repository
}

// retries is how often, and after how long, a request is made again where the registry
// fails for the moment.
var retries = transport.Backoff{Duration: 500 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}

// blobsOf reaches a repository.
func (s *Store) blobsOf(ctx context.Context, repository name.Repository) (blobs, error) {
	login, err := authn.Resolve(ctx, s.keys, repository)
	if err != nil {
		return blobs{}, err
	}
	patient := transport.NewRetry(s.transport, transport.WithRetryBackoff(retries), transport.WithRetryPredicate(passing),
		transport.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
	rt, err := transport.NewWithContext(ctx, repository.Registry, login, transport.NewUserAgent(patient, userAgent), []string{repository.Scope(transport.PullScope)})
	return blobs{&http.Client{Transport: rt, CheckRedirect: outwards}, repository}, err
}

// passing tells whether an error may be gone the next time.
func passing(err error) bool {
	network, ok := errors.AsType[net.Error](err)
	return ok && network.Timeout() || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// maxRedirects is how often a registry may send on who asks for a blob.
const maxRedirects = 10

// outwards refuses to be sent to another host that is an address of a private network:
// a registry has no business there, and who asks may.
func outwards(to *http.Request, via []*http.Request) error {
	from := via[0].URL.Hostname()
	ip := net.ParseIP(to.URL.Hostname())
	switch {
	case len(via) > maxRedirects:
		return model.Errorf(model.Unavailable, "the registry %s sends to another place more than %d times", from, maxRedirects)
	case to.URL.Hostname() == from || ip == nil:
		return nil
	case ip.IsLoopback(), ip.IsPrivate(), ip.IsUnspecified(), ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast():
		return model.Errorf(model.Denied, "the registry %s sends to %s, an address of a private network", from, ip)
	}
	return nil
}

// open begins to fetch a blob.
func (b blobs) open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	at := url.URL{Scheme: b.repository.Scheme(), Host: b.repository.RegistryStr(), Path: "/v2/" + b.repository.RepositoryStr() + "/blobs/" + d.Digest.String()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	err = transport.CheckError(res, http.StatusOK)
	if err == nil && res.ContentLength >= 0 && res.ContentLength != d.Size {
		err = fmt.Errorf("%s has %d bytes there, and %d in the manifest", d.Digest, res.ContentLength, d.Size)
	}
	if err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	return res.Body, nil
}
