package local

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/layers"
	"kiln/internal/model"
)

// patientRate is how many bytes of a layer, as it is stored, are read a second
// when nobody waits for it: a gigabyte takes a quarter of an hour, once a day.
const patientRate = 1 << 20

const (
	howStat  = "stat of the image's layers on the machine's disk"
	howBytes = "every byte of the image's layers against the image"
)

// stack is what the layers of a server have to hold, uppermost first.
type stack struct {
	places []string // that kiln made for what it mounts
	blobs  []ocispec.Descriptor
	lowers []string
}

// stackOf finds the image's own layers for those that the server stands on.
func (e *Engine) stackOf(ctx context.Context, r *record) (*stack, error) {
	blobs, err := e.layersOf(ctx, r.Template.Image)
	if err != nil {
		return nil, err
	}
	s := &stack{blobs: blobs, lowers: r.Lowers}
	if len(r.Lowers) != len(s.blobs)+1 {
		return nil, model.Errorf(model.Unavailable, "cannot compare %s with its image: it stands on %d layers, the image has %d", r.ID, len(r.Lowers), len(s.blobs))
	}
	places, err := writablePlaces(r.Template)
	if err != nil {
		return nil, err
	}
	for _, place := range slices.Concat(ownDirs, ownFiles, places, configPaths(r.Template), []string{r.Cwd}) {
		s.places = append(s.places, place, resolvedIn(r.Lowers, place))
	}
	return s, nil
}

// resolvedIn follows the links of an image's file system on the way to the place,
// as kiln did when it made the place. Links that go round and round lead nowhere.
func resolvedIn(lowers []string, place string) string {
	const mostLinks = 40 // as in the kernel
	at, left := "/", strings.Split(place, "/")
	for links := 0; len(left) > 0 && links <= mostLinks; {
		name := left[0]
		left = left[1:]
		if name == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		file, info := imageFile(lowers, next)
		if info == nil || info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		target, err := os.Readlink(file)
		if err != nil {
			return place
		}
		if links++; path.IsAbs(target) {
			at = "/"
		}
		left = append(strings.Split(target, "/"), left...)
	}
	return at
}

// layersOf returns the image's layers, uppermost first. They are remembered: an
// image is named by the digest of its manifest.
func (e *Engine) layersOf(ctx context.Context, image model.Digest) ([]ocispec.Descriptor, error) {
	e.drift.mu.Lock()
	known := e.drift.images[image]
	e.drift.mu.Unlock()
	if known != nil {
		return known, nil
	}
	record, err := e.client.ImageService().Get(ctx, pinName(image))
	if err != nil {
		return nil, containerdError(err, "look up image %s", image.Short())
	}
	manifest, err := images.Manifest(ctx, e.client.ContentStore(), record.Target, client.NewImage(e.client, record).Platform())
	if err != nil {
		return nil, containerdError(err, "read the manifest of image %s", image.Short())
	}
	slices.Reverse(manifest.Layers)
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	if e.drift.images == nil || len(e.drift.images) >= maxPlans {
		e.drift.images = map[model.Digest][]ocispec.Descriptor{}
	}
	e.drift.images[image] = manifest.Layers
	return manifest.Layers, nil
}

// layerContent is what one layer has to hold.
type layerContent struct {
	blob   *ocispec.Descriptor // nil: the places that kiln made
	places []string
	below  []string // the layers below it
}

func (s *stack) content(i int) layerContent {
	c := layerContent{places: s.places, below: s.lowers[i+1:]}
	if i > 0 {
		c.blob = &s.blobs[i-1]
	}
	return c
}

// compare compares the layer's directory with its content: all of it, or only
// the paths given.
func (c layerContent) compare(ctx context.Context, e *Engine, dir string, only map[string]bool, depth engine.Depth) ([]model.Finding, error) {
	x := &comparison{
		dir: dir, only: only, content: c, how: howBytes,
		wrong: map[string]discrepancy{}, seen: map[string]presence{}, wanted: map[string]attributes{}, hiding: map[string]bool{},
	}
	if only != nil {
		x.how = howStat
	}
	if c.blob != nil {
		if err := x.archive(ctx, e.client.ContentStore(), *c.blob, depth == engine.Patient); err != nil {
			return nil, err
		}
		x.layer = c.blob.Digest.String()
	}
	if err := x.extra(ctx); err != nil {
		return nil, err
	}
	return x.findings(), nil
}

// comparison is one pass over a layer.
type comparison struct {
	dir     string
	layer   string // digest
	how     string
	only    map[string]bool
	content layerContent
	seen    map[string]presence    // that the layer has to hold, and what leads there
	wanted  map[string]attributes  // of what has any in the archive
	hiding  map[string]bool        // directories that hide what the layers below have in them
	wrong   map[string]discrepancy // by path; a later entry of an archive replaces an earlier one
	buffer  []byte
}

type discrepancy struct{ what, detail string }

// presence is how something comes to be in a layer.
type presence int

const (
	leads presence = iota + 1 // to what the layer holds
	holds
)

func (x *comparison) archive(ctx context.Context, store content.Store, blob ocispec.Descriptor, patient bool) error {
	ra, err := store.ReaderAt(ctx, blob)
	if err != nil {
		return containerdError(err, "read layer %s of the image", blob.Digest)
	}
	defer func() { _ = ra.Close() }()
	var in io.Reader = bufio.NewReaderSize(content.NewReader(ra), blobBuffer)
	if patient {
		in = &paced{ctx: ctx, from: in, began: time.Now()}
	}
	plain, err := compression.DecompressStream(in)
	if err != nil {
		return model.Errorf(model.Internal, "cannot unpack layer %s of the image: %w", blob.Digest, err)
	}
	defer func() { _ = plain.Close() }()
	entries := tar.NewReader(plain)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return model.Errorf(model.Internal, "cannot read layer %s of the image: %w", blob.Digest, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // no file
		}
		if err := x.entry(h, entries); err != nil {
			return err
		}
	}
}

// entry compares one entry of the archive with what is on the disk.
func (x *comparison) entry(h *tar.Header, from io.Reader) error {
	name, kind, err := layers.Removed(path.Clean("/" + h.Name))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read layer %s: entry %q: %w", x.dir, h.Name, err)
	case kind == layers.OfContents:
		x.leadTo(name)
		x.hiding[name] = true
		return nil // an attribute of its directory
	case name == "/":
		return nil // containerd makes it, whatever the archive says
	}
	gone := kind == layers.OfPath
	x.leadTo(path.Dir(name))
	x.want(h, name, gone)
	delete(x.wrong, name)
	if gone && len(x.content.below) == 0 {
		delete(x.seen, name)
		return nil // nothing is below that it could hide
	}
	x.seen[name] = holds
	if x.only != nil && !x.only[name] {
		return nil
	}
	info, err := os.Lstat(filepath.Join(x.dir, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		x.wrong[name] = discrepancy{fileRemoved, "the image has it"}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look at layer %s: %w", x.dir, err)
	}
	if gone {
		if !isWhiteout(info) {
			x.wrong[name] = discrepancy{fileChanged, "the image has removed it in this layer"}
		}
		return nil
	}
	why, err := x.differs(h, from, filepath.Join(x.dir, name), info)
	if err != nil {
		return err
	}
	if why != "" {
		x.wrong[name] = discrepancy{changedWhat(info), why}
	}
	return nil
}

// leadTo notes that something lies in the directory.
func (x *comparison) leadTo(dir string) {
	for at := dir; x.seen[at] == 0; at = path.Dir(at) {
		x.seen[at] = leads
	}
}

// want notes the attributes that an entry of the archive gives. All names of a
// file have the same.
func (x *comparison) want(h *tar.Header, name string, gone bool) {
	own := recorded(h.PAXRecords)
	switch {
	case h.Typeflag == tar.TypeLink && !gone:
		target := path.Clean("/" + h.Linkname)
		if x.wanted[target] == nil {
			x.wanted[target] = attributes{}
		}
		delete(x.wanted[target], fileCapabilities) // they are lost when the link is given its owner
		maps.Copy(x.wanted[target], own)
		x.wanted[name] = x.wanted[target]
	case h.Typeflag == tar.TypeDir && !gone:
		own = own.besides(x.wanted[name]) // it may be there already
		fallthrough
	default:
		delete(x.wanted, name)
		if own != nil {
			x.wanted[name] = own
		}
	}
	if h.Typeflag != tar.TypeDir {
		delete(x.hiding, name)
	}
}

func changedWhat(info fs.FileInfo) string {
	if info.IsDir() {
		return directoryChanged
	}
	return fileChanged
}

// differs says in what the file is another than the archive's.
func (x *comparison) differs(h *tar.Header, from io.Reader, file string, info fs.FileInfo) (string, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", nil
	}
	if h.Typeflag == tar.TypeLink {
		target, err := os.Lstat(filepath.Join(x.dir, path.Clean("/"+h.Linkname)))
		if err != nil || !os.SameFile(target, info) {
			return "wanted a hard link to " + h.Linkname, nil //nolint:nilerr // what cannot be found is what differs
		}
		return "", nil
	}
	want := h.FileInfo().Mode()
	if want.Type() != info.Mode().Type() {
		return fmt.Sprintf("wanted %s, seen %s", want, info.Mode()), nil
	}
	if h.Uid != int(st.Uid) || h.Gid != int(st.Gid) {
		return fmt.Sprintf("wanted owner %d:%d, seen %d:%d", h.Uid, h.Gid, st.Uid, st.Gid), nil
	}
	const allModes = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if h.Typeflag != tar.TypeSymlink && want&allModes != info.Mode()&allModes {
		return fmt.Sprintf("wanted mode %s, seen %s", want, info.Mode()), nil
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		if target, err := os.Readlink(file); err != nil || target != h.Linkname {
			return fmt.Sprintf("wanted a link to %s, seen one to %s", h.Linkname, target), nil //nolint:nilerr // what cannot be read is what differs
		}
	case tar.TypeChar, tar.TypeBlock:
		if st.Rdev != unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)) {
			return "wanted another device", nil
		}
	case tar.TypeReg:
		if h.Size != info.Size() {
			return fmt.Sprintf("wanted %d bytes, seen %d", h.Size, info.Size()), nil
		}
		return x.bytesDiffer(from, file)
	}
	return "", nil
}

// bytesDiffer compares a file with what the archive says, byte for byte.
func (x *comparison) bytesDiffer(want io.Reader, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("cannot read a layer's file: %w", err)
	}
	defer func() { _ = f.Close() }()
	const chunk = 64 << 10
	if x.buffer == nil {
		x.buffer = make([]byte, 2*chunk)
	}
	wanted, seen := x.buffer[:chunk], x.buffer[chunk:]
	for at := 0; ; {
		n, err := io.ReadFull(want, wanted)
		if n > 0 {
			m, err := io.ReadFull(f, seen[:n])
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				return "", fmt.Errorf("cannot read a layer's file: %w", err)
			}
			if m != n || !bytes.Equal(wanted[:n], seen[:n]) {
				for i := range m {
					if wanted[i] != seen[i] {
						m = i
						break
					}
				}
				return fmt.Sprintf("other content than the image's, from byte %d on", at+m), nil
			}
			at += n
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil
		}
		if err != nil {
			return "", model.Errorf(model.Internal, "cannot read the image's layer: %w", err)
		}
	}
}

// extra finds what is on the disk and not in the layer, and what nothing but an
// attribute shows.
func (x *comparison) extra(ctx context.Context) error {
	for _, place := range x.content.places {
		if x.content.blob == nil {
			x.leadTo(place)
		}
	}
	if x.only != nil {
		for name := range x.only {
			info, err := os.Lstat(filepath.Join(x.dir, name))
			if err != nil {
				continue // it has gone
			}
			if err := x.look(name, info); err != nil {
				return err
			}
		}
		return nil
	}
	return filepath.WalkDir(x.dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just gone
		}
		return x.look("/"+strings.TrimPrefix(strings.TrimPrefix(file, x.dir), "/"), info)
	})
}

// look looks at something that is on the disk.
func (x *comparison) look(name string, info fs.FileInfo) error {
	if _, known := x.wrong[name]; known || isWhiteout(info) && x.seen[name] != 0 {
		return nil
	}
	file := filepath.Join(x.dir, name)
	var before string // what the layers below have there
	var was fs.FileInfo
	if info.IsDir() {
		before, was = imageFile(x.content.below, name)
	}
	overDir := was != nil && was.IsDir()
	switch {
	case x.seen[name] == 0 && info.Mode()&fs.ModeSocket != 0:
		return nil // archives have none
	case x.seen[name] == 0 && name != "/" && !overDir: // else it is there for something that was in it
		x.wrong[name] = discrepancy{fileAdded, described(info)}
		return nil
	case x.content.blob == nil && info.Mode().IsRegular() && info.Size() > 0:
		x.wrong[name] = discrepancy{fileChanged, "kiln has made it empty"}
		return nil
	}
	is, err := attributesOf(file)
	if err != nil {
		return fmt.Errorf("cannot look at layer %s: %w", x.dir, err)
	}
	d := x.misplaced(name, info, is, overDir)
	if d.what == "" {
		d, err = x.misattributed(name, info, is, before, was)
	}
	if d.what != "" {
		x.wrong[name] = d
	}
	return err
}

// misplaced says in what the layer lies otherwise on those below it than it does
// in the image.
func (x *comparison) misplaced(name string, info fs.FileInfo, is attributes, overDir bool) discrepancy {
	if by := is.steers(); by != "" {
		return discrepancy{changedWhat(info), "it has the overlay's attribute " + by}
	}
	value, set := is[overlayOwn+"opaque"]
	switch {
	case !info.IsDir():
	case set && !x.hiding[name] && (x.content.blob != nil || overDir): // the overlay itself sets it where nothing is below
		return discrepancy{directoryReplaced, "it hides what the image has in it below this layer"}
	case x.hiding[name] && value != "y" && len(x.content.below) > 0:
		return discrepancy{directoryChanged, "it shows what the image hides with this layer"}
	}
	return discrepancy{}
}

// misattributed says in what the attributes are others than the image's. A
// directory that only leads to what the layer holds was made like the one below
// it; if that was changed later, it is that one that differs.
func (x *comparison) misattributed(name string, info fs.FileInfo, is attributes, before string, was fs.FileInfo) (discrepancy, error) {
	file := filepath.Join(x.dir, name)
	own, want := is.ofFile(info.Mode(), 0), x.wanted[name].ofFile(info.Mode(), 0)
	if was != nil && was.IsDir() && name != "/" {
		leading := x.seen[name] != holds
		if leading && changedAfter(was, info) {
			return discrepancy{}, nil
		}
		if why := otherRights(was, info, 0); why != "" && leading {
			return discrepancy{directoryChanged, why}, nil
		}
		if leading || own.differ(want) != "" {
			// What unpacked it may have made it like that one first.
			below, err := attributesOf(before)
			if err != nil {
				return discrepancy{}, err
			}
			if inherited := want.besides(below.ofFile(was.Mode(), 0)); leading || own.differ(inherited) == "" {
				want = inherited
			}
		}
	}
	_, inherits := x.wanted[path.Dir(name)][defaultACL]
	if why := otherThanArchived(file, own, want, inherits); why != "" {
		return discrepancy{changedWhat(info), why}, nil
	}
	return discrepancy{}, nil
}

// changedAfter compares the times of the last change, which nobody can set.
func changedAfter(a, b fs.FileInfo) bool {
	one, ok1 := a.Sys().(*syscall.Stat_t)
	other, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && one.Ctim.Nano() > other.Ctim.Nano()
}

func (x *comparison) findings() []model.Finding {
	var all []model.Finding
	for name, d := range x.wrong {
		detail := d.detail
		if x.layer != "" {
			detail += " (layer " + model.Digest(x.layer).Short() + ")"
		}
		all = append(all, model.Finding{Detector: model.DetectFiles, What: d.what, Where: name, Detail: detail, How: x.how})
	}
	slices.SortFunc(all, func(a, b model.Finding) int { return strings.Compare(a.Where, b.Where) })
	if len(all) > maxFindings {
		all = append(all[:maxFindings], model.Finding{
			Detector: model.DetectFiles, What: tooManyChange, Where: tooManyWhere, Detail: fmt.Sprintf("%d are", maxFindings), How: x.how,
		})
	}
	return all
}

// paced reads no faster than patientRate.
type paced struct {
	ctx   context.Context //nolint:containedctx // of the one pass that reads it
	from  io.Reader
	began time.Time
	read  int64
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	due := p.began.Add(time.Duration(p.read) * time.Second / patientRate)
	if wait := time.Until(due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		case <-timer.C:
		}
	}
	n, err := p.from.Read(b)
	p.read += int64(n)
	return n, err
}
