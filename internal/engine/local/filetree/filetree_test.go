package filetree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

// tree makes a directory with what a volume may hold.
func tree(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "base/1"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "base/1/page"), bytes.Repeat([]byte("0123456789"), 5000), 0o600))
	must(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644))
	must(os.Link(filepath.Join(dir, "base/1/page"), filepath.Join(dir, "again")))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	must(os.Lchown(filepath.Join(dir, "link"), 101, 102))
	must(os.Chown(filepath.Join(dir, "base"), 1000, 1000))
	must(unix.Setxattr(filepath.Join(dir, "empty"), "user.note", []byte("a\x00b"), 0))
	must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(os.Chmod(filepath.Join(dir, "base"), 0o750|fs.ModeSetgid))
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	must(os.Chtimes(filepath.Join(dir, "base/1/page"), old, old))
	must(os.Chtimes(filepath.Join(dir, "base"), old, old))
}

// told describes a tree: a line for each name.
func told(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %s %d:%d", rel, info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			note := make([]byte, 16)
			n, _ := unix.Getxattr(p, "user.note", note)
			fmt.Fprintf(&b, " %d bytes, ends %q, links %d, %s, %q", len(content), content[max(0, len(content)-4):], st.Nlink, info.ModTime().UTC(), note[:max(0, n)])
		case info.IsDir() && rel == "base":
			fmt.Fprintf(&b, " %s", info.ModTime().UTC())
		case info.Mode().Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " → %s", to)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// files returns a tree on a file system of the kind, where clones can be made.
func onDisk(t *testing.T, make ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounts need root: run the tests as root")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"truncate", "-s", "320M", image}, append(make, image), {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return at
}

func TestCloneIsTheSameAndApart(t *testing.T) {
	at := onDisk(t, "mkfs.btrfs", "-q")
	if !CanClone(at) {
		t.Fatal("btrfs cannot clone")
	}
	from, to := filepath.Join(at, "from"), filepath.Join(at, "to")
	tree(t, from)
	want := told(t, from)
	if err := Clone(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	want = strings.ReplaceAll(want, "pipe prw------- 0:0\n", "")
	if got := told(t, to); got != want {
		t.Errorf("the clone is\n%s\nwant\n%s", got, want)
	}
	if err := os.WriteFile(filepath.Join(from, "base/1/page"), []byte("later"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := told(t, to); got != want {
		t.Errorf("what is written later shows in the clone:\n%s", got)
	}
}

func TestCloneIsRefusedWhereBlocksCannotBeShared(t *testing.T) {
	at := onDisk(t, "mkfs.ext4", "-q")
	if CanClone(at) {
		t.Fatal("ext4 can clone")
	}
	tree(t, filepath.Join(at, "from"))
	if err := Clone(t.Context(), filepath.Join(at, "from"), filepath.Join(at, "to")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("want unsupported, got %v", err)
	}
}

func TestArchiveComesBackTheSame(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), t.TempDir()
	tree(t, from)
	var archive bytes.Buffer
	if err := Write(t.Context(), from, &archive); err != nil {
		t.Fatal(err)
	}
	if err := Read(t.Context(), &archive, to); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(told(t, from), "pipe prw------- 0:0\n", "")
	if got := told(t, to); got != want {
		t.Errorf("it came back as\n%s\nwant\n%s", got, want)
	}
}

// An archive that is cut off is told, wherever that was.
func TestArchiveIsWhole(t *testing.T) {
	from := filepath.Join(t.TempDir(), "from")
	tree(t, from)
	var archive bytes.Buffer
	if err := Write(t.Context(), from, &archive); err != nil {
		t.Fatal(err)
	}
	whole := archive.Bytes()
	for size := 0; size < len(whole)-1024; size += 160 {
		for _, r := range []io.Reader{bytes.NewReader(whole[:size]), iotest.DataErrReader(bytes.NewReader(whole[:size]))} {
			if err := Read(t.Context(), r, t.TempDir()); err == nil {
				t.Fatalf("%d bytes of %d were taken for all", size, len(whole))
			}
		}
	}
	if err := Read(t.Context(), iotest.DataErrReader(&archive), t.TempDir()); err != nil {
		t.Fatal(err)
	}
}

// An archive that names places outside of the directory writes nothing there.
func TestArchiveStaysInside(t *testing.T) {
	for name, headers := range map[string][]*tar.Header{
		"above":          {{Name: "../escaped", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a link": {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/escaped", Typeflag: tar.TypeReg, Mode: 0o644}},
		"a device":       {{Name: "escaped", Typeflag: tar.TypeBlock, Devmajor: 8}},
		"a hard link":    {{Name: "escaped", Typeflag: tar.TypeLink, Linkname: "../secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			inner := filepath.Join(outer, "inner")
			if err := errors.Join(os.Mkdir(inner, 0o755), os.WriteFile(filepath.Join(outer, "secret"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range headers {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := Read(t.Context(), &b, inner); err == nil {
				t.Error("it was taken")
			}
			if _, err := os.Lstat(filepath.Join(outer, "escaped")); err == nil {
				t.Error("it was written outside")
			}
		})
	}
}

func TestUsageCountsFilesOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if n, err := Usage(t.Context(), dir); err != nil || n < 1<<20 || n > 1<<20+64<<10 {
		t.Errorf("%d, %v", n, err)
	}
}
