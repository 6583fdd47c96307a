package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

const (
	snapshotter = "overlayfs"
	pinPrefix   = "kiln/" // of the image records by which images are found, before the digest

	preparedLabel = "kiln.prepared" // on an image's record: present, verified, unpacked
	verifiedLabel = "kiln.verified" // on a blob: what its file's stat said when its bytes were compared with its digest
	serverLabel   = "kiln.server"   // on a container: it is a server's
)

func pinName(d model.Digest) string { return pinPrefix + string(d) }

func (e *Engine) scoped(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.namespace())
}

func (e *Engine) ensureNamespace(ctx context.Context, c *client.Client) error {
	err := c.NamespaceService().Create(ctx, e.namespace(), nil)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("cannot make containerd's namespace %s: %w", e.namespace(), err)
	}
	return nil
}

// Prepare implements engine.Engine.
func (e *Engine) Prepare(ctx context.Context, digest model.Digest) error {
	ctx = e.scoped(ctx)
	if !model.ValidDigest(string(digest)) {
		return model.Errorf(model.Invalid, "cannot prepare image %q: that is no digest", digest)
	}
	record, err := e.client.ImageService().Get(ctx, pinName(digest))
	if errdefs.IsNotFound(err) {
		return model.Errorf(model.NotFound, "cannot prepare image %s: it is not on this machine", digest.Short()).
			WithHint("build or import it again")
	}
	if err != nil {
		return containerdError(err, "prepare image %s", digest.Short())
	}
	if err := e.wholeBlobs(ctx, digest, record); err != nil {
		return err
	}
	image := client.NewImage(e.client, record)
	if ok, err := image.IsUnpacked(ctx, snapshotter); err != nil || !ok {
		if err := image.Unpack(ctx, snapshotter); err != nil {
			return containerdError(err, "unpack image %s", digest.Short())
		}
	}
	config, err := image.Spec(ctx)
	if err != nil {
		return containerdError(err, "read the configuration of image %s", digest.Short())
	}
	if err := e.wholeImage(ctx, digest, record, chainsOf(config)); err != nil {
		return err
	}
	if record.Labels[preparedLabel] != "" {
		return nil
	}
	record.Labels = map[string]string{preparedLabel: "true"}
	if _, err := e.client.ImageService().Update(ctx, record, "labels."+preparedLabel); err != nil {
		return containerdError(err, "mark image %s as prepared", digest.Short())
	}
	return nil
}

var errCorrupt = errors.New("stored content is not what its digest says")

// blobBuffer is how much of a blob containerd is asked for at once, in bytes: each piece
// is a call.
const blobBuffer = 1 << 20

// verifyBlob compares a blob's bytes with its digest.
func verifyBlob(ctx context.Context, store content.Store, d ocispec.Descriptor) error {
	r, err := store.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	verifier := d.Digest.Verifier()
	if _, err := io.CopyBuffer(verifier, content.NewReader(r), make([]byte, blobBuffer)); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("%s: %w", d.Digest, errCorrupt)
	}
	return nil
}

// imageConfig returns the configuration of a prepared image and the snapshot of
// its file system ("" for an image without layers).
func (e *Engine) imageConfig(ctx context.Context, digest model.Digest) (images.Image, ocispec.Image, string, error) {
	record, err := e.client.ImageService().Get(ctx, pinName(digest))
	if err == nil && record.Labels[preparedLabel] == "" {
		err = errdefs.ErrNotFound
	}
	if errdefs.IsNotFound(err) {
		return record, ocispec.Image{}, "", model.Errorf(model.Precondition, "image %s was not prepared", digest.Short())
	}
	if err != nil {
		return record, ocispec.Image{}, "", containerdError(err, "look up image %s", digest.Short())
	}
	config, err := client.NewImage(e.client, record).Spec(ctx)
	if err != nil {
		return record, config, "", containerdError(err, "read the configuration of image %s", digest.Short())
	}
	return record, config, identity.ChainID(config.RootFS.DiffIDs).String(), nil
}

// preparedImages lists the images that are present and whole.
func (e *Engine) preparedImages(ctx context.Context) ([]model.Digest, error) {
	records, err := e.client.ImageService().List(ctx, `name~="^kiln/sha256:"`)
	if err != nil {
		return nil, containerdError(err, "list the images")
	}
	var digests []model.Digest
	for _, r := range records {
		if r.Labels[preparedLabel] != "" {
			digests = append(digests, model.Digest(strings.TrimPrefix(r.Name, pinPrefix)))
		}
	}
	return digests, nil
}

// shortHash names something by its parts, in 32 hexadecimal digits.
func shortHash(parts ...string) string {
	sum := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// containerdError says what could not be done, and how that is to be taken:
// containerd being away will pass, an ended context leaves open what happened.
func containerdError(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errdefs.IsCanceled(err), errdefs.IsDeadlineExceeded(err):
		return fmt.Errorf("cannot %s: %w", what, err)
	case errdefs.IsUnavailable(err):
		return model.Errorf(model.Unavailable, "cannot %s: containerd does not answer: %w", what, err)
	default:
		return model.Errorf(model.Internal, "cannot %s: %w", what, err)
	}
}
