package local

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// TestNothingStartsFromChangedBytes changes an image wherever it is kept, and wants no
// server to start from it, and the next one when it is as it was.
func TestNothingStartsFromChangedBytes(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}},
		file{name: "/etc/motd", content: "be welcome\n", mode: 0o644}, file{name: "/var/lib/app/", mode: 0o750})
	s := w.servers(t, e, image)
	first := s.start(nil, "wait")
	_, r := e.lookup(first.ID)
	layer := r.Lowers[1]
	motd := filepath.Join(layer, "etc/motd")

	// refused wants that neither way leads to a server.
	refused := func(t *testing.T, e *Engine, words ...string) {
		t.Helper()
		before := len(e.records())
		for what, err := range map[string]error{
			"Prepare":   e.Prepare(t.Context(), image),
			"Provision": e.Provision(t.Context(), s.ref(), s.template("wait")),
		} {
			if code := model.CodeOf(err); code != model.Precondition && code != model.NotFound {
				t.Errorf("%s: %v", what, err)
			}
			for _, word := range words {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%s says %v, want %q in it", what, err, word)
				}
			}
		}
		if n := len(e.records()); n != before {
			t.Errorf("%d servers more", n-before)
		}
	}
	taken := func(t *testing.T, e *Engine) {
		t.Helper()
		if err := e.Prepare(t.Context(), image); err != nil {
			t.Errorf("Prepare: %v", err)
		}
		ref := s.ref()
		if err := e.Provision(t.Context(), ref, s.template("wait")); err != nil {
			t.Errorf("Provision: %v", err)
		}
	}

	for name, change := range map[string]func(t *testing.T){
		"a byte": func(t *testing.T) { flipByte(t, motd, 3) },
		"its mode": func(t *testing.T) {
			if err := os.Chmod(motd, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no file": func(t *testing.T) { rename(t, motd, layer+"-away") },
		"a file more": func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(layer, "etc/more"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run("unpacked, "+name, func(t *testing.T) {
			change(t)
			refused(t, e, "is not whole", "/etc/m")
			_ = os.Remove(filepath.Join(layer, "etc/more"))
			if _, err := os.Lstat(layer + "-away"); err == nil {
				rename(t, layer+"-away", motd)
			}
			if err := os.Chmod(motd, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(motd, []byte("be welcome\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			taken(t, e)
		})
	}
	t.Run("unpacked, below the server's own", func(t *testing.T) {
		more := filepath.Join(r.Lowers[0], "run/more")
		if err := os.WriteFile(more, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := e.Provision(t.Context(), s.ref(), s.template("wait")); model.CodeOf(err) != model.Precondition {
			t.Errorf("Provision: %v", err)
		}
		if err := os.Remove(more); err != nil {
			t.Fatal(err)
		}
		taken(t, e)
	})
	t.Run("while no engine was there", func(t *testing.T) {
		flipByte(t, motd, 0)
		again := w.open(t)
		refused(t, again, "/etc/motd", "from byte 0 on")
		flipByte(t, motd, 0)
		taken(t, again)
		_ = again.Close()
	})
	t.Run("and no server stands on it", func(t *testing.T) {
		e.drift.mu.Lock()
		l := e.drift.layers[layer]
		e.drift.mu.Unlock()
		gone := filepath.Join(e.layersDir(), "gone")
		if err := os.WriteFile(gone, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		e.forgetLayers()
		if _, err := os.Lstat(l.list + proofSuffix); err != nil {
			t.Errorf("what was proven of the layer is forgotten: %v", err)
		}
		if _, err := os.Lstat(gone); err == nil {
			t.Error("the list of a layer that is gone stays")
		}
	})
	t.Run("and what was known of it is lost", func(t *testing.T) {
		flipByte(t, motd, 0)
		if err := os.RemoveAll(e.layersDir()); err != nil {
			t.Fatal(err)
		}
		again := w.open(t)
		refused(t, again, "/etc/motd")
		flipByte(t, motd, 0)
		taken(t, again)
		_ = again.Close()
	})
	t.Run("what runs goes on", func(t *testing.T) {
		if _, r := e.lookup(first.ID); r.state() != model.Running {
			t.Errorf("the first server is %s", r.state())
		}
	})
	t.Run("a blob", func(t *testing.T) {
		blobs, err := e.layersOf(e.scoped(t.Context()), image)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{blobs[0].Digest.Encoded(), strings.TrimPrefix(string(image), "sha256:")} {
			blob := filepath.Join(e.blobsDir(), "sha256", d)
			flipByte(t, blob, 10)
			err := e.Provision(t.Context(), s.ref(), s.template("wait"))
			if model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "not what its digest says") {
				t.Errorf("Provision: %v", err)
			}
			if _, err := os.Lstat(blob); err == nil {
				t.Error("the damaged blob is still there: whoever brings it again is told that it is")
			}
			if err := e.Provision(t.Context(), s.ref(), s.template("wait")); model.CodeOf(err) != model.NotFound {
				t.Errorf("Provision without it: %v", err)
			}
		}
	})
}

// flipByte changes one byte of a file and gives it the times that it had.
func flipByte(t *testing.T, path string, at int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(b)
	b[at] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b[at:at+1], int64(at))
	if err != nil || f.Close() != nil || bytes.Equal(was, b) {
		t.Fatal(err)
	}
	times := []unix.Timespec{unix.NsecToTimespec(info.ModTime().UnixNano()), unix.NsecToTimespec(info.ModTime().UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, 0); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
