package leaks

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// limits bound what a layer may make its reader do.
type limits struct {
	layers  int   // of an image
	entries int   // of an image
	name    int   // bytes of a path or a link's target; Linux has 4096
	bytes   int64 // of a layer, uncompressed
	free    int64 // bytes of a layer, uncompressed, whose ratio is not asked for
	ratio   int64 // uncompressed to compressed, past what is free
	window  int   // bytes of zstd's window, which is memory; its own tool has 128 MiB at most, unless asked
}

// defaults are far above the largest images that are in use.
func defaults() limits {
	return limits{layers: 1000, entries: 5_000_000, name: 4096, bytes: 256 << 30, free: 1 << 30, ratio: 1000, window: layers.MaxWindow}
}

// layer is one of an image's, as its manifest and its configuration name it.
type layer struct {
	index  int // from 0, the lowest
	digest v1.Hash
	diffID v1.Hash
	size   int64 // bytes, compressed, as the manifest says
	blob   v1.Layer
}

// String names the layer for people, who count from 1.
func (l layer) String() string { return fmt.Sprintf("layer %d (%s)", l.index+1, l.digest) }

// entry is one of a layer's.
type entry struct {
	*tar.Header
	path    string    // absolute and clean; of a whiteout, what it hides
	hides   bool      // a whiteout: path is gone
	hidesIn bool      // an opaque whiteout: what the layers below have in path is gone
	content io.Reader // of a regular file
}

// replaces reports whether the entry takes the place of a whole tree, should one
// be at its path.
func (e *entry) replaces() bool { return !e.hides && !e.hidesIn && e.Typeflag != tar.TypeDir }

// layersOf returns an image's layers, the lowest first, and its configuration.
//
// Invalid: the image cannot be read, or contradicts itself.
func (l limits) layersOf(image v1.Image) ([]layer, *v1.ConfigFile, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, nil, unreadable("the image's configuration", err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, nil, unreadable("the image's manifest", err)
	}
	blobs, err := image.Layers()
	if err != nil {
		return nil, nil, unreadable("the image's layers", err)
	}
	if len(blobs) != len(manifest.Layers) || len(blobs) != len(config.RootFS.DiffIDs) {
		return nil, nil, model.Errorf(model.Invalid, "cannot search the image: it has %d layers, and its configuration speaks of %d", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	if len(blobs) > l.layers {
		return nil, nil, model.Errorf(model.Invalid, "cannot search the image: it has %d layers, and at most %d are read", len(blobs), l.layers)
	}
	all := make([]layer, len(blobs))
	for i, b := range blobs {
		all[i] = layer{index: i, digest: manifest.Layers[i].Digest, diffID: config.RootFS.DiffIDs[i], size: manifest.Layers[i].Size, blob: b}
	}
	return all, config, nil
}

// unreadable says that what is attempted cannot be, by the state of the content
// or, if that is not its fault, of the machine.
func unreadable(what string, err error) error {
	if _, ok := errors.AsType[*model.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	code := model.Invalid
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		code = model.Unavailable
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		code = model.Unavailable
	}
	return model.Errorf(code, "cannot read %s: %w", what, err)
}

// walker reads layers, and counts over all it reads.
type walker struct {
	limits
	entries int
}

// walk reads a layer from its first byte to its last and shows visit each entry,
// which is valid until visit returns. It returns the layer's uncompressed size.
//
// Invalid: the layer is damaged, or has what no layer should have; the error names
// layer and entry.
func (w *walker) walk(ctx context.Context, l layer, visit func(*entry) error) (int64, error) {
	blob, err := l.blob.Compressed()
	if err != nil {
		return 0, unreadable(l.String(), err)
	}
	defer blob.Close()
	packed := &counter{ctx: ctx, r: blob}
	plain, err := layers.Unpack(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(w.window)))
	if err != nil {
		return 0, unreadable(l.String(), err)
	}
	defer plain.Close()
	bounded := &bound{walker: w, packed: packed, r: plain}
	t := tar.NewReader(bounded)
	at := "its beginning"
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, unreadable(fmt.Sprintf("%s, after %s", l, at), err)
		}
		at = fmt.Sprintf("entry %q", clip(h.Name))
		if err := w.visit(h, t, bounded, visit); err != nil {
			return 0, unreadable(fmt.Sprintf("%s, %s", l, at), err)
		}
	}
	// What follows the last entry is read as well, so that a reader that verifies
	// digests comes to its verdict.
	for _, r := range []io.Reader{bounded, packed} {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return 0, unreadable(fmt.Sprintf("%s, after %s", l, at), err)
		}
	}
	return bounded.n, nil
}

func (w *walker) visit(h *tar.Header, content io.Reader, b *bound, visit func(*entry) error) error {
	if w.entries++; w.entries > w.limits.entries {
		return fmt.Errorf("the image has more than %d entries", w.limits.entries)
	}
	e := &entry{Header: h}
	if err := e.place(w.name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		if h.Size > w.bytes-b.n {
			return fmt.Errorf("it says that it has %d bytes, and a layer has at most %d", h.Size, w.bytes)
		}
		e.Typeflag = tar.TypeReg
		// A sparse file has more bytes than the layer: they count too.
		e.content = &sparse{bound: b, r: content}
	case tar.TypeXGlobalHeader:
		return nil
	}
	return visit(e)
}

// place finds where an entry belongs.
func (e *entry) place(longest int) error {
	name := e.Name
	switch {
	case len(name) > longest || len(e.Linkname) > longest:
		return fmt.Errorf("its name or its target has more than %d bytes", longest)
	case e.Typeflag == tar.TypeXGlobalHeader:
		return nil
	case name == "":
		return errors.New("it has no name")
	case outside(name):
		return errors.New("its name leads out of the image")
	case e.Typeflag == tar.TypeLink && outside(e.Linkname):
		return fmt.Errorf("it is a link to %q, which leads out of the image", clip(e.Linkname))
	}
	e.path = path.Clean("/" + name)
	dir, base := path.Split(e.path)
	switch {
	case base == layers.WhiteoutOpaque:
		e.path, e.hidesIn = path.Clean(dir), true
	case strings.HasPrefix(base, layers.WhiteoutPrefix):
		hidden := base[len(layers.WhiteoutPrefix):]
		if hidden == "" || hidden == "." || hidden == ".." {
			return errors.New("it is a whiteout of nothing")
		}
		e.path, e.hides = path.Join(dir, hidden), true
	}
	return nil
}

// outside reports whether a name of an archive is absolute or climbs.
func outside(name string) bool {
	if strings.HasPrefix(name, "/") {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// clip shortens a name for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// counter counts what comes from outside, and ends with its context.
type counter struct {
	ctx context.Context
	r   io.Reader
	n   int64
}

func (c *counter) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// bound is the layer as a plain archive, within its limits.
type bound struct {
	*walker
	packed *counter
	r      io.ReadCloser
	n      int64
}

func (b *bound) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if cerr := b.add(int64(n)); cerr != nil {
		return 0, cerr
	}
	return n, err
}

func (b *bound) add(n int64) error {
	b.n += n
	switch {
	case b.packed.ctx.Err() != nil:
		return context.Cause(b.packed.ctx)
	case b.n > b.bytes:
		return fmt.Errorf("the layer has more than %d bytes uncompressed", b.bytes)
	case b.n > b.free && b.n/b.ratio > b.packed.n:
		return fmt.Errorf("%d bytes have become more than %d: the layer is made to exhaust who unpacks it", b.packed.n, b.n)
	}
	return nil
}

// sparse counts the bytes of a file that the archive does not have.
type sparse struct {
	*bound
	r io.Reader
}

func (s *sparse) Read(p []byte) (int, error) {
	before := s.n
	n, err := s.r.Read(p)
	if more := int64(n) - (s.n - before); more > 0 {
		if cerr := s.add(more); cerr != nil {
			return 0, cerr
		}
	}
	return n, err
}
