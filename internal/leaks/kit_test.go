package leaks

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// file is an entry of a layer that a test makes.
type file struct {
	name    string
	text    string
	mode    int64 // 0: 0644
	kind    byte  // 0: a regular file
	link    string
	records map[string]string
}

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Typeflag: f.kind, Linkname: f.link, Size: int64(len(f.text)), PAXRecords: f.records, ModTime: time.Unix(1, 0)}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if len(f.records) > 0 {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
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

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

// withLayers returns an image of these layers; each is an archive, compressed or
// not.
func withLayers(t testing.TB, archives ...[]byte) v1.Image {
	t.Helper()
	image := empty.Image
	for _, a := range archives {
		var err error
		if image, err = mutate.AppendLayers(image, static.NewLayer(a, types.OCIUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// configured returns the image with what is changed of its configuration.
func configured(t testing.TB, image v1.Image, change func(*v1.ConfigFile)) v1.Image {
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

func searchOf(t testing.TB, image v1.Image, allow Allowed) *Report {
	t.Helper()
	r, err := Search(t.Context(), image, nil, allow)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// drawn returns n characters as a service would draw them; the same for the same
// seed. No secret is written down in these tests.
func drawn(seed uint64, n int, alphabet string) string {
	r := rand.New(rand.NewPCG(seed, 7))
	var b strings.Builder
	for range n {
		b.WriteByte(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

const (
	hexDigits = "0123456789abcdef"
	base32    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	base64s   = base62 + "+/"
)

// gitHub returns a token of GitHub whose checksum holds.
func gitHub(prefix string) string {
	body := drawn(3, 30, base62)
	return prefix + "_" + body + checksumOf(body)
}

// checksumOf returns what GitHub appends to a token.
func checksumOf(body string) string {
	sum, end := crc32.ChecksumIEEE([]byte(body)), make([]byte, 6)
	for i := 5; i >= 0; i-- {
		end[i] = base62[sum%62]
		sum /= 62
	}
	return string(end)
}

func signed(claims string) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + e.EncodeToString([]byte(claims)) + "." + drawn(9, 86, base62)
}
