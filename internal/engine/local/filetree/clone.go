// Package filetree copies whole directories: as clones that share their blocks
// with the original, and as tar archives. What it reads may be changed by
// somebody hostile at the same time: nothing outside the directory is followed.
package filetree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CanClone reports whether files of the directory can share their blocks. It
// tries: not every file system that could was made so that it can.
func CanClone(dir string) bool {
	from, err := os.CreateTemp(dir, ".clone-")
	if err != nil {
		return false
	}
	defer func() { _ = errors.Join(from.Close(), os.Remove(from.Name())) }()
	to, err := os.CreateTemp(dir, ".clone-")
	if err != nil {
		return false
	}
	defer func() { _ = errors.Join(to.Close(), os.Remove(to.Name())) }()
	if _, err := from.Write(make([]byte, 8192)); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
}

// Clone makes the directory to, which must not exist, what from is. Regular
// files share their blocks; on a file system that cannot do that it fails with
// an error that is errors.ErrUnsupported.
func Clone(ctx context.Context, from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	source, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer target.Close()
	c := cloner{source: source, target: target, links: map[inode]string{}}
	if err := c.dir(ctx, "."); err != nil {
		return fmt.Errorf("cannot clone %s: %w", from, err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type cloner struct {
	source, target *os.Root
	links          map[inode]string // files of several names, by the first
}

// dir clones what is in a directory, then what it says of itself.
func (c *cloner) dir(ctx context.Context, name string) error {
	f, err := c.source.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for {
		entries, err := f.ReadDir(512)
		for _, e := range entries {
			if err := c.entry(ctx, path.Join(name, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) { // it has just gone
				return err
			}
		}
		if err != nil {
			break // io.EOF
		}
	}
	into, err := c.target.Open(name)
	if err != nil {
		return err
	}
	defer into.Close()
	return likeOpen(into, f, info)
}

func (c *cloner) entry(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := c.source.Lstat(name)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, again := c.links[id]; again {
			return c.target.Link(first, name)
		}
		c.links[id] = name
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		if err := c.target.Mkdir(name, 0o700); err != nil {
			return err
		}
		return c.dir(ctx, name)
	case 0:
		return c.file(name)
	case fs.ModeSymlink:
		to, err := c.source.Readlink(name)
		if err != nil {
			return err
		}
		if err := c.target.Symlink(to, name); err != nil {
			return err
		}
		return c.target.Lchown(name, int(st.Uid), int(st.Gid))
	default: // sockets and pipes are made anew by who uses them
		return nil
	}
}

func (c *cloner) file(name string) error {
	from, info, err := openRegular(c.source, name)
	if from == nil {
		return err
	}
	defer from.Close()
	to, err := c.target.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err == nil {
		err = likeOpen(to, from, info)
	}
	return errors.Join(err, to.Close())
}

// likeOpen gives an open file the owner, mode, times and extended attributes
// of another.
func likeOpen(to, from *os.File, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	attrs, err := attributes(from)
	if err != nil {
		return err
	}
	if err := setAttributes(to, attrs); err != nil {
		return err
	}
	return stamp(to, info.Mode(), info.ModTime())
}

// stamp sets mode and time, last: a change of the owner clears some bits.
func stamp(f *os.File, mode fs.FileMode, at time.Time) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	times := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), times, 0)
}

// Usage returns how many bytes the directory takes on its disk.
func Usage(ctx context.Context, dir string) (int64, error) {
	var sum int64
	seen := map[inode]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just gone
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just gone
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !info.IsDir() {
			id := inode{st.Dev, st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}
