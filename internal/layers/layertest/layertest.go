// Package layertest makes images, layers and archives for tests, good ones and such
// as nobody should have.
package layertest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"kiln/internal/layers"
)

// File is an entry of an archive: a regular file, unless Kind says else.
type File struct {
	Name         string
	Text         string
	Kind         byte
	Link         string
	Mode         int64 // 0: 0644, of directories 0755
	UID, GID     int
	Major, Minor int64
	Records      map[string]string
}

// Dir is a directory.
func Dir(name string) File { return File{Name: name, Kind: tar.TypeDir} }

// Archive returns a tar of the files.
func Archive(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		Write(t, w, f)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Write writes one file to an archive.
func Write(t testing.TB, w *tar.Writer, f File) {
	t.Helper()
	h := &tar.Header{
		Name: f.Name, Mode: f.Mode, Typeflag: f.Kind, Linkname: f.Link, Size: int64(len(f.Text)), Uid: f.UID, Gid: f.GID,
		Devmajor: f.Major, Devminor: f.Minor, PAXRecords: f.Records, ModTime: time.Unix(1, 0),
	}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if len(f.Records) > 0 {
		h.Format = tar.FormatPAX
	}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, f.Text); err != nil {
		t.Fatal(err)
	}
}

// Sparse is an archive with a file of so many bytes that is nearly all hole, as GNU
// tar writes it (https://www.gnu.org/software/tar/manual/html_node/PAX-1.html). The
// archive's package does not write these: the records are named otherwise first.
func Sparse(t testing.TB, size int64) []byte {
	t.Helper()
	b := Archive(t, File{Name: "sparse", Text: "1\n" + fmt.Sprint(size-1) + "\n1\n" + strings.Repeat("\x00", 512-5-len(fmt.Sprint(size-1))) + "x", Records: map[string]string{
		"GNX.sparse.major": "1", "GNX.sparse.minor": "0", "GNX.sparse.name": "sparse", "GNX.sparse.realsize": fmt.Sprint(size),
	}})
	return bytes.ReplaceAll(b, []byte("GNX.sparse"), []byte("GNU.sparse"))
}

// OldSparse is the same without any byte of the file, in GNU tar's older format.
func OldSparse(t testing.TB, size int64) []byte {
	t.Helper()
	b := Archive(t, File{Name: "sparse"})
	copy(b[156:], "S")
	copy(b[257:], "ustar  \x00") // the format's magic
	for i, n := 11, size; i > 0; i, n = i-1, n>>8 {
		b[483+i] = byte(n) // the real size, in binary
	}
	b[483] = 0x80
	copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 0))
	Sum(b)
	return b
}

// Sum gives an archive's first header the checksum that it needs after a change.
func Sum(archive []byte) {
	copy(archive[148:], "        ")
	sum := 0
	for _, c := range archive[:512] {
		sum += int(c)
	}
	copy(archive[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// Gzip compresses.
func Gzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Zstd compresses.
func Zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

// Flip returns b with a byte changed, which is counted from the end if at is negative.
func Flip(b []byte, at int) []byte {
	b = slices.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x10
	return b
}

// Layer is a layer of these very bytes, under their true digests. The diff id of what
// cannot be unpacked is that of the bytes.
func Layer(t testing.TB, content []byte) v1.Layer {
	t.Helper()
	l := &layer{content: content}
	var err error
	if l.digest, _, err = v1.SHA256(bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	l.diffID = l.digest
	if plain, err := layers.Unpack(bytes.NewReader(content)); err == nil {
		if sum, _, err := v1.SHA256(plain); err == nil {
			l.diffID = sum
		}
		_ = plain.Close()
	}
	return l
}

// Files is a layer of these files, compressed.
func Files(t testing.TB, files ...File) v1.Layer {
	t.Helper()
	return Layer(t, Gzip(t, Archive(t, files...)))
}

type layer struct {
	content        []byte
	digest, diffID v1.Hash
}

func (l *layer) Digest() (v1.Hash, error) { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error) { return l.diffID, nil }
func (l *layer) Size() (int64, error)     { return int64(len(l.content)), nil }

func (l *layer) MediaType() (types.MediaType, error) {
	switch {
	case bytes.HasPrefix(l.content, []byte{0x1f, 0x8b}):
		return types.OCILayer, nil
	case bytes.HasPrefix(l.content, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return types.OCILayerZStd, nil
	}
	return types.OCIUncompressedLayer, nil
}

func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.content)), nil
}

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	return layers.Unpack(bytes.NewReader(l.content))
}

// Image returns an image of the layers, the lowest first.
func Image(t testing.TB, all ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, all...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// ImageOf returns an image of layers with these contents.
func ImageOf(t testing.TB, contents ...[]byte) v1.Image {
	t.Helper()
	all := make([]v1.Layer, len(contents))
	for i, c := range contents {
		all[i] = Layer(t, c)
	}
	return Image(t, all...)
}

// Configured returns the image with what is changed of its configuration.
func Configured(t testing.TB, image v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	change(c)
	if image, err = mutate.ConfigFile(image, c); err != nil {
		t.Fatal(err)
	}
	return image
}

// Says fails the test unless err says all the words.
func Says(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error is %q, and does not say %q", err, w)
		}
	}
}
