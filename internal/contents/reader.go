package contents

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/model"
)

// Limits bound what is read of one image. A field that is 0 has the value of
// DefaultLimits.
type Limits struct {
	// Entries is how many entries the layers' archives may have together, and how
	// many files and directories may come of them.
	Entries int
	// Bytes is what the layers may unpack to together: as archives, and as files.
	Bytes int64
	// Ratio is how many times as large as its compressed form a layer may get. It
	// holds from RatioFrom bytes on: small archives of nothing are harmless.
	Ratio     int64
	RatioFrom int64 // bytes
}

// DefaultLimits are far above what images that serve a purpose have, and low enough
// for a machine that serves others meanwhile.
var DefaultLimits = Limits{Entries: 2_000_000, Bytes: 64 << 30, Ratio: 1000, RatioFrom: 1 << 30}

// Reader reads images. The zero value is ready for use, and may be used by several
// goroutines.
type Reader struct {
	Limits Limits
	// Dir is where what has to be read twice is put for a moment, in a file without a
	// name (a database of RPM's in one that has a name, too, while it is read); "": the
	// system's directory for such files.
	Dir string
}

func (r Reader) limits() Limits {
	l := r.Limits
	if l.Entries == 0 {
		l.Entries = DefaultLimits.Entries
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Ratio == 0 {
		l.Ratio = DefaultLimits.Ratio
	}
	if l.RatioFrom == 0 {
		l.RatioFrom = DefaultLimits.RatioFrom
	}
	return l
}

// Packages is Reader.Packages within DefaultLimits.
func Packages(ctx context.Context, img v1.Image) (Inventory, error) {
	return Reader{}.Packages(ctx, img)
}

// Diff is Reader.Diff within DefaultLimits.
func Diff(ctx context.Context, a, b v1.Image) (Difference, error) {
	return Reader{}.Diff(ctx, a, b)
}

// Layer names a layer of an image.
type Layer struct {
	Index  int          `json:"index"`  // the lowest is 0
	Digest model.Digest `json:"digest"` // of the bytes as stored
}
