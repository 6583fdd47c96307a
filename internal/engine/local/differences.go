package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Differences implements engine.Differ: it reads the server's own layer, which
// was empty when the server started.
func (e *Engine) Differences(ctx context.Context, id model.ServerID, limit int) ([]engine.Difference, int, error) {
	_, r := e.lookup(id)
	if r == nil {
		return nil, 0, model.Errorf(model.NotFound, "cannot say what has changed in %s: there is no such server", id)
	}
	if r.Upper == "" {
		return nil, 0, model.Errorf(model.Precondition, "cannot say what has changed in %s: it has no layer of its own", id)
	}
	d := &differences{ctx: ctx, server: r, limit: limit}
	if err := filepath.WalkDir(r.Upper, d.look); err != nil {
		return nil, 0, fmt.Errorf("cannot say what has changed in %s: %w", id, err)
	}
	slices.SortFunc(d.found, func(a, b engine.Difference) int { return strings.Compare(a.Path, b.Path) })
	return d.found, d.more, nil
}

// differences is a walk through a server's own layer.
type differences struct {
	ctx    context.Context
	server *record
	limit  int
	found  []engine.Difference
	more   int
}

func (d *differences) add(x engine.Difference) {
	if len(d.found) == d.limit {
		d.more++
		return
	}
	d.found = append(d.found, x)
}

// look looks at one entry of the layer. One that vanishes meanwhile is none.
func (d *differences) look(file string, entry fs.DirEntry, err error) error {
	if cause := context.Cause(d.ctx); cause != nil {
		return cause
	}
	inside := "/" + strings.TrimPrefix(strings.TrimPrefix(file, d.server.Upper), "/")
	if inside == "/" {
		return err
	}
	var info fs.FileInfo
	if err == nil {
		info, err = entry.Info()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	before, was := imageFile(d.server.Lowers, inside)
	if isWhiteout(info) {
		if was != nil {
			d.add(engine.Difference{Change: engine.Change{Path: inside, Kind: "removed"}, Stamp: stamp(info), Before: reader(before, was)})
		}
		return nil
	}
	if info.IsDir() && was != nil && was.IsDir() {
		d.hidden(file, inside)
		if same(info, was, d.server.IDs) {
			return nil // on the way to a change
		}
	}
	d.add(d.difference(file, inside, info, before, was))
	return nil
}

func (d *differences) difference(file, inside string, info fs.FileInfo, before string, was fs.FileInfo) engine.Difference {
	x := engine.Difference{
		Change: engine.Change{Path: inside, Kind: "added"}, Mode: info.Mode(), Stamp: stamp(info), Before: reader(before, was),
	}
	if was != nil {
		x.Kind = "changed"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		x.UID, x.GID = st.Uid-d.server.IDs, st.Gid-d.server.IDs
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		x.Target, _ = os.Readlink(file) // it may have gone
	case info.Mode().IsRegular():
		x.Size = info.Size()
		x.Open = func() (io.ReadCloser, error) { return openBelow(d.server.Upper, inside) }
		if hasAttribute(file, "metacopy") { // its content is still the image's
			x.Open = x.Before
		}
	}
	return x
}

// hidden adds what of the image's directory cannot be seen, for the directory
// was removed and another took its place.
func (d *differences) hidden(file, inside string) {
	if !opaque(file) {
		return
	}
	seen := map[string]bool{}
	for _, lower := range d.server.Lowers {
		entries, err := os.ReadDir(filepath.Join(lower, inside))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			at := path.Join(inside, entry.Name())
			if seen[at] {
				continue
			}
			seen[at] = true
			before, was := imageFile(d.server.Lowers, at)
			if _, err := os.Lstat(filepath.Join(d.server.Upper, at)); was == nil || err == nil {
				continue
			}
			d.add(engine.Difference{Change: engine.Change{Path: at, Kind: "removed"}, Before: reader(before, was)})
		}
	}
}

// imageFile finds what the image has at the path: in the uppermost layer that
// says anything of it. Nil: nothing.
func imageFile(lowers []string, inside string) (string, fs.FileInfo) {
	names := strings.Split(strings.Trim(inside, "/"), "/")
	for _, lower := range lowers {
		at, last := lower, false // no layer below says anything
		for i, name := range names {
			at = filepath.Join(at, name)
			info, err := os.Lstat(at)
			if err != nil {
				break
			}
			if isWhiteout(info) {
				return "", nil
			}
			if i == len(names)-1 {
				return at, info
			}
			if !info.IsDir() {
				return "", nil
			}
			last = last || opaque(at)
		}
		if last {
			return "", nil
		}
	}
	return "", nil
}

// opaque reports whether nothing of the layers below is to be seen in the
// directory.
func opaque(dir string) bool { return hasAttribute(dir, "opaque") }

func hasAttribute(file, name string) bool {
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if n, err := unix.Lgetxattr(file, prefix+name, make([]byte, 64)); err == nil && (n > 0 || name == "metacopy") {
			return true
		}
	}
	return false
}

// same reports whether a directory of the server's layer is as in the image.
func same(info, was fs.FileInfo, ids uint32) bool {
	is, ok1 := info.Sys().(*syscall.Stat_t)
	old, ok2 := was.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && is.Mode == old.Mode && is.Uid-ids == old.Uid && is.Gid-ids == old.Gid
}

func stamp(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.ModTime().String()
	}
	return fmt.Sprint(st.Ino, " ", st.Ctim.Sec, " ", st.Ctim.Nsec, " ", st.Size)
}

// reader reads the image's file; nil if it is no regular one.
func reader(file string, was fs.FileInfo) func() (io.ReadCloser, error) {
	if was == nil || !was.Mode().IsRegular() {
		return nil
	}
	return func() (io.ReadCloser, error) { return os.Open(file) }
}

// openBelow opens a file of the server's layer. What the server makes of its
// names meanwhile leads nowhere else.
func openBelow(dir, inside string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(strings.TrimPrefix(inside, "/"), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, f.Close(), fmt.Errorf("%s is no regular file any more", inside))
	}
	return f, nil
}
