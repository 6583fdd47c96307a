package layers

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// Entry is an entry of a layer's archive.
type Entry struct {
	// Header is the archive's own, but for this: every regular file is a tar.TypeReg,
	// and the target of a hard link is a path such as Path.
	*tar.Header
	Layer Layer
	// Path has neither a slash at its beginning nor dots in it; the root is ".". For
	// a whiteout it is the path of what is removed.
	Path string
	// Whiteout says that the entry is no file: it removes one of the layers below.
	Whiteout Whiteout
	// Content is that of a regular file. It need not be read, and must not be once
	// the visit is over.
	Content io.Reader
}

// Whiteout is what an entry removes (layer.md, "Whiteouts").
type Whiteout string

// The whiteouts.
const (
	NoWhiteout Whiteout = ""
	OfPath     Whiteout = "path"   // what the layers below have at Path
	OfContents Whiteout = "opaque" // what the layers below have in the directory Path
)

// How an entry says so.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// The bounds of Linux.
const (
	maxPath  = 4096               // bytes (limits.h)
	maxName  = 255                // bytes (limits.h)
	maxOwner = math.MaxUint32 - 1 // the one above says "do not change" (chown(2))
	maxMajor = 1<<12 - 1          // of a device (kdev_t.h)
	maxMinor = 1<<20 - 1
)

// Removed tells whether a clean path in an archive is a whiteout's, and returns the
// path that it is about. What AUFS kept for itself (.wh..wh.plnk) is nothing special:
// containerd unpacks it as anything else.
func Removed(at string) (string, Whiteout, error) {
	dir, base := path.Split(at)
	switch {
	case base == whiteoutOpaque:
		return path.Clean(dir), OfContents, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		base = strings.TrimPrefix(base, whiteoutPrefix)
		if base == "" || base == "." || base == ".." {
			return "", NoWhiteout, errors.New("it is a whiteout of nothing")
		}
		return dir + base, OfPath, nil
	}
	return at, NoWhiteout, nil
}

// clean returns a name of an archive as a path inside of the image.
//
// As those do who unpack layers, it takes an absolute name as one from the image's
// root; a name with dots that lead upwards is refused, wherever they lead.
func clean(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("it has no name")
	case len(name) > maxPath:
		return "", fmt.Errorf("its name has %d bytes, and Linux takes %d", len(name), maxPath)
	case strings.IndexByte(name, 0) >= 0:
		return "", errors.New("its name has a zero byte in it")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("its name leads out of the image")
		}
		if len(part) > maxName {
			return "", fmt.Errorf("a part of its name has %d bytes, and Linux takes %d", len(part), maxName)
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

// judge makes an Entry of a header; ok is false for what is none.
func (w *Walker) judge(h *tar.Header) (e *Entry, ok bool, err error) {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader: // "git archive" makes them
		return nil, false, nil
	case tar.TypeReg, tar.TypeRegA: //nolint:staticcheck // old archives have TypeRegA
		h.Typeflag = tar.TypeReg
	case tar.TypeGNUSparse:
		return nil, false, hintError{errors.New("it is sparse in a way that images do not have"), "write the archive anew, without --sparse, or with --format=posix"}
	case tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return nil, false, fmt.Errorf("it is of a kind (%q) that no image has", h.Typeflag)
	}
	e = &Entry{Header: h}
	name, err := clean(h.Name)
	if err != nil {
		return nil, false, err
	}
	if e.Path, e.Whiteout, err = Removed(name); err != nil {
		return nil, false, err
	}
	if w.Relative && strings.HasPrefix(h.Name, "/") {
		return nil, false, errors.New("its name leads out of the image: it is absolute")
	}
	if e.Path == "." && e.Whiteout == NoWhiteout && h.Typeflag != tar.TypeDir {
		return nil, false, errors.New("the root of an image is a directory")
	}
	if err := w.judgeLink(h); err != nil {
		return nil, false, err
	}
	return e, true, judgeAttributes(h)
}

func (w *Walker) judgeLink(h *tar.Header) error {
	if len(h.Linkname) > maxPath {
		return fmt.Errorf("the path that it links to has %d bytes, and Linux takes %d", len(h.Linkname), maxPath)
	}
	if h.Typeflag != tar.TypeLink {
		return nil // where a symbolic link leads is looked up inside of the image
	}
	to, err := clean(h.Linkname)
	switch {
	case h.Linkname == "":
		return errors.New("it is a link to nothing")
	case err != nil:
		return fmt.Errorf("it is a link to %q, which leads out of the image or cannot be: %w", clip(h.Linkname), err)
	case w.Relative && strings.HasPrefix(h.Linkname, "/"):
		return fmt.Errorf("it is a link to %q, which leads out of the image: it is absolute", clip(h.Linkname))
	}
	h.Linkname = to
	return nil
}

// judgeAttributes refuses what Linux would take for something else.
func judgeAttributes(h *tar.Header) error {
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || int64(id) > maxOwner {
			return fmt.Errorf("it belongs to user %d and group %d, and Linux has none above %d", h.Uid, h.Gid, int64(maxOwner))
		}
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return fmt.Errorf("it is a device with the numbers %d:%d, which Linux does not have", h.Devmajor, h.Devminor)
		}
	}
	for key := range h.PAXRecords {
		name := strings.TrimPrefix(key, "SCHILY.xattr.") // as libarchive, GNU tar and Go write them
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			return fmt.Errorf("it has the attribute %q, by which one layer changes what is seen of others", clip(name))
		}
	}
	return nil
}
