package contents

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// Discrepancy is a place at which two images are not the same, byte for byte.
type Discrepancy struct {
	Layer int    `json:"layer"`          // from 1; 0: the configuration
	Path  string `json:"path,omitempty"` // in the layer, or of a setting in the configuration; "": the layer as a whole
	// Aspect is what differs: content, mode, owner, time, link, device, kind, names
	// (of the owner), attribute NAME, form (how the archive is written), order,
	// presence, value.
	Aspect string `json:"aspect"`
	Offset int64  `json:"offset,omitempty"` // of the first byte that differs, where Aspect is content; -1: not looked for
	First  string `json:"first"`            // what the first image has; "": nothing
	Second string `json:"second"`
}

// The bounds of a comparison.
const (
	comparedEntries = 2_000_000 // of the layers together
	offsetsTold     = 50        // contents that are read again to find where they differ
	offsetBytes     = 64 << 20  // how large such a content may be
	excerptBytes    = 24
)

// Compare says where two images differ which should be the same: also in what Diff
// passes over, such as times, and the order and form of the layers' archives. Layers
// are compared with those in the same place; equal ones are not read.
//
// Invalid: a layer is no archive, or has too much in it. Unavailable: it cannot be
// had now.
func (r Reader) Compare(ctx context.Context, first, second v1.Image) ([]Discrepancy, error) {
	c := &collation{ctx: ctx, dir: r.Dir}
	if err := c.configs(first, second); err != nil {
		return nil, err
	}
	var stacks [2][]v1.Layer
	for i, img := range []v1.Image{first, second} {
		var err error
		if stacks[i], err = img.Layers(); err != nil {
			return nil, layers.Unreadable(ctx, "the image", err)
		}
	}
	if a, b := len(stacks[0]), len(stacks[1]); a != b {
		c.add(Discrepancy{Aspect: "layers", First: fmt.Sprint(a), Second: fmt.Sprint(b)})
	}
	for i := range min(len(stacks[0]), len(stacks[1])) {
		if err := c.layer(i+1, stacks[0][i], stacks[1][i]); err != nil {
			return nil, err
		}
	}
	return c.found, nil
}

// collation collects what differs.
type collation struct {
	ctx     context.Context //nolint:containedctx // of one call
	dir     string
	entries int
	found   []Discrepancy
}

func (c *collation) add(d Discrepancy) { c.found = append(c.found, d) }

// configs compares the configurations, but for the layers' digests, which follow
// from the layers.
func (c *collation) configs(first, second v1.Image) error {
	var values [2]map[string]any
	for i, img := range []v1.Image{first, second} {
		text, err := img.RawConfigFile()
		if err != nil {
			return layers.Unreadable(c.ctx, "the image", err)
		}
		if err := json.Unmarshal(text, &values[i]); err != nil {
			return model.Errorf(model.Invalid, "cannot read the image's configuration: %w", err)
		}
		delete(values[i], "rootfs")
	}
	c.values("", values[0], values[1])
	return nil
}

// values compares two values of JSON.
func (c *collation) values(at string, a, b any) {
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			all := maps.Clone(a)
			maps.Copy(all, b)
			for _, key := range slices.Sorted(maps.Keys(all)) {
				c.values(strings.TrimPrefix(at+"."+key, "."), a[key], b[key])
			}
			return
		}
	case []any:
		if b, ok := b.([]any); ok && len(a) == len(b) {
			for i := range a {
				c.values(fmt.Sprintf("%s[%d]", at, i), a[i], b[i])
			}
			return
		}
	}
	first, second := jsonText(a), jsonText(b)
	if first != second {
		c.add(Discrepancy{Path: at, Aspect: "value", First: first, Second: second})
	}
}

func jsonText(v any) string {
	if v == nil {
		return ""
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// member is an entry of a layer, and what is compared of it.
type member struct {
	header *tar.Header
	sum    [sha256.Size]byte
	at     int // in the archive
}

// layer compares two layers.
func (c *collation) layer(number int, first, second v1.Layer) error {
	var digests [2]v1.Hash
	for i, l := range []v1.Layer{first, second} {
		var err error
		if digests[i], err = l.Digest(); err != nil {
			return layers.Unreadable(c.ctx, "the image", err)
		}
	}
	if digests[0] == digests[1] {
		return nil
	}
	before := len(c.found)
	a, err := c.members(number, first)
	if err != nil {
		return err
	}
	b, err := c.members(number, second)
	if err != nil {
		return err
	}
	contents := c.compareMembers(number, a, b)
	if err := c.offsets(number, contents, first, second); err != nil {
		return err
	}
	if len(c.found) == before {
		c.whole(number, a, b)
	}
	return nil
}

// whole says how two layers differ that have the same members.
func (c *collation) whole(number int, a, b map[string]member) {
	for _, name := range slices.SortedFunc(maps.Keys(a), func(x, y string) int { return a[x].at - a[y].at }) {
		if a[name].at != b[name].at {
			c.add(Discrepancy{Layer: number, Path: name, Aspect: "order", First: fmt.Sprintf("entry %d of the archive", a[name].at), Second: fmt.Sprintf("entry %d", b[name].at)})
			return
		}
	}
	c.add(Discrepancy{Layer: number, Aspect: "form", First: "the same files", Second: "in an archive that is written otherwise"})
}

// members reads the entries of a layer by their names.
func (c *collation) members(number int, l v1.Layer) (map[string]member, error) {
	all := map[string]member{}
	err := c.read(number, l, func(name string, h *tar.Header, r io.Reader) error {
		if c.entries++; c.entries > comparedEntries {
			return model.Errorf(model.Invalid, "cannot compare the images: they have more than %d entries", comparedEntries)
		}
		m := member{header: h, at: len(all)}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return err
		}
		sum.Sum(m.sum[:0])
		for n := 2; ; n++ { // the same name again
			if _, twice := all[name]; !twice {
				break
			}
			name = fmt.Sprintf("%s (%d)", strings.TrimSuffix(name, fmt.Sprintf(" (%d)", n-1)), n)
		}
		all[name] = m
		return nil
	})
	return all, err
}

// read calls visit with each entry of a layer's archive.
func (c *collation) read(number int, l v1.Layer, visit func(name string, h *tar.Header, r io.Reader) error) error {
	plain, err := l.Uncompressed()
	if err != nil {
		return sourceErrorOf(c.ctx, number, err)
	}
	defer plain.Close()
	in := tar.NewReader(plain)
	for {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = visit(path.Clean("/" + h.Name)[1:], h, in)
		}
		if err != nil {
			return sourceErrorOf(c.ctx, number, err)
		}
	}
}

func sourceErrorOf(ctx context.Context, number int, err error) error {
	if e, ok := errors.AsType[*model.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return model.Errorf(model.Unavailable, "cannot read layer %d: %w", number, err)
}

// compareMembers compares what two layers have, and returns the names of those whose
// content differs: they are told by offsets.
func (c *collation) compareMembers(number int, a, b map[string]member) (contents []string) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, inA := a[name]
		y, inB := b[name]
		d := Discrepancy{Layer: number, Path: name}
		switch {
		case !inA:
			d.Aspect, d.Second = "presence", kindOf(y.header)
			c.add(d)
		case !inB:
			d.Aspect, d.First = "presence", kindOf(x.header)
			c.add(d)
		default:
			c.headers(d, x.header, y.header)
			if x.sum != y.sum {
				contents = append(contents, name)
			}
		}
	}
	return contents
}

// headers compares what is said of two entries.
func (c *collation) headers(d Discrepancy, a, b *tar.Header) {
	differ := func(aspect, first, second string) {
		if first != second {
			d.Aspect, d.First, d.Second = aspect, first, second
			c.add(d)
		}
	}
	differ("kind", kindOf(a), kindOf(b))
	differ("mode", fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode))
	differ("owner", fmt.Sprintf("%d:%d", a.Uid, a.Gid), fmt.Sprintf("%d:%d", b.Uid, b.Gid))
	differ("names", a.Uname+":"+a.Gname, b.Uname+":"+b.Gname)
	differ("time", a.ModTime.UTC().Format(time.RFC3339Nano), b.ModTime.UTC().Format(time.RFC3339Nano))
	differ("link", a.Linkname, b.Linkname)
	differ("device", fmt.Sprintf("%d:%d", a.Devmajor, a.Devminor), fmt.Sprintf("%d:%d", b.Devmajor, b.Devminor))
	all := maps.Clone(a.PAXRecords)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b.PAXRecords)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			differ("attribute "+name, excerpt([]byte(a.PAXRecords[key])), excerpt([]byte(b.PAXRecords[key])))
		}
	}
}

func kindOf(h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeDir:
		return "directory"
	case tar.TypeSymlink:
		return "symbolic link"
	case tar.TypeLink:
		return "hard link"
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "pipe"
	default:
		return "file"
	}
}

// offsets tells the contents that differ, and where: those of the first are kept
// while the second's are read.
func (c *collation) offsets(number int, names []string, first, second v1.Layer) error {
	if len(names) == 0 {
		return nil
	}
	wanted := map[string]bool{}
	for _, name := range names[:min(len(names), offsetsTold)] {
		wanted[name] = true
	}
	kept, err := newSpool(c.dir)
	if err != nil {
		return err
	}
	defer kept.close()
	spans := map[string]span{}
	err = c.read(number, first, func(name string, _ *tar.Header, r io.Reader) error {
		if !wanted[name] {
			return nil
		}
		part, err := kept.put(io.LimitReader(r, offsetBytes))
		if err == nil {
			kept.keep(part)
			spans[name] = part
		}
		return err
	})
	if err != nil {
		return err
	}
	told := map[string]Discrepancy{}
	err = c.read(number, second, func(name string, _ *tar.Header, r io.Reader) error {
		part, ok := spans[name]
		if !ok || !wanted[name] {
			return nil
		}
		d, err := difference(kept.open(part), io.LimitReader(r, offsetBytes))
		told[name] = d
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		d, ok := told[name]
		if !ok {
			d.Offset = -1
		}
		d.Layer, d.Path, d.Aspect = number, name, "content"
		c.add(d)
	}
	return nil
}

// difference finds the first byte at which two contents differ; -1: not in what was
// compared.
func difference(a, b io.Reader) (Discrepancy, error) {
	const piece = 64 << 10
	bufA, bufB := make([]byte, piece), make([]byte, piece)
	for at := int64(0); ; at += piece {
		n, err := io.ReadFull(a, bufA)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return Discrepancy{}, err
		}
		m, err := io.ReadFull(b, bufB)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return Discrepancy{}, err
		}
		x, y := bufA[:n], bufB[:m]
		if !bytes.Equal(x, y) {
			i := 0
			for i < min(n, m) && x[i] == y[i] {
				i++
			}
			from := max(0, i-excerptBytes/4)
			return Discrepancy{Offset: at + int64(i), First: excerpt(x[from:]), Second: excerpt(y[from:])}, nil
		}
		if n < piece {
			return Discrepancy{Offset: -1}, nil
		}
	}
}

// excerpt shows the beginning of bytes, printable.
func excerpt(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", b[:min(len(b), excerptBytes)])
}
