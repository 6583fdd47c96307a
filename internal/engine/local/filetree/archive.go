package filetree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const attributeRecord = "SCHILY.xattr." // as GNU tar and star write them

// Write writes the directory as a tar archive. What is not a file, a directory
// or a link is left out.
func Write(ctx context.Context, dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(w)
	a := archiver{root: root, out: out, links: map[inode]string{}}
	if err := a.dir(ctx, "."); err != nil {
		return fmt.Errorf("cannot archive %s: %w", dir, err)
	}
	return out.Close()
}

type archiver struct {
	root  *os.Root
	out   *tar.Writer
	links map[inode]string
}

func (a *archiver) dir(ctx context.Context, name string) error {
	f, err := a.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := a.header(info, name+"/", "", f); err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := a.entry(ctx, path.Join(name, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) { // it has just gone
			return err
		}
	}
	return nil
}

func (a *archiver) entry(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := a.root.Lstat(name)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		return a.dir(ctx, name)
	case fs.ModeSymlink:
		to, err := a.root.Readlink(name)
		if err != nil {
			return err
		}
		return a.header(info, name, to, nil)
	case 0:
		return a.file(name)
	default:
		return nil
	}
}

// openRegular opens a file for reading. It neither follows a link nor waits for
// whoever writes to a pipe: what is no regular file any more gives nil.
func openRegular(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func (a *archiver) file(name string) error {
	f, info, err := openRegular(a.root, name)
	if f == nil {
		return err
	}
	defer f.Close()
	st := info.Sys().(*syscall.Stat_t)
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, again := a.links[id]; again {
			h, err := tar.FileInfoHeader(info, "")
			if err != nil {
				return err
			}
			h.Name, h.Typeflag, h.Linkname, h.Size = name, tar.TypeLink, first, 0
			return a.out.WriteHeader(h)
		}
		a.links[id] = name
	}
	if err := a.header(info, name, "", f); err != nil {
		return err
	}
	// One that shrinks meanwhile is filled up, one that grows is cut off: the
	// archive stays one.
	n, err := io.CopyN(a.out, f, info.Size())
	if errors.Is(err, io.EOF) {
		_, err = io.CopyN(a.out, zeros{}, info.Size()-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (a *archiver) header(info fs.FileInfo, name, link string, f *os.File) error {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	h.Uname, h.Gname = "", "" // the machine's names are not the server's
	if f != nil {
		attrs, err := attributes(f)
		if err != nil {
			return err
		}
		for key, value := range attrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[attributeRecord+key] = value
		}
	}
	return a.out.WriteHeader(h)
}

// Read fills the directory, which is empty, with what a tar archive holds. It
// writes nothing outside of it, whatever the archive says, and refuses devices.
func Read(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	source := &ending{r: r}
	in := tar.NewReader(source)
	var dirs []*tar.Header // their modes and times are set last
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) && !source.over {
			break
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("the archive is cut off")
		}
		if err != nil {
			return fmt.Errorf("cannot read the archive: %w", err)
		}
		h.Name = path.Clean(strings.TrimLeft(h.Name, "/"))
		if err := extract(root, h, in); err != nil {
			return fmt.Errorf("cannot take %q out of the archive: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
	}
	for _, h := range slices.Backward(dirs) {
		if err := finish(root, h); err != nil {
			return fmt.Errorf("cannot take %q out of the archive: %w", h.Name, err)
		}
	}
	return nil
}

// ending notes whether its reader was asked for more than there is: what ends an
// archive are two empty blocks, and package tar takes the mere end for that too.
type ending struct {
	r    io.Reader
	over bool
}

// Read implements io.Reader.
func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.over = e.over || n < len(p) && errors.Is(err, io.EOF) // with some bytes, too: bodies of HTTP end so
	return n, err
}

func extract(root *os.Root, h *tar.Header, content io.Reader) error {
	if parent := path.Dir(h.Name); parent != "." && h.Name != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(h.Name, 0o700); err != nil {
			return err
		}
		return nil
	case tar.TypeReg:
		f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err == nil {
			err = like(f, h)
		}
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return root.Lchown(h.Name, h.Uid, h.Gid)
	case tar.TypeLink:
		return root.Link(path.Clean(strings.TrimLeft(h.Linkname, "/")), h.Name)
	case tar.TypeFifo:
		return nil // made anew by who uses it
	default:
		return fmt.Errorf("it is of type %q, which no volume holds", h.Typeflag)
	}
}

func finish(root *os.Root, h *tar.Header) error {
	f, err := root.OpenFile(h.Name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(like(f, h), f.Close())
}

func like(f *os.File, h *tar.Header) error {
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	attrs := map[string]string{}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, attributeRecord); ok {
			attrs[name] = value
		}
	}
	if err := setAttributes(f, attrs); err != nil {
		return err
	}
	return stamp(f, h.FileInfo().Mode(), h.ModTime)
}
