package contents_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kiln/internal/contents"
)

// packed makes an image of one layer.
func packed(t *testing.T, env string, entries ...tar.Header) v1.Image {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		text := h.Uname // stands for the content
		h.Uname = ""
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(text))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil && h.Typeflag == tar.TypeReg {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Env: []string{"A=1", env}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestCompare(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	first := packed(t, "B=1",
		tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "etc/log", Uname: "built on 09:00:01, and so on"},
		tar.Header{Name: "etc/mode", Uname: "x"},
		tar.Header{Name: "etc/owner", Uid: 1},
		tar.Header{Name: "etc/time", ModTime: at},
		tar.Header{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "a"},
		tar.Header{Name: "etc/cap", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01"}},
		tar.Header{Name: "etc/longer", Uname: "the same"},
		tar.Header{Name: "etc/gone"},
		tar.Header{Name: "etc/.wh.old"},
	)
	second := packed(t, "B=2",
		tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "etc/log", Uname: "built on 09:00:02, and so on"},
		tar.Header{Name: "etc/mode", Uname: "x", Mode: 0o4755},
		tar.Header{Name: "etc/owner", Uid: 2},
		tar.Header{Name: "etc/time", ModTime: at.Add(time.Second)},
		tar.Header{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "b"},
		tar.Header{Name: "etc/cap", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x02"}},
		tar.Header{Name: "etc/longer", Uname: "the same and more"},
		tar.Header{Name: "etc/came", Typeflag: tar.TypeDir},
		tar.Header{Name: "etc/.wh.old"},
	)
	reader := contents.Reader{Dir: t.TempDir()}
	found, err := reader.Compare(t.Context(), first, second)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, fmt.Sprintf("%d %s %s %d: %s | %s", d.Layer, d.Path, d.Aspect, d.Offset, d.First, d.Second))
	}
	want := []string{
		`0 config.Env[1] value 0: "B=1" | "B=2"`,
		`1 etc/came presence 0:  | directory`,
		`1 etc/cap attribute security.capability 0: "\x01" | "\x02"`,
		`1 etc/gone presence 0: file | `,
		`1 etc/link link 0: a | b`,
		`1 etc/mode mode 0: 0644 | 4755`,
		`1 etc/owner owner 0: 1:0 | 2:0`,
		`1 etc/time time 0: 2023-11-14T22:13:20Z | 2023-11-14T22:13:21Z`,
		`1 etc/log content 16: "9:00:01, and so on" | "9:00:02, and so on"`,
		`1 etc/longer content 8: "e same" | "e same and more"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("found is\n%q\nwant\n%q", got, want)
	}
	if same, err := reader.Compare(t.Context(), first, first); err != nil || len(same) != 0 {
		t.Errorf("an image differs from itself: %v, %v", same, err)
	}
	// The same files in another order are another image, too.
	a := tar.Header{Name: "a", Uname: "1"}
	b := tar.Header{Name: "b", Uname: "2"}
	found, err = reader.Compare(t.Context(), packed(t, "B=1", a, b), packed(t, "B=1", b, a))
	if err != nil || len(found) != 1 || found[0].Aspect != "order" {
		t.Errorf("another order is %v, %v", found, err)
	}
	if left, err := os.ReadDir(reader.Dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v (%v)", left, err)
	}
}
