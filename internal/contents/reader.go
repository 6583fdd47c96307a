package contents

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// Reader reads images. The zero value is ready for use, and may be used by several
// goroutines.
type Reader struct {
	// Limits bound what is read of one image, and how many files and directories may
	// come of its entries.
	Limits layers.Limits
	// Unpacked says that the images were unpacked before (see layers.Walker).
	Unpacked bool
	// Dir is where what has to be read twice is put for a moment, in a file without a
	// name (a database of RPM's in one that has a name, too, while it is read); "": the
	// system's directory for such files.
	Dir string
	// Memory is what was learned of layers before, for other images that have them;
	// nil: nothing is remembered.
	Memory *Memory
}

// Packages is Reader.Packages within the limits that are there by default.
func Packages(ctx context.Context, img v1.Image) (Inventory, error) {
	return Reader{}.Packages(ctx, img)
}

// Diff is Reader.Diff within the limits that are there by default.
func Diff(ctx context.Context, a, b v1.Image) (Difference, error) {
	return Reader{}.Diff(ctx, a, b)
}

// Layer names a layer of an image.
type Layer struct {
	Index  int          `json:"index"`  // the lowest is 0
	Digest model.Digest `json:"digest"` // of the bytes as stored
}

// layersOf names an image's layers.
func layersOf(all []layers.Layer) []Layer {
	list := make([]Layer, len(all))
	for i, l := range all {
		list[i] = Layer{Index: l.Index, Digest: l.Digest}
	}
	return list
}
