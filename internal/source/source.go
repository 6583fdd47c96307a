// Package source packs what an image is made from into an archive, reads such
// archives within bounds, and makes directories of them again.
//
// An archive is a tar, compressed with zstd: directories, regular files and symbolic
// links, a directory before what is in it, with modes and times and without owners.
// Its paths begin at the directory that build context, Containerfile and declaration
// have in common, so that what these say of one another holds wherever it is unpacked.
package source

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"kiln/internal/model"
)

// OriginFile names the image that a context was taken out of. It lies in the context,
// and no build and no archive has it.
const OriginFile = ".kiln-origin"

// The bounds of an archive.
const (
	MaxArchive = 256 << 20 // bytes, as stored
	MaxBytes   = 4 << 30   // of the files in it
	MaxEntries = 200_000
)

// The bounds of Linux (limits.h), and of what a decoder keeps in memory.
const (
	maxPath   = 4096
	maxName   = 255
	maxWindow = 32 << 20 // bytes
	// perEntry is how much of an archive an entry takes beside its content.
	perEntry = 16 << 10 // bytes
	// maxNames is how much memory the names of all entries may take.
	maxNames = 64 << 20 // bytes
)

// Extent is how much is in an archive.
type Extent struct {
	Files int   `json:"files"` // directories and links are none
	Bytes int64 `json:"bytes"` // of these
}

// Check reads an archive to its end, and returns how much is in it.
//
// Invalid: it is damaged, past a bound, or has what no archive of this package has.
func Check(r io.Reader) (Extent, error) {
	return read(r, func(_ *tar.Header, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	})
}

// entryError is what is wrong with an entry.
type entryError struct {
	name string
	err  error
}

func (e *entryError) Error() string { return fmt.Sprintf("entry %q: %v", e.name, e.err) }

func (e *entryError) Unwrap() error { return e.err }

// visitError carries an error of visit past what would say that it is the archive's.
type visitError struct{ error }

// read calls visit for each entry, whose name is then a clean relative path below a
// directory that came before it.
func read(r io.Reader, visit func(*tar.Header, io.Reader) error) (Extent, error) {
	var x Extent
	broken := func(err error) (Extent, error) {
		if own, ok := errors.AsType[visitError](err); ok {
			return Extent{}, own.error
		}
		return Extent{}, model.Errorf(model.Invalid, "cannot read the archive: %w", err)
	}
	plain, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return broken(err)
	}
	defer plain.Close()
	bounded := &io.LimitedReader{R: plain, N: MaxBytes + MaxEntries*perEntry}
	archive := tar.NewReader(bounded)
	seen := map[string]bool{".": true} // true: a directory
	names := 0
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return broken(err)
		}
		if err := judge(h, seen); err != nil {
			return broken(&entryError{clip(h.Name), err})
		}
		if len(seen) > MaxEntries || h.Size > MaxBytes-x.Bytes {
			return broken(&entryError{clip(h.Name), fmt.Errorf("there is more than %d entries or %s in it", MaxEntries, model.SizeText(MaxBytes))})
		}
		if names += len(h.Name); names > maxNames {
			return broken(fmt.Errorf("the names in it have more than %s", model.SizeText(maxNames)))
		}
		if h.Typeflag == tar.TypeReg {
			x.Files++
			x.Bytes += h.Size
		}
		in := &content{r: archive}
		if err := visit(h, in); err != nil {
			if in.err == nil {
				err = visitError{err}
			}
			return broken(err)
		}
	}
	if _, err := io.Copy(io.Discard, bounded); err != nil { // the checksum is at the end
		return broken(err)
	}
	if bounded.N == 0 {
		return broken(errors.New("it does not end"))
	}
	return x, nil
}

// content knows whose fault it is that an entry cannot be read.
type content struct {
	r   io.Reader
	err error
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// judge refuses what no archive has, and makes the entry's name clean. seen are the
// entries before it.
func judge(h *tar.Header, seen map[string]bool) error {
	name := strings.TrimSuffix(h.Name, "/")
	if err := judgeName(name); err != nil {
		return err
	}
	if _, again := seen[name]; again {
		return errors.New("it is there twice")
	}
	if !seen[path.Dir(name)] {
		return errors.New("the directory that it is in was not before it")
	}
	allowed := int64(0o777)
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		allowed = 0o3777
	case tar.TypeSymlink:
		if err := judgeTarget(h.Linkname); err != nil {
			return err
		}
	default:
		return fmt.Errorf("it is of a kind (%q) that no source has", h.Typeflag)
	}
	if h.Typeflag != tar.TypeSymlink && h.Mode&^allowed != 0 {
		return fmt.Errorf("its mode is %#o", h.Mode)
	}
	if h.Size < 0 || h.Typeflag != tar.TypeReg && h.Size != 0 {
		return fmt.Errorf("it says that it has %d bytes", h.Size)
	}
	h.Name = name
	seen[name] = h.Typeflag == tar.TypeDir
	return nil
}

func judgeName(name string) error {
	switch {
	case name == "" || name == "." || path.Clean(name) != name || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../"):
		return errors.New("its name leads out of the directory, or is none")
	case len(name) > maxPath || strings.IndexByte(name, 0) >= 0:
		return errors.New("its name is too long, or has a zero byte in it")
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return errors.New("a part of its name is too long")
		}
		if left := leftOut(part); left != "" {
			return errors.New(left)
		}
	}
	return nil
}

// leftOut says why what has a name is in no archive; "": it may be.
func leftOut(base string) string {
	switch {
	case strings.EqualFold(base, ".git"):
		return "a repository is no part of a source"
	case base == OriginFile:
		return "where a context comes from is no part of it"
	case strings.HasPrefix(base, ".wh."):
		return "names that begin with .wh. are those of removed files in images"
	}
	return ""
}

func judgeTarget(to string) error {
	if to == "" || len(to) > maxPath || strings.IndexByte(to, 0) >= 0 {
		return errors.New("it links to nothing that can be")
	}
	return nil
}

// clip is a name as messages have it.
func clip(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// ancestors are the directories above a clean relative path, the highest first.
func ancestors(name string) []string {
	var list []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		list = append(list, dir)
	}
	slices.Reverse(list)
	return list
}
