package evidence

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// contentFile is the only file of the archives of the first kilns, which were
// one JSON document (Content) and no tar.
const contentFile = "content.json"

// Files are the files of one archive. They are read from its start up to the
// one that is wanted, so the files that matter most are first. It implements
// fs.FS, and its methods may be called at once.
type Files struct {
	f      *os.File
	size   int64
	at     time.Time
	legacy bool // of the first kilns
}

// Raw returns the archive's bytes.
func (x *Files) Raw() *io.SectionReader { return io.NewSectionReader(x.f, 0, x.size) }

// Close closes the archive, not the files that were opened in it.
func (x *Files) Close() error { return x.f.Close() }

// each calls visit for each file until it returns an error.
func (x *Files) each(visit func(h *tar.Header, r io.Reader) error) error {
	decoder, err := zstd.NewReader(io.NewSectionReader(x.f, 0, x.size), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer decoder.Close()
	if x.legacy {
		content, err := io.ReadAll(decoder)
		if err != nil {
			return err
		}
		return visit(&tar.Header{Name: contentFile, Size: int64(len(content)), Mode: 0o600, ModTime: x.at}, bytes.NewReader(content))
	}
	archive := tar.NewReader(decoder)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(h, archive); err != nil {
			return err
		}
	}
}

// Open implements fs.FS.
func (x *Files) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if f, err := x.open(name); f != nil || err != nil {
		return f, err
	}
	return x.openDir(name)
}

// open returns a file, nil if there is none of the name.
func (x *Files) open(name string) (fs.File, error) {
	decoder, err := zstd.NewReader(io.NewSectionReader(x.f, 0, x.size), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	if x.legacy {
		decoder.Close()
		return x.openLegacy(name)
	}
	archive := tar.NewReader(decoder)
	for {
		h, err := archive.Next()
		if err == nil && h.Name != name {
			continue
		}
		if err == nil {
			return &file{Reader: archive, info: h.FileInfo(), close: decoder.Close}, nil
		}
		decoder.Close()
		if errors.Is(err, io.EOF) {
			return nil, nil //nolint:nilnil // there is none of the name, which is no error
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
}

func (x *Files) openLegacy(name string) (found fs.File, err error) {
	err = x.each(func(h *tar.Header, r io.Reader) error {
		if h.Name == name {
			found = &file{Reader: r, info: h.FileInfo(), close: func() {}}
		}
		return nil
	})
	return found, err
}

// openDir returns a directory: it is there because a file is in it.
func (x *Files) openDir(name string) (fs.File, error) {
	children := map[string]fs.FileInfo{}
	err := x.each(func(h *tar.Header, _ io.Reader) error {
		inside := h.Name
		if name != "." {
			var below bool
			if inside, below = strings.CutPrefix(h.Name, name+"/"); !below {
				return nil
			}
		}
		first, _, deeper := strings.Cut(inside, "/")
		if deeper {
			children[first] = directory{name: first, at: x.at}
		} else {
			children[first] = h.FileInfo()
		}
		return nil
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if len(children) == 0 && name != "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	d := &openDirectory{info: directory{name: path.Base(name), at: x.at}}
	for _, info := range children {
		d.left = append(d.left, fs.FileInfoToDirEntry(info))
	}
	slices.SortFunc(d.left, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return d, nil
}

// file is an open file.
type file struct {
	io.Reader
	info  fs.FileInfo
	close func()
}

// Stat implements fs.File.
func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }

// Close implements fs.File.
func (f *file) Close() error {
	f.close()
	return nil
}

// directory describes one.
type directory struct {
	name string
	at   time.Time
}

// Name implements fs.FileInfo.
func (d directory) Name() string { return d.name }

// Size implements fs.FileInfo.
func (d directory) Size() int64 { return 0 }

// Mode implements fs.FileInfo.
func (d directory) Mode() fs.FileMode { return fs.ModeDir | 0o700 }

// ModTime implements fs.FileInfo.
func (d directory) ModTime() time.Time { return d.at }

// IsDir implements fs.FileInfo.
func (d directory) IsDir() bool { return true }

// Sys implements fs.FileInfo.
func (d directory) Sys() any { return nil }

// openDirectory is an open one.
type openDirectory struct {
	info directory
	left []fs.DirEntry
}

// Stat implements fs.File.
func (d *openDirectory) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read implements fs.File.
func (d *openDirectory) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("it is a directory")}
}

// Close implements fs.File.
func (d *openDirectory) Close() error { return nil }

// ReadDir implements fs.ReadDirFile.
func (d *openDirectory) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		all := d.left
		d.left = nil
		return all, nil
	}
	if len(d.left) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.left))
	some := d.left[:n]
	d.left = d.left[n:]
	return some, nil
}
