package leaks

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kiln/internal/model"
)

// small are limits that a test can reach.
func small() limits {
	return limits{layers: 3, entries: 10, name: 100, bytes: 8 << 20, free: 1 << 20, ratio: 100, window: 8 << 20}
}

func walkOf(t testing.TB, l limits, content []byte) ([]string, error) {
	t.Helper()
	w := &walker{limits: l}
	var seen []string
	_, err := w.walk(t.Context(), layer{blob: static.NewLayer(content, types.OCIUncompressedLayer), digest: v1.Hash{Algorithm: "sha256", Hex: "0a"}}, func(e *entry) error {
		kind := ""
		switch {
		case e.hides:
			kind = " hidden"
		case e.hidesIn:
			kind = " opaque"
		}
		n := int64(0)
		if e.content != nil {
			var err error
			if n, err = io.Copy(io.Discard, e.content); err != nil {
				return err
			}
		}
		seen = append(seen, fmt.Sprint(e.path, kind, " ", n))
		return nil
	})
	return seen, err
}

func TestWalk(t *testing.T) {
	plain := archive(t, file{name: "./", kind: tar.TypeDir}, file{name: "./a/b", text: "123"}, file{name: "a//c", text: ""}, file{name: "a/.wh.d"}, file{name: "a/.wh..wh..opq"}, file{name: "a/..b", text: "1"},
		file{name: "l", kind: tar.TypeSymlink, link: "/etc/../x"}, file{name: "h", kind: tar.TypeLink, link: "a/b"})
	want := "[/ 0 /a/b 3 /a/c 0 /a/d hidden 0 /a opaque 0 /a/..b 1 /l 0 /h 0]"
	for name, content := range map[string][]byte{
		"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain), "two gzip members": append(gzipped(t, plain[:1000]), gzipped(t, plain[1000:])...),
		"without its end": plain[:len(plain)-1024], "with more behind": append(slices.Clip(plain), make([]byte, 100_000)...),
		"with a skippable frame": append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9}, zstded(t, plain)...),
	} {
		seen, err := walkOf(t, small(), content)
		if err != nil || fmt.Sprint(seen) != want {
			t.Errorf("%s: %v, %v", name, seen, err)
		}
	}
	if seen, err := walkOf(t, small(), nil); err != nil || len(seen) > 0 {
		t.Errorf("nothing: %v, %v", seen, err)
	}
}

// TestRefused: each error says which layer and which entry.
func TestRefused(t *testing.T) {
	zeros := strings.Repeat("\x00", 4<<20)
	good := archive(t, file{name: "first", text: "x"})
	many := []file{}
	for i := range 11 {
		many = append(many, file{name: fmt.Sprint("f", i)})
	}
	huge := bytes.Clone(archive(t, file{name: "huge", text: "x"}))
	copy(huge[124:136], []byte("77777777777\x00"))
	copy(huge[148:156], fmt.Sprintf("%06o\x00 ", checksum(huge[:512])))
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"climbs", archive(t, file{name: "a/../../etc/passwd"}), `entry "a/../../etc/passwd": its name leads out of the image`},
		{"climbs within", archive(t, file{name: "a/../b"}), `entry "a/../b": its name leads out of the image`},
		{"is absolute", archive(t, file{name: "/etc/passwd"}), `entry "/etc/passwd": its name leads out of the image`},
		{"links outside", archive(t, file{name: "a", kind: tar.TypeLink, link: "../../etc/shadow"}), `entry "a": it is a link to "../../etc/shadow", which leads out of the image`},
		{"links absolutely", archive(t, file{name: "a", kind: tar.TypeLink, link: "/etc/shadow"}), `entry "a": it is a link to "/etc/shadow"`},
		{"hides nothing", archive(t, file{name: "a/.wh."}), `entry "a/.wh.": it is a whiteout of nothing`},
		{"hides its parent", archive(t, file{name: "a/.wh..."}), `entry "a/.wh...": it is a whiteout of nothing`},
		{"has a long name", archive(t, file{name: strings.Repeat("n", 101)}), `its name or its target has more than 100 bytes`},
		{"has many entries", archive(t, many...), `entry "f10": the image has more than 10 entries`},
		{"says it is huge", huge, `entry "huge": it says that it has 8589934591 bytes`},
		{"is a gzip bomb", gzipped(t, archive(t, file{name: "bomb", text: zeros})), `entry "bomb": `},
		{"is a zstd bomb", zstded(t, archive(t, file{name: "bomb", text: zeros})), "the layer is made to exhaust who unpacks it"},
		{"hides a bomb behind its end", gzipped(t, append(bytes.Clone(good), zeros...)), `after entry "first": `},
		{"is sparse beyond measure", sparseArchive(t, 6<<20), `entry "sparse": `},
		{"is too large", archive(t, file{name: "a", text: zeros}, file{name: "b", text: zeros}, file{name: "c", text: zeros}), `entry "b": `},
		{"has too much behind its end", append(bytes.Clone(good), strings.Repeat("\x00", 9<<20)...), `after entry "first": the layer has more than 8388608 bytes`},
		{"is cut off", gzipped(t, good)[:40], "unexpected EOF"},
		{"is cut off in a file", archive(t, file{name: "a", text: zeros})[:5000], "unexpected EOF"},
		{"is damaged", append(gzipped(t, good)[:20], make([]byte, 30)...), "cannot read layer 1 (sha256:0a)"},
		{"is no archive", []byte(strings.Repeat("no archive", 100)), "invalid tar header"},
		{"has a window that takes much memory", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00}, "window size exceeded"},
	} {
		_, err := walkOf(t, small(), c.content)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "cannot read layer 1 (sha256:0a)") || model.CodeOf(err) != model.Invalid {
			t.Errorf("a layer that %s: %v, want %s", c.name, err, c.want)
		}
	}
}

func checksum(header []byte) (sum int) {
	for i, c := range header {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	return sum
}

// sparseArchive has a file that is nearly all hole, as GNU tar writes it
// (https://www.gnu.org/software/tar/manual/html_node/PAX-1.html). The archive's
// package does not write these: the records are named otherwise first.
func sparseArchive(t testing.TB, size int) []byte {
	t.Helper()
	b := archive(t, file{name: "sparse", text: "1\n" + fmt.Sprint(size-1) + "\n1\n" + strings.Repeat("\x00", 512-5-len(fmt.Sprint(size-1))) + "x", records: map[string]string{
		"GNX.sparse.major": "1", "GNX.sparse.minor": "0", "GNX.sparse.name": "sparse", "GNX.sparse.realsize": fmt.Sprint(size),
	}})
	return bytes.ReplaceAll(b, []byte("GNX.sparse"), []byte("GNU.sparse"))
}

func TestSparse(t *testing.T) {
	seen, err := walkOf(t, small(), sparseArchive(t, 1<<19))
	if err != nil || fmt.Sprint(seen) != "[/sparse 524288]" {
		t.Errorf("%v, %v", seen, err)
	}
}

func TestContradictions(t *testing.T) {
	image := configured(t, withLayers(t, archive(t, file{name: "a"})), func(c *v1.ConfigFile) { c.RootFS.DiffIDs = nil })
	if _, err := Search(t.Context(), image, nil, Allowed{}); model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "it has 1 layers, and its configuration speaks of 0") {
		t.Error(err)
	}
	s := newSearch(Allowed{})
	s.limits = small()
	one := archive(t, file{name: "a"})
	if _, err := s.run(t.Context(), withLayers(t, one, one, one, one), nil, 0); model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "4 layers, and at most 3") {
		t.Error(err)
	}
}

// brokenLayer cannot be read.
type brokenLayer struct {
	v1.Layer
	err error
}

func (b brokenLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("x"), errorReader{b.err})), nil
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestUnreadable(t *testing.T) {
	for err, code := range map[error]model.Code{
		&fs.PathError{Op: "read", Path: "/x", Err: errors.New("input/output error")}: model.Unavailable,
		errors.New("error verifying sha256 checksum"):                                model.Invalid,
		model.Errorf(model.NotFound, "gone"):                                         model.NotFound,
	} {
		w := &walker{limits: small()}
		_, got := w.walk(t.Context(), layer{blob: brokenLayer{err: err}}, func(*entry) error { return nil })
		if model.CodeOf(got) != code {
			t.Errorf("%v: %v", err, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Search(ctx, withLayers(t, archive(t, file{name: "a"})), nil, Allowed{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestMemory searches 300 MB and wants to hold a few of them at most.
func TestMemory(t *testing.T) {
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block) // it never fails
	l := &treeLayer{pack: func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Name: "large", Size: 300 << 20, Mode: 0o644}); err != nil {
			return err
		}
		for range 300 {
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
		return nil
	}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newSearch(Allowed{})
	if _, err := s.walk(t.Context(), layer{blob: l}, s.visit); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("it takes %d MB", n>>20)
	}
}

func FuzzLayer(f *testing.F) {
	plain := archive(f, file{name: "a/b", text: "ghp_"}, file{name: "root/.npmrc", text: "//r/:_authToken=x"}, file{name: "a/.wh.b"}, file{name: "etc/passwd", text: "x:x:0:0::/:/\n"}, file{name: "h", kind: tar.TypeLink, link: "a/b", mode: 0o4755})
	f.Add(plain)
	f.Add(gzipped(f, plain))
	f.Add(zstded(f, plain))
	f.Add(sparseArchive(f, 1<<12))
	for name, key := range keys(f) {
		f.Add(archive(f, file{name: strings.ReplaceAll(name, " ", "/"), text: key}))
	}
	for _, list := range tokens() {
		f.Add(archive(f, file{name: "root/.docker/config.json", text: list[0]}))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		image := withLayers(t, archive(t, file{name: "a/b", text: "x", mode: 0o4755}), content)
		s := newSearch(Allowed{})
		s.limits = limits{layers: 3, entries: 1000, name: 4096, bytes: 32 << 20, free: 1 << 20, ratio: 1000, window: 8 << 20}
		r, err := s.run(t.Context(), image, nil, 0)
		judge := func(r *Report, err error) {
			switch {
			case err != nil && model.CodeOf(err) != model.Invalid:
				t.Errorf("%v", err)
			case err == nil:
				for _, x := range r.Findings {
					if !strings.HasPrefix(x.Path, "/") && x.Layer != Configuration || x.What == "" || x.Line < 0 {
						t.Errorf("%+v", x)
					}
				}
			}
		}
		judge(r, err)
		judge(Structure(t.Context(), image, Rules{NotRoot: true, NoSetuid: true, NoCapabilities: true, NoWorldWritable: true, NoDevices: true, MaxUncompressed: 1, ForbiddenPaths: []string{"/a/**"}}))
	})
}

// mixed is 300 MB as they are in images: the machine's programs and text, again
// and again.
func mixed(b *testing.B) []byte {
	b.Helper()
	var out bytes.Buffer
	l := machineLayer(64<<20, []string{"/usr/share", "/usr/lib"})
	r, err := l.Compressed()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(&out, r); err != nil {
		b.Fatal(err)
	}
	var t bytes.Buffer
	w := tar.NewWriter(&t)
	for t.Len() < 300<<20 {
		in := tar.NewReader(bytes.NewReader(out.Bytes()))
		for {
			h, err := in.Next()
			if err != nil {
				break
			}
			if err := w.WriteHeader(h); err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(w, in); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return t.Bytes()
}

func BenchmarkSearch(b *testing.B) {
	content := mixed(b)
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for b.Loop() {
			sha256.Sum256(content)
		}
	})
	for name, packed := range map[string][]byte{"plain": content, "zstd": zstded(b, content), "gzip": gzipped(b, content)} {
		l := layer{blob: static.NewLayer(packed, types.OCIUncompressedLayer)}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				s := newSearch(Allowed{})
				if _, err := s.walk(b.Context(), l, s.visit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	l := layer{blob: static.NewLayer(content, types.OCIUncompressedLayer)}
	b.Run("structure", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for b.Loop() {
			s := &structure{walker: walker{limits: defaults()}, rules: Rules{NoSetuid: true, NoWorldWritable: true}, files: map[string]map[string]Finding{}, above: map[string]bool{}, texts: map[string]account{}}
			if _, err := s.walk(b.Context(), l, s.visit); err != nil {
				b.Fatal(err)
			}
		}
	})
}
