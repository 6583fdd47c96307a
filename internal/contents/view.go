package contents

import (
	"bufio"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// nothing is a filesystem without files, for extractors that need no other than the
// one they are given.
type nothing struct{}

// Open implements fs.FS.
func (nothing) Open(name string) (fs.File, error) { return nil, absent("open", name) }

// ReadDir implements fs.ReadDirFS.
func (nothing) ReadDir(name string) ([]fs.DirEntry, error) { return nil, absent("readdir", name) }

// Stat implements fs.StatFS.
func (nothing) Stat(name string) (fs.FileInfo, error) { return nil, absent("stat", name) }

func absent(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// view is what extractors of databases see of an image: os-release(5).
type view struct {
	nothing
	spool *spool
	tree  *tree
}

func newView(s *spool, t *tree) *view { return &view{spool: s, tree: t} }

// Open implements fs.FS.
func (v *view) Open(name string) (fs.File, error) {
	n := v.tree.find(name)
	if n == nil || n.found == nil || n.found.release == nil {
		return nil, absent("open", name)
	}
	return &viewed{SectionReader: v.spool.open(*n.found.release), info: fileInfo{name, n}}, nil
}

// system is what the image calls itself, or "".
func (v *view) system() string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		f, err := v.Open(name)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if value, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
				return strings.Trim(strings.TrimSpace(value), `"'`)
			}
		}
		return ""
	}
	return ""
}

// viewed is an open file of a view.
type viewed struct {
	*io.SectionReader
	info fileInfo
}

// Stat implements fs.File.
func (v *viewed) Stat() (fs.FileInfo, error) { return v.info, nil }

// Close implements fs.File.
func (v *viewed) Close() error { return nil }

// fileInfo is a node as an fs.FileInfo.
type fileInfo struct {
	path string
	node *node
}

// Name implements fs.FileInfo.
func (i fileInfo) Name() string { return path.Base(i.path) }

// Size implements fs.FileInfo.
func (i fileInfo) Size() int64 { return i.node.size }

// Mode implements fs.FileInfo.
func (i fileInfo) Mode() fs.FileMode { return fs.FileMode(i.node.mode & 0o777) }

// ModTime implements fs.FileInfo.
func (i fileInfo) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (i fileInfo) IsDir() bool { return false }

// Sys implements fs.FileInfo.
func (i fileInfo) Sys() any { return nil }
