package leaks

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// TestUnreadable: what a walk says of layers reaches who asked.
func TestUnreadable(t *testing.T) {
	one := layertest.Archive(t, layertest.File{Name: "a"})
	image := layertest.Configured(t, layertest.ImageOf(t, one), func(c *v1.ConfigFile) { c.RootFS.DiffIDs = nil })
	_, err := Search(t.Context(), image, nil, Allowed{})
	layertest.Says(t, err, "it has 1 layers, and its configuration speaks of 0")
	for _, bad := range []layertest.File{{Name: "/etc/passwd"}, {Name: "a", Kind: tar.TypeLink, Link: "/etc/shadow"}, {Name: "../x"}} {
		image := layertest.ImageOf(t, layertest.Archive(t, bad))
		_, err := Search(t.Context(), image, nil, Allowed{})
		layertest.Says(t, err, "cannot read layer 1 (", "leads out of the image")
		if model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", model.CodeOf(err), err)
		}
	}
	// The image of somebody else may have absolute names, which mean its own root.
	foreign := layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "/bin/x", Mode: 0o4755}))
	r, err := Structure(t.Context(), foreign, Rules{NoSetuid: true})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].Path != "/bin/x" {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = Structure(t.Context(), layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "../x"})), Rules{NoSetuid: true})
	layertest.Says(t, err, "cannot read layer 1 (", "leads out of the image")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Search(ctx, layertest.ImageOf(t, one), nil, Allowed{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestMemory searches 300 MB and wants to hold a few of them at most.
func TestMemory(t *testing.T) {
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block) // it never fails
	l := packed(t, func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Name: "large", Size: 300 << 20, Mode: 0o644}); err != nil {
			return err
		}
		for range 300 {
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
		return nil
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newSearch(Allowed{})
	if _, err := s.walker.Walk(t.Context(), l, s.visit); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("it takes %d MB", n>>20)
	}
}

// packed is a layer that is packed each time it is read.
func packed(t testing.TB, pack func(*tar.Writer) error) layers.Layer {
	t.Helper()
	open := func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			to := tar.NewWriter(w)
			err := pack(to)
			_ = w.CloseWithError(errors.Join(err, to.Close()))
		}()
		return r, nil
	}
	r, _ := open()
	digest, size, err := v1.SHA256(r)
	if err != nil {
		t.Fatal(err)
	}
	sum := model.Digest(digest.String())
	return layers.Layer{Digest: sum, DiffID: sum, Size: size, Open: open}
}

// layerOf is the one layer of an image.
func layerOf(t testing.TB, content []byte) layers.Layer {
	t.Helper()
	all, err := layers.Of(t.Context(), layertest.ImageOf(t, content))
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func FuzzLayer(f *testing.F) {
	plain := layertest.Archive(f, layertest.File{Name: "a/b", Text: "ghp_"}, layertest.File{Name: "root/.npmrc", Text: "//r/:_authToken=x"}, layertest.File{Name: "a/.wh.b"}, layertest.File{Name: "etc/passwd", Text: "x:x:0:0::/:/\n"}, layertest.File{Name: "h", Kind: tar.TypeLink, Link: "a/b", Mode: 0o4755})
	f.Add(plain)
	f.Add(layertest.Gzip(f, plain))
	f.Add(layertest.Zstd(f, plain))
	f.Add(layertest.Sparse(f, 1<<12))
	for name, key := range keys(f) {
		f.Add(layertest.Archive(f, layertest.File{Name: strings.ReplaceAll(name, " ", "/"), Text: key}))
	}
	for _, list := range tokens() {
		f.Add(layertest.Archive(f, layertest.File{Name: "root/.docker/config.json", Text: list[0]}))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		image := layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "a/b", Text: "x", Mode: 0o4755}), content)
		s := newSearch(Allowed{})
		s.walker = ofBuild(layers.Limits{Layers: 3, Entries: 1000, Bytes: 32 << 20, RatioFrom: 1 << 20, Window: 8 << 20})
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
	first := tar.NewWriter(&out)
	err := eachOfMachine(64<<20, []string{"/usr/share", "/usr/lib"}, func(h *tar.Header, from io.Reader) error {
		if err := first.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.CopyN(first, from, h.Size)
		return err
	})
	if err != nil {
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
	for name, packed := range map[string][]byte{"plain": content, "zstd": layertest.Zstd(b, content), "gzip": layertest.Gzip(b, content)} {
		l := layerOf(b, packed)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				s := newSearch(Allowed{})
				if _, err := s.walker.Walk(b.Context(), l, s.visit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	l := layerOf(b, content)
	b.Run("structure", func(b *testing.B) {
		b.SetBytes(int64(len(content)))
		for b.Loop() {
			s := &structure{walker: layers.NewWalker(defaults()), rules: Rules{NoSetuid: true, NoWorldWritable: true}, files: map[string]map[string]Finding{}, above: map[string]bool{}, texts: map[string]account{}}
			if _, err := s.walker.Walk(b.Context(), l, s.visit); err != nil {
				b.Fatal(err)
			}
		}
	})
}
