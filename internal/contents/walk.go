package contents

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
)

// Entry is an entry of a layer's archive.
type Entry struct {
	Layer Layer
	// Path has neither a slash at its beginning nor dots in it; the root is ".". For
	// a whiteout it is the path of what is removed.
	Path string
	// Whiteout says that the entry is no file: it removes one of the layers below.
	Whiteout Whiteout
	// Header is the archive's own. Its name is as it came; the target of a hard link
	// is a path such as Path.
	Header *tar.Header
}

// Whiteout is what an entry removes (OCI image specification 1.1, layer.md,
// "Whiteouts").
type Whiteout string

// The whiteouts.
const (
	NoWhiteout Whiteout = ""
	OfPath     Whiteout = "path"   // what the layers below have at Path
	OfContents Whiteout = "opaque" // what the layers below have in the directory Path
)

const whiteoutMeta = ".wh..wh." // begins what is of AUFS itself; no files

// The bounds of names, which are Linux's (limits.h).
const (
	maxPath = 4096 // bytes
	maxName = 255  // bytes
)

// Walk calls visit with each entry of each layer, the lowest layer first, and in
// the order of its archive. The reader has the contents of a regular file, and must
// not be used after visit has returned; it need not be read. An error of visit ends
// the walk and is returned as it is.
//
// Each layer is compared with its digest, when its end is reached: what visit has
// seen before may be somebody else's. Names that lead out of the image are refused.
//
// Invalid: a layer is damaged, broken, or past a bound; the message names layer and
// entry. Unavailable: it cannot be had now.
func (r Reader) Walk(ctx context.Context, img v1.Image, visit func(Entry, io.Reader) error) error {
	all, err := img.Layers()
	if err != nil {
		return manifestError(ctx, err)
	}
	b := &budget{limits: r.limits()}
	for i, l := range all {
		if _, err := walkLayer(ctx, i, l, b, visit); err != nil {
			return err
		}
	}
	return nil
}

// visitError carries an error of visit past what would say that it is the layer's.
type visitError struct{ error }

// walkLayer walks one layer, and returns what it unpacks to in bytes.
func walkLayer(ctx context.Context, at int, l v1.Layer, b *budget, visit func(Entry, io.Reader) error) (int64, error) {
	o, err := openLayer(ctx, at, l, b)
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

func (o *opened) entries(visit func(Entry, io.Reader) error) error {
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
		before = shown(h.Name)
		e, ok, err := o.entry(h)
		if err != nil {
			return fmt.Errorf("entry %q: %w", before, err)
		}
		if !ok {
			continue
		}
		in := &contentsOf{from: t}
		if err := visit(e, in); err != nil {
			if _, broken := errors.AsType[brokenError](err); broken || in.err != nil {
				return fmt.Errorf("entry %q: %w", before, err)
			}
			return visitError{err}
		}
	}
}

// contentsOf reads an entry, and knows whose fault it is that it cannot be read.
type contentsOf struct {
	from io.Reader
	err  error
}

func (c *contentsOf) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// brokenError is for those who visit entries: the entry cannot be, after those
// before it. The walk adds layer and entry.
type brokenError struct{ error }

func (b brokenError) Unwrap() error { return b.error }

func broken(format string, args ...any) error { return brokenError{fmt.Errorf(format, args...)} }

// shown is a name as messages have it.
func shown(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// entry makes an Entry of a header; ok is false for what is none.
func (o *opened) entry(h *tar.Header) (e Entry, ok bool, err error) {
	b := o.budget
	if b.entries++; b.entries > b.limits.Entries {
		return e, false, errEntries
	}
	if b.files += h.Size; b.files > b.limits.Bytes || h.Size > b.limits.Bytes {
		return e, false, errBytes
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader: // "git archive" makes them
		return e, false, nil
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return e, false, fmt.Errorf("it is of a kind (%q) that no image has", h.Typeflag)
	}
	e = Entry{Layer: o.Layer, Header: h}
	if e.Path, err = clean(h.Name); err != nil {
		return e, false, err
	}
	if len(h.Linkname) > maxPath {
		return e, false, errors.New("the path that it links to is longer than Linux has them")
	}
	if h.Typeflag == tar.TypeLink {
		if h.Linkname, err = clean(h.Linkname); err != nil {
			return e, false, fmt.Errorf("what it links to: %w", err)
		}
	}
	if e.Path == "." {
		if h.Typeflag != tar.TypeDir {
			return e, false, errors.New("the root of an image is a directory")
		}
		return e, true, nil
	}
	return whiteout(e)
}

// whiteout recognizes entries that remove something.
func whiteout(e Entry) (Entry, bool, error) {
	dir, base := path.Split(e.Path)
	switch {
	case base == layers.WhiteoutOpaque:
		e.Whiteout, e.Path = OfContents, path.Clean(dir)
	case strings.Contains("/"+e.Path, "/"+whiteoutMeta):
		return e, false, nil
	case strings.HasPrefix(base, layers.WhiteoutPrefix):
		base = strings.TrimPrefix(base, layers.WhiteoutPrefix)
		if base == "" || base == "." || base == ".." {
			return e, false, errors.New("it removes nothing that has a name")
		}
		e.Whiteout, e.Path = OfPath, dir+base
	}
	return e, true, nil
}

// clean returns a name of an archive as a path inside of the image. As those do who
// unpack layers, it takes an absolute name as one from the image's root; a name with
// dots that lead upwards is refused, wherever they lead.
func clean(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("its name has %d bytes, and Linux takes %d", len(name), maxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("its name has a zero byte in it")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("its name leads out of its directory")
		}
		if len(part) > maxName {
			return "", fmt.Errorf("a part of its name has %d bytes, and Linux takes %d", len(part), maxName)
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}
