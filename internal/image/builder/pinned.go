package builder

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/images"

	"kiln/internal/image"
	"kiln/internal/model"
)

// pinnedPrefix is how the name of an image that is named by its digest alone,
// FROM kiln/sha256:…, reads in full.
const pinnedPrefix = "docker.io/kiln/"

// pinned finds images by their digest alone, too: those that kiln has built for
// a service have no other name.
type pinned struct{ images.Store }

// Get implements images.Store.
func (p pinned) Get(ctx context.Context, name string) (images.Image, error) {
	digest, ok := strings.CutPrefix(name, pinnedPrefix)
	if !ok || !model.ValidDigest(digest) {
		return p.Store.Get(ctx, name)
	}
	found, err := p.Store.Get(ctx, image.PinName(model.Digest(digest)))
	found.Name = name
	return found, err
}
