package contents

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kiln/internal/layers"
	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// TestTreeIsBounded: more files and directories may come of entries than there are
// entries, and deep ones of few.
func TestTreeIsBounded(t *testing.T) {
	deep := layertest.File{Name: strings.Repeat("a/", 500) + "b"}
	_, err := Reader{Limits: layers.Limits{Entries: 100}}.Packages(t.Context(), layertest.Image(t, layertest.Files(t, deep)))
	layertest.Says(t, err, "layer 1 (", "more than 100 files")
	if model.CodeOf(err) != model.Invalid || model.HintOf(err) == "" {
		t.Errorf("the error is %s, %q", model.CodeOf(err), model.HintOf(err))
	}
}

// TestTreeOfOddLayers: what layers may say, however odd it is, and what may not be.
func TestTreeOfOddLayers(t *testing.T) {
	file, link := func(name string) layertest.File { return layertest.File{Name: name, Text: "x"} }, func(name, to string) layertest.File {
		return layertest.File{Name: name, Kind: tar.TypeSymlink, Link: to}
	}
	for name, c := range map[string]struct {
		below, above []layertest.File
		want         string // the paths, or the error
	}{
		"twice the same":           {[]layertest.File{file("a"), file("a"), layertest.Dir("a"), file("a")}, nil, "a"},
		"an opaque file":           {[]layertest.File{file("a")}, []layertest.File{file("a/.wh..wh..opq")}, "a"},
		"an opaque nothing":        {[]layertest.File{file("a")}, []layertest.File{file("b/.wh..wh..opq")}, "a"},
		"an opaque directory":      {[]layertest.File{file("a/b"), file("c")}, []layertest.File{file("a/.wh..wh..opq"), file("a/d")}, "a a/d c"},
		"opaque, and then behind":  {[]layertest.File{file("a/b")}, []layertest.File{file("a/d"), file("a/.wh..wh..opq")}, "a a/d"},
		"hidden below a link":      {[]layertest.File{file("a/b"), link("l", "/../a")}, []layertest.File{file("l/.wh.b")}, "a l"},
		"a file below a file":      {[]layertest.File{file("a"), file("a/b")}, nil, `entry "a/b": what it is in is no directory`},
		"a link to nothing":        {[]layertest.File{{Name: "h", Kind: tar.TypeLink, Link: "no"}}, nil, `entry "h": it is a hard link to no, which is no file before it`},
		"a link to a directory":    {[]layertest.File{layertest.Dir("d"), {Name: "h", Kind: tar.TypeLink, Link: "d"}}, nil, "which is no file before it"},
		"a link to itself":         {[]layertest.File{{Name: "h", Kind: tar.TypeLink, Link: "h"}}, nil, "which is no file before it"},
		"links in a circle":        {[]layertest.File{link("a", "b"), link("b", "a"), file("a/x")}, nil, "too many symbolic links"},
		"a device, a pipe":         {[]layertest.File{{Name: "d", Kind: tar.TypeChar, Major: 1, Minor: 3}, {Name: "p", Kind: tar.TypeFifo}}, nil, "d p"},
		"names of bytes and lines": {[]layertest.File{file("a\nb"), file("\xff\xfe")}, nil, "a\nb \xff\xfe"},
	} {
		s, err := Reader{}.scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen, err := s.image(layertest.Image(t, layertest.Files(t, c.below...), layertest.Files(t, c.above...)))
		s.close()
		got := fmt.Sprint(err)
		if err == nil {
			var all []string
			_ = seen.tree.root.each("", func(p string, _ *node) error { all = append(all, p); return nil })
			got = strings.Join(slices.Sorted(slices.Values(all)), " ")
		} else if model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: the error is %s", name, model.CodeOf(err))
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// FuzzTree wants that whatever a layer's bytes are, the image is read, or refused
// as it should be, without a panic.
func FuzzTree(f *testing.F) {
	plain := layertest.Archive(f, layertest.Dir("./"), layertest.File{Name: "etc/motd", Text: "hello"}, layertest.File{Name: "etc/.wh.x"}, layertest.File{Name: "l", Kind: tar.TypeLink, Link: "etc/motd"},
		layertest.File{Name: "s", Kind: tar.TypeSymlink, Link: "/etc"}, layertest.File{Name: "s/deep/er", Text: "x", Records: map[string]string{"SCHILY.xattr.user.a": "b"}})
	f.Add(plain)
	f.Add(layertest.Gzip(f, plain))
	f.Add(layertest.Zstd(f, plain))
	f.Add(layertest.Archive(f, layertest.File{Name: "var/lib/dpkg/status", Text: stanza("bash", "5.2", "")}, layertest.File{Name: "usr/lib/node_modules/a/package.json", Text: `{"name":"a","version":"1"}`}))
	limits := layers.Limits{Entries: 1000, Bytes: 1 << 20, Ratio: 100, RatioFrom: 1 << 16, Window: 8 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Reader{Limits: limits, Dir: t.TempDir()}.scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		seen, err := s.image(layertest.ImageOf(t, b, b))
		if err != nil {
			if model.CodeOf(err) != model.Invalid {
				t.Fatalf("the error is %s: %v", model.CodeOf(err), err)
			}
			return
		}
		if _, err := s.inventory(seen.tree); err != nil {
			t.Fatal(err)
		}
	})
}
