package leaks

import (
	"archive/tar"
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
)

// defaults bound what an image may make its reader do: they are far above the
// largest images that are in use.
func defaults() layers.Limits {
	return layers.Limits{Entries: 5_000_000, Bytes: 256 << 30}
}

// ofBuild walks layers that a build has made: these have no absolute names.
func ofBuild(l layers.Limits) layers.Walker {
	w := layers.NewWalker(l)
	w.Relative = true
	return w
}

// entry is one of a layer's.
type entry struct {
	*layers.Entry
	path string // absolute and clean; of a whiteout, what it hides
}

// hides reports whether the entry is a whiteout: path is gone.
func (e *entry) hides() bool { return e.Whiteout == layers.OfPath }

// hidesIn reports whether the entry is an opaque whiteout: what the layers below
// have in path is gone.
func (e *entry) hidesIn() bool { return e.Whiteout == layers.OfContents }

// replaces reports whether the entry takes the place of a whole tree, should one
// be at its path.
func (e *entry) replaces() bool { return e.Whiteout == layers.NoWhiteout && e.Typeflag != tar.TypeDir }

// at returns a layer's entry as it is judged here.
func at(e *layers.Entry) *entry {
	if e.Path == "." {
		return &entry{e, "/"}
	}
	return &entry{e, "/" + e.Path}
}

// layersOf returns an image's layers, the lowest first, and its configuration.
//
// Invalid: the image cannot be read, or contradicts itself.
func layersOf(ctx context.Context, image v1.Image) ([]layers.Layer, *v1.ConfigFile, error) {
	all, err := layers.Of(ctx, image)
	if err != nil {
		return nil, nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, nil, layers.Unreadable(ctx, "the image's configuration", err)
	}
	return all, config, nil
}

// clip shortens a name for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
