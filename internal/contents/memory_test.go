package contents

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// counted is a layer that counts how often it is read.
type counted struct {
	v1.Layer
	opened *int
}

func (c counted) Compressed() (io.ReadCloser, error) {
	*c.opened++
	return c.Layer.Compressed()
}

// remembered are a base and what is built on it: every kind of thing that is learned,
// and everything that one layer does to another.
func remembered(t *testing.T) (base v1.Layer, above []v1.Layer) {
	t.Helper()
	base = layertest.Files(t,
		layertest.File{Name: "usr/lib/os-release", Text: debianRelease}, layertest.File{Name: "etc/os-release", Kind: tar.TypeSymlink, Link: "../usr/lib/os-release"},
		layertest.File{Name: "var/lib/dpkg/status", Text: stanza("bash", "5", "") + stanza("zlib1g", "1", "")},
		layertest.File{Name: "usr/share/doc/bash/copyright", Text: "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-3+\n"},
		layertest.File{Name: "srv/a/package.json", Text: `{"name":"a","version":"1"}`}, layertest.File{Name: "srv/b/package.json", Text: `{"name":"b","version":"1"}`},
		layertest.File{Name: "srv/twice/package.json", Kind: tar.TypeLink, Link: "srv/a/package.json"}, layertest.File{Name: "bad/package.json", Text: "{"},
	)
	return base, []v1.Layer{
		layertest.Files(t, layertest.File{Name: "srv/app/package.json", Text: `{"name":"app","version":"2"}`}),
		layertest.Files(t, layertest.File{Name: "srv/.wh.a"}, layertest.File{Name: "srv/b/package.json", Text: `{"name":"b","version":"3"}`}),
		layertest.Files(t, layertest.File{Name: "var/lib/dpkg/status", Text: stanza("bash", "6", "")}),
		layertest.Files(t, layertest.File{Name: "usr/lib/os-release", Text: "ID=other\nPRETTY_NAME=Other\n"}),
		layertest.Files(t, layertest.File{Name: "srv/.wh..wh..opq"}, layertest.File{Name: "srv/c/package.json", Text: `{"name":"c","version":"1"}`}),
	}
}

func TestLayersAreReadOnce(t *testing.T) {
	base, above := remembered(t)
	opened := 0
	known := Reader{Memory: &Memory{}}
	for i, layer := range above {
		img := layertest.Image(t, counted{base, &opened}, layer)
		got, err := known.Packages(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		if opened != 1 {
			t.Fatalf("image %d: the base was read %d times", i, opened)
		}
		want, err := Packages(t.Context(), layertest.Image(t, base, layer))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got.Packages) == 0 {
			t.Errorf("image %d: what is remembered is not what is read (-read +remembered):\n%s", i, diff)
		}
	}
}

// A layer that is remembered can stand on others on which it cannot be.
func TestRememberedLayerThatCannotBe(t *testing.T) {
	one := layertest.Files(t, layertest.File{Name: "a", Text: "text"})
	link := layertest.Files(t, layertest.File{Name: "b", Kind: tar.TypeLink, Link: "a"})
	known := Reader{Memory: &Memory{}}
	if _, err := known.Packages(t.Context(), layertest.Image(t, one, link)); err != nil {
		t.Fatal(err)
	}
	_, read := Packages(t.Context(), layertest.Image(t, link))
	_, err := known.Packages(t.Context(), layertest.Image(t, link))
	if model.CodeOf(err) != model.Invalid || err.Error() != read.Error() {
		t.Errorf("remembered: %v\nread: %v", err, read)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	r := Reader{Memory: &Memory{}}
	many := func(name string, files int) (v1.Image, *int) {
		all := make([]layertest.File, files)
		for i := range all {
			all[i] = layertest.File{Name: fmt.Sprintf("%s%d", name, i)}
		}
		opened := 0
		return layertest.Image(t, counted{layertest.Files(t, all...), &opened}), &opened
	}
	read := func(what string, img v1.Image, opened *int, want int) {
		t.Helper()
		if _, err := r.Packages(t.Context(), img); err != nil {
			t.Fatal(err)
		}
		if *opened != want {
			t.Errorf("%s was read %d times, want %d", what, *opened, want)
		}
	}
	first, ofFirst := many("a", maxMemory/3)
	second, ofSecond := many("b", maxMemory/3)
	third, ofThird := many("c", maxMemory/3+2)
	read("the first", first, ofFirst, 1)
	read("the second", second, ofSecond, 1)
	read("the first", first, ofFirst, 1)
	read("the third", third, ofThird, 1)
	read("the first, asked for after the second,", first, ofFirst, 1)
	read("the second, which had to go,", second, ofSecond, 2)
	large, ofLarge := many("d", maxLayer+1)
	read("what is too large", large, ofLarge, 1)
	read("what is too large", large, ofLarge, 2)
	if r.Memory.room > maxMemory {
		t.Errorf("%d are kept", r.Memory.room)
	}
}

func TestDamagedLayerIsNotRemembered(t *testing.T) {
	good := layertest.Archive(t, layertest.File{Name: "srv/a/package.json", Text: `{"name":"a","version":"1"}`})
	layer := layertest.Layer(t, good)
	r := Reader{Memory: &Memory{}}
	if _, err := r.Packages(t.Context(), layertest.Image(t, damaged{layer, layertest.Flip(good, 600)})); model.CodeOf(err) != model.Invalid {
		t.Fatal(err)
	}
	got, err := r.Packages(t.Context(), layertest.Image(t, layer))
	if err != nil || len(got.Packages) != 1 || got.Packages[0].Name != "a" {
		t.Errorf("%+v, %v", got, err)
	}
}

// damaged is a layer whose bytes are others than its digest says.
type damaged struct {
	v1.Layer
	bytes []byte
}

func (d damaged) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(d.bytes)), nil
}
