package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"kiln/internal/image"
	"kiln/internal/image/imagetest"
	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

func link(name, to string) layertest.File {
	return layertest.File{Name: name, Kind: tar.TypeLink, Link: to}
}

func symlink(name, to string) layertest.File {
	return layertest.File{Name: name, Kind: tar.TypeSymlink, Link: to}
}

// forHere says that an image is for this machine.
func forHere(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	return layertest.Configured(t, img, func(c *v1.ConfigFile) { c.OS, c.Architecture = "linux", imagetest.Architecture })
}

// testHostile: an archive that nobody should have is refused in all the forms in
// which it may come, and nothing of it is left.
func testHostile(t *testing.T, s *image.Store) {
	outside := t.TempDir()
	for name, c := range map[string]struct {
		files []layertest.File
		want  string
	}{
		"climbs":              {[]layertest.File{{Name: "../../../../../../" + outside + "/x", Text: "x"}}, "leads out of the image"},
		"links out":           {[]layertest.File{link("h", "../../../../etc/hostname")}, `entry "h": it is a link to "../../../../etc/hostname"`},
		"hides what is above": {[]layertest.File{{Name: "a/.wh..."}}, "it is a whiteout of nothing"},
		"nobody's":            {[]layertest.File{{Name: "a", UID: 1 << 32}}, `entry "a": it belongs to user 4294967296`},
		"of overlayfs":        {[]layertest.File{{Name: "a", Records: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"}}}, `"trusted.overlay.redirect"`},
		"no such device":      {[]layertest.File{{Name: "d", Kind: tar.TypeChar, Major: 1 << 20}}, "a device with the numbers 1048576:0"},
		"no such kind":        {[]layertest.File{{Name: "d", Kind: 'V'}}, "it is of a kind ('V')"},
	} {
		plain := layertest.Archive(t, c.files...)
		layered := forHere(t, layertest.ImageOf(t, layertest.Archive(t, layertest.Dir("etc")), layertest.Gzip(t, plain)))
		for form, data := range map[string][]byte{
			"rootfs": plain, "rootfs, compressed": layertest.Zstd(t, plain), "layout": tarOf(t, ociTar(t, layered)), "docker archive": dockerTar(t, map[string]v1.Image{"a/b:1": layered}),
		} {
			_, err := s.Import(t.Context(), bytes.NewReader(data), "base/hostile:1", quiet)
			if err == nil {
				t.Errorf("%s, as %s: it is taken in", name, form)
				continue
			}
			wantError(t, err, model.Invalid, c.want)
		}
	}
	for form, bomb := range map[string][]byte{"zstd": zstdBomb(t, 1200<<20), "sparse": layertest.Zstd(t, layertest.Sparse(t, 1<<40))} {
		_, err := s.Import(t.Context(), bytes.NewReader(bomb), "base/bomb:1", quiet)
		if err == nil {
			t.Errorf("a bomb (%s) is taken in", form)
			continue
		}
		wantError(t, err, model.Invalid, "cannot read layer 1")
	}
	_, err := s.Import(t.Context(), bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xb0, 0x01, 0x00, 0x00}), "base/window:1", quiet)
	wantError(t, err, model.Invalid, "window size exceeded")
	nothingIsLeft(t, s)
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("written outside of the image: %v (%v)", left, err)
	}
}

// zstdBomb is a compressed archive with a file of so many zeros.
func zstdBomb(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(zeros)) {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layoutOf is an OCI layout of these blobs, by their digests, whose index names the
// first of them.
func layoutOf(t *testing.T, media string, blobs ...[]byte) []byte {
	t.Helper()
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	for i, b := range blobs {
		sum, size, err := v1.SHA256(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		files["blobs/sha256/"+sum.Hex] = string(b)
		if i == 0 {
			files["index.json"] = fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, media, sum, size)
		}
	}
	return tarOf(t, files)
}

// rewritten is the layout of an image whose manifest says something else.
func rewritten(t *testing.T, img v1.Image, change func(*v1.Manifest)) []byte {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	m = m.DeepCopy()
	change(m)
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	blobs := [][]byte{text, config}
	all, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, b)
	}
	return layoutOf(t, string(types.OCIManifestSchema1), blobs...)
}

// testTwisted: manifests, indexes and configurations that are not what they say.
func testTwisted(t *testing.T, s *image.Store) {
	img := forHere(t, mutate.MediaType(layertest.Image(t, layertest.Files(t, layertest.File{Name: "a", Text: "x"})), types.OCIManifestSchema1))
	config := func(text string) []byte {
		b, err := mutate.AppendLayers(empty.Image)
		if err != nil {
			t.Fatal(err)
		}
		sum, size, err := v1.SHA256(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		m = m.DeepCopy()
		m.MediaType, m.Config = types.OCIManifestSchema1, v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: sum, Size: size}
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return layoutOf(t, string(types.OCIManifestSchema1), raw, []byte(text))
	}
	self := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":"sha256:%s","size":2}]}`, types.OCIImageIndex, types.OCIImageIndex, strings.Repeat("0", 64))
	cycle := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": self, "blobs/sha256/" + strings.Repeat("0", 64): self}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"a layer of another size":  {rewritten(t, img, func(m *v1.Manifest) { m.Layers[0].Size++ }), "its manifest says"},
		"a config of another size": {rewritten(t, img, func(m *v1.Manifest) { m.Config.Size-- }), "its manifest says"},
		"a negative size":          {rewritten(t, img, func(m *v1.Manifest) { m.Layers[0].Size = -1 }), "its manifest says"},
		"encrypted":                {rewritten(t, img, func(m *v1.Manifest) { m.Layers[0].MediaType += "+encrypted" }), "it is encrypted"},
		"no layer":                 {rewritten(t, img, func(m *v1.Manifest) { m.Layers[0].MediaType = "text/plain" }), "no layer of files"},
		"a layer twice":            {rewritten(t, img, func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), "2 layers, and its configuration speaks of 1"},
		"none of its layers":       {rewritten(t, img, func(m *v1.Manifest) { m.Layers = nil }), "0 layers, and its configuration speaks of 1"},
		"a layer that is elsewhere": {rewritten(t, img, func(m *v1.Manifest) {
			m.Layers[0].Digest.Hex = strings.Repeat("a", 64)
			m.Layers[0].URLs = []string{"https://example.com/l"}
		}), "https://example.com/l"},
		"a layer that is not there":    {rewritten(t, img, func(m *v1.Manifest) { m.Layers[0].Digest.Hex = strings.Repeat("a", 64) }), "missing or does not match"},
		"other diff ids":               {tarOf(t, ociTar(t, layertest.Configured(t, img, func(c *v1.ConfigFile) { c.RootFS.DiffIDs[0].Hex = strings.Repeat("a", 64) }))), "cannot unpack the image"},
		"diff ids of nothing":          {tarOf(t, ociTar(t, layertest.Configured(t, img, func(c *v1.ConfigFile) { c.RootFS.DiffIDs[0].Algorithm = "md5" }))), "digest"},
		"a config that is no JSON":     {config("this is not JSON"), "cannot read JSON of an image"},
		"a config that is a list":      {config("[1,2]"), "cannot read JSON of an image"},
		"a huge config":                {config(`{"os":"linux","x":"` + strings.Repeat("x", 17<<20) + `"}`), "at most"},
		"an index that names itself":   {tarOf(t, cycle), "missing or does not match"},
		"indexes without an end":       {nested(t, 12), "more than 8 indexes"},
		"another kind":                 {layoutOf(t, "application/vnd.oci.image.manifest.v9+json", []byte("{}")), "unknown kind"},
		"an index that is none":        {tarOf(t, map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": "{"}), "cannot read JSON of an image"},
		"a manifest.json that is none": {tarOf(t, map[string]string{"manifest.json": `[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":["../../../etc/shadow"]}]`}), "cannot"},
		"links for layers": {layertest.Archive(t, layertest.File{Name: "manifest.json", Text: `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]`},
			layertest.File{Name: "c.json", Text: `{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`}, symlink("l.tar", "/etc/shadow")), "cannot"},
	} {
		_, err := s.Import(t.Context(), bytes.NewReader(c.data), "base/twisted:1", quiet)
		if err == nil {
			t.Errorf("%s: it is taken in", name)
			continue
		}
		if model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s: %v, want %q", name, model.CodeOf(err), err, c.want)
		}
	}
	nothingIsLeft(t, s)
}

// nested is a layout whose index leads to so many others, and then to nothing.
func nested(t *testing.T, depth int) []byte {
	t.Helper()
	blobs := [][]byte{[]byte(`{"schemaVersion":2,"manifests":[]}`)}
	for range depth {
		sum, size, err := v1.SHA256(bytes.NewReader(blobs[0]))
		if err != nil {
			t.Fatal(err)
		}
		above := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, types.OCIImageIndex, types.OCIImageIndex, sum, size)
		blobs = append([][]byte{above}, blobs...)
	}
	return layoutOf(t, string(types.OCIImageIndex), blobs...)
}

// testInside: what looks as if it led out, and may be in an image, stays inside.
func testInside(t *testing.T, s *image.Store) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	odd := layertest.Archive(t,
		layertest.Dir("./"), symlink("out", outside), layertest.File{Name: "out/new", Text: "inside"}, symlink("up", "../../../../.."), layertest.File{Name: "up" + outside + "/up", Text: "inside"},
		layertest.File{Name: outside + "/absolute", Text: "inside"}, layertest.File{Name: "twice", Text: "1"}, layertest.File{Name: "twice", Text: "22"}, link("hard", "twice"),
		layertest.File{Name: "null", Kind: tar.TypeChar, Major: 1, Minor: 3, Mode: 0o666}, layertest.File{Name: "pipe", Kind: tar.TypeFifo},
		layertest.File{Name: "new\nline\x1b[31m"}, layertest.File{Name: "caf\xe9"}, layertest.File{Name: strings.Repeat("n", 255)},
		layertest.File{Name: "cap", Records: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
	)
	above := layertest.Archive(t, layertest.File{Name: "twice/.wh..wh..opq"}, layertest.File{Name: "out/.wh.secret"}, layertest.File{Name: ".wh.nothing"})
	img := forHere(t, layertest.ImageOf(t, odd, layertest.Gzip(t, above)))
	if _, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, ociTar(t, img))), "base/odd:1", quiet); err != nil {
		t.Fatal(err)
	}
	// A file of the host that an image links to would be shared with it.
	through := layertest.Archive(t, symlink("out", outside), link("mine", "out/secret"))
	if _, err := s.Import(t.Context(), bytes.NewReader(through), "base/through:1", quiet); err == nil {
		t.Error("a link through a symbolic link finds something")
	} else {
		wantError(t, err, model.Invalid, "cannot unpack the image")
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 1 {
		t.Errorf("outside of the image there is %v (%v)", left, err)
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "of the host" {
		t.Errorf("the host's file is %q (%v)", text, err)
	}
}
