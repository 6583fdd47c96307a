package layers

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"kiln/internal/model"
)

// Limits bound what an image may make its reader do. A field that is 0 has the
// value of DefaultLimits.
type Limits struct {
	Layers int // of the image
	// Entries is how many entries the layers' archives may have together.
	Entries int
	// Bytes is what the layers may unpack to together: as archives, and as files,
	// which sparse ones have more of than archives.
	Bytes int64
	// Ratio is how many times as large as its stored form a layer may get. It holds
	// from RatioFrom bytes on: small archives of nothing are harmless.
	Ratio     int64
	RatioFrom int64 // bytes
	// Window is how far back a zstd stream may refer, which is memory.
	Window uint64 // bytes
}

// DefaultLimits are far above what images that serve a purpose have, and low enough
// for a machine that serves others meanwhile.
var DefaultLimits = Limits{Layers: 1000, Entries: 2_000_000, Bytes: 64 << 30, Ratio: 1000, RatioFrom: 1 << 30, Window: MaxWindow}

// OrDefault returns the limits with nothing left at 0.
func (l Limits) OrDefault() Limits {
	d := DefaultLimits
	if l.Layers == 0 {
		l.Layers = d.Layers
	}
	if l.Entries == 0 {
		l.Entries = d.Entries
	}
	if l.Bytes == 0 {
		l.Bytes = d.Bytes
	}
	if l.Ratio == 0 {
		l.Ratio = d.Ratio
	}
	if l.RatioFrom == 0 {
		l.RatioFrom = d.RatioFrom
	}
	if l.Window == 0 {
		l.Window = d.Window
	}
	return l
}

// Walker walks the layers of one image, one after the other, and counts over all of
// them. A copy counts on from where the original is.
type Walker struct {
	// Relative refuses absolute names, which others take as ones from the root.
	Relative bool
	// Unpacked says that the image was unpacked before, which compares each layer's
	// archive with its diff id: that is not done again, as it takes longer than the
	// walk itself.
	Unpacked bool

	limits  Limits
	layers  int
	entries int
	bytes   int64 // of archives
	files   int64 // bytes of the files in them
}

// NewWalker returns a walker that keeps to the limits.
func NewWalker(l Limits) Walker { return Walker{limits: l.OrDefault()} }

// Walk calls visit with each entry of the layer, in the order of its archive, and
// returns what the layer unpacks to in bytes. An error of visit ends the walk and is
// returned as it is; one that Broken makes is said of layer and entry.
//
// What is stored is compared with the layer's digest, and what that unpacks to with
// its diff id (see Unpacked), when the end is reached: what visit has seen before may be somebody
// else's.
//
// Invalid: the layer is damaged, has what no layer should have, or is past a bound;
// the message names layer and entry. Unavailable: it cannot be had now.
func (w *Walker) Walk(ctx context.Context, l Layer, visit func(*Entry) error) (int64, error) {
	if w.layers++; w.layers > w.limits.Layers {
		return 0, model.Errorf(model.Invalid, "cannot read %s: the image has more than %d layers", l, w.limits.Layers)
	}
	o, err := w.open(ctx, l)
	if err != nil {
		return 0, err
	}
	defer func() { o.close() }()
	err = o.entries(visit)
	if err == nil {
		err = o.finish()
	}
	if own, ok := errors.AsType[visitError](err); ok {
		return 0, own.error
	}
	if err != nil {
		return 0, o.verdict(err)
	}
	return o.out, nil
}

// visitError carries an error of visit past what would say that it is the layer's.
type visitError struct{ error }

// brokenError is for those who visit entries: the entry cannot be, after those
// before it. The walk adds layer and entry.
type brokenError struct{ error }

func (b brokenError) Unwrap() error { return b.error }

// Broken is an error for visitors of entries to return: the entry cannot be, after
// those before it.
func Broken(format string, args ...any) error { return brokenError{fmt.Errorf(format, args...)} }

// hintError says what to do about an entry.
type hintError struct {
	error
	hint string
}

// boundError says that a bound was reached: the rest of the layer is not read.
type boundError struct{ error }

// TooMuch is Broken for what is too large to be looked into.
func TooMuch(format string, args ...any) error {
	return brokenError{boundError{fmt.Errorf(format, args...)}}
}

func (b boundError) Unwrap() error { return b.error }

func exceeds(format string, args ...any) error { return boundError{fmt.Errorf(format, args...)} }

func (o *opened) entries(visit func(*Entry) error) error {
	t := tar.NewReader(o)
	before := ""
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if before != "" {
				err = fmt.Errorf("after entry %q: %w", before, err)
			}
			return err
		}
		before = clip(h.Name)
		if err := o.count(h); err != nil {
			return fmt.Errorf("entry %q: %w", before, err)
		}
		e, ok, err := o.judge(h)
		if err != nil {
			return fmt.Errorf("entry %q: %w", before, err)
		}
		if !ok {
			continue
		}
		in := &contents{opened: o, from: t}
		e.Layer, e.Content = o.Layer, in
		if err := visit(e); err != nil {
			if _, broken := errors.AsType[brokenError](err); broken || in.err != nil {
				return fmt.Errorf("entry %q: %w", before, err)
			}
			return visitError{err}
		}
	}
}

// count adds an entry to what the image has.
func (w *Walker) count(h *tar.Header) error {
	if w.entries++; w.entries > w.limits.Entries {
		return exceeds("the image has more than %d entries", w.limits.Entries)
	}
	if h.Size > w.limits.Bytes-w.files {
		return exceeds("it says that it has %d bytes, and the files of an image have at most %d", h.Size, w.limits.Bytes)
	}
	w.files += h.Size
	return nil
}

// contents reads an entry, knows whose fault it is that it cannot be read, and
// counts the bytes of a file that the archive does not have.
type contents struct {
	*opened
	from io.Reader
	err  error
}

func (c *contents) Read(p []byte) (int, error) {
	before := c.out
	n, err := c.from.Read(p)
	if hole := int64(n) - (c.out - before); hole > 0 {
		if cerr := c.add(hole); cerr != nil {
			n, err = 0, cerr
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}
