package source

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// Unpack makes the files of an archive in an empty directory. Nothing outside of that
// is touched: links are made last, as they are, and nothing is written through one.
//
// Invalid: as Check. Unavailable: a file cannot be made.
func Unpack(r io.Reader, into *os.Root) (Extent, error) {
	u := &unpacking{into: into}
	x, err := read(r, u.entry)
	if err == nil {
		err = u.finish()
	}
	return x, err
}

// unpacking is what is left to be done when all files are there.
type unpacking struct {
	into  *os.Root
	dirs  []*tar.Header
	links []*tar.Header
}

func (u *unpacking) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, h)
		return cannotMake(h, u.into.Mkdir(h.Name, 0o700))
	case tar.TypeSymlink:
		u.links = append(u.links, h)
		return nil
	}
	f, err := u.into.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return cannotMake(h, err)
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Chmod(fs.FileMode(h.Mode).Perm())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return cannotMake(h, err)
	}
	return cannotMake(h, u.into.Chtimes(h.Name, h.ModTime, h.ModTime))
}

// finish makes the links, and then gives the directories their modes and times, the
// innermost first.
func (u *unpacking) finish() error {
	for _, h := range u.links {
		if err := u.into.Symlink(h.Linkname, h.Name); err != nil {
			return cannotMake(h, err)
		}
		if err := u.timeLink(h.Name, h.ModTime); err != nil {
			return cannotMake(h, err)
		}
	}
	for _, h := range slices.Backward(u.dirs) {
		mode := fs.FileMode(h.Mode).Perm()
		if h.Mode&0o2000 != 0 {
			mode |= fs.ModeSetgid
		}
		if h.Mode&0o1000 != 0 {
			mode |= fs.ModeSticky
		}
		if err := u.into.Chtimes(h.Name, h.ModTime, h.ModTime); err != nil {
			return cannotMake(h, err)
		}
		if err := u.into.Chmod(h.Name, mode); err != nil {
			return cannotMake(h, err)
		}
	}
	return nil
}

// timeLink sets the time of a link itself.
func (u *unpacking) timeLink(name string, at time.Time) error {
	dir, err := u.into.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	spec := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(name), []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW)
}

func cannotMake(h *tar.Header, err error) error {
	if err == nil {
		return nil
	}
	e := model.Errorf(model.Unavailable, "cannot make %s: %w", clip(h.Name), reason(err))
	if errors.Is(err, syscall.ENOSPC) {
		return e.WithHint("the disk is full")
	}
	return e
}
