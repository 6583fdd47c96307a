package contents

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/model"
)

// walked returns what a walk visits, a line for each entry.
func walked(t testing.TB, r Reader, img v1.Image) ([]string, error) {
	t.Helper()
	var lines []string
	err := r.Walk(t.Context(), img, func(e Entry, in io.Reader) error {
		body, err := io.ReadAll(in)
		lines = append(lines, fmt.Sprintf("%d %s %s %s", e.Layer.Index, e.Path, e.Whiteout, body))
		return err
	})
	return lines, err
}

func TestWalk(t *testing.T) {
	first := archiveOf(t, dir("./"), dir("/etc/"), entry{name: "./etc/motd", body: "hello"}, entry{name: "//usr/./bin/x", body: "1"})
	second := archiveOf(t, entry{name: "etc/.wh.motd"}, entry{name: "usr/.wh..wh..opq"}, entry{name: ".wh..wh.plnk/1.2"})
	img := imageOf(t, raw(first), raw(zstdded(t, second)), layer(t, entry{name: "a", kind: tar.TypeSymlink, link: "/../../etc"}))
	got, err := walked(t, Reader{}, img)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"0 .  ", "0 etc  ", "0 etc/motd  hello", "0 usr/bin/x  1", "1 etc/motd path ", "1 usr opaque ", "2 a  "}
	if !slices.Equal(got, want) {
		t.Errorf("the walk visits %q, want %q", got, want)
	}
}

func TestWalkRefuses(t *testing.T) {
	good := archiveOf(t, entry{name: "first", body: "1"})
	long := strings.Repeat("a", 256)
	for name, c := range map[string]struct {
		bytes  []byte
		limits Limits
		words  []string
	}{
		"traversal":          {archiveOf(t, entry{name: "../../etc/passwd"}), Limits{}, []string{`entry "../../etc/passwd"`, "leads out"}},
		"traversal within":   {archiveOf(t, entry{name: "a/b/../../../x"}), Limits{}, []string{"leads out"}},
		"link out":           {archiveOf(t, entry{name: "l", kind: tar.TypeLink, link: "../x"}), Limits{}, []string{`entry "l"`, "links to", "leads out"}},
		"long part":          {archiveOf(t, entry{name: long}), Limits{}, []string{"256 bytes", "255"}},
		"long name":          {archiveOf(t, dir(strings.Repeat("abcdefg/", 513))), Limits{}, []string{"4104 bytes", "4096"}},
		"long link":          {archiveOf(t, entry{name: "l", kind: tar.TypeSymlink, link: strings.Repeat("abcdefg/", 513)}), Limits{}, []string{`entry "l"`, "longer"}},
		"root is a file":     {archiveOf(t, entry{name: "./", kind: tar.TypeSymlink, link: "x"}), Limits{}, []string{"root"}},
		"whiteout of parent": {archiveOf(t, entry{name: "a/.wh..."}), Limits{}, []string{"removes nothing"}},
		"unknown kind":       {archiveOf(t, entry{name: "x", kind: 'Q'}), Limits{}, []string{`entry "x"`, "'Q'"}},
		"entries":            {archiveOf(t, dir("a"), dir("b"), dir("c")), Limits{Entries: 2}, []string{`entry "c"`, "more entries"}},
		"bytes":              {archiveOf(t, entry{name: "x", body: strings.Repeat("x", 5000)}), Limits{Bytes: 4000}, []string{"more than the bound"}},
		"ratio":              {gzipped(t, archiveOf(t, entry{name: "x", body: strings.Repeat("\x00", 1<<20)})), Limits{Ratio: 100, RatioFrom: 1 << 16}, []string{"so many times its size"}},
		"bomb after the end": {gzipped(t, append(good, make([]byte, 1<<20)...)), Limits{Bytes: 1 << 19}, []string{"more than the bound"}},
		"sparse":             {sparse(t, 1<<40), Limits{}, []string{`entry "sparse"`, "more than the bound"}},
		"not an archive":     {[]byte(strings.Repeat("no archive ", 100)), Limits{}, []string{"layer 0", "tar"}},
		"cut archive":        {good[:512], Limits{}, []string{`"first"`, "unexpected EOF"}},
		"cut gzip":           {gzipped(t, good)[:40], Limits{}, []string{"layer 0", "unexpected EOF"}},
		"cut zstd":           {zstdded(t, good)[:40], Limits{}, []string{"layer 0"}},
		"bad gzip checksum":  {flip(gzipped(t, good), -6), Limits{}, []string{"layer 0", "checksum"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := walked(t, Reader{Limits: c.limits}, imageOf(t, raw(c.bytes)))
			says(t, err, append(c.words, "layer 0 (")...)
			if model.CodeOf(err) != model.Invalid {
				t.Errorf("the error is %s, want invalid", model.CodeOf(err))
			}
		})
	}
}

// sparse is an archive with a file that is said to have that many bytes, and has none.
func sparse(t testing.TB, size int64) []byte {
	t.Helper()
	return archiveWith(t, func(w *bytes.Buffer) {
		body := archiveOf(t, entry{name: "sparse", body: "", kind: tar.TypeReg})
		h := body[:512]
		copy(h[156:], "S")                                // GNU sparse
		copy(h[257:], "ustar  \x00")                      // GNU magic
		copy(h[483:], fmt.Sprintf("%011o\x00", int64(0))) // real size; what does not fit is binary
		put := h[483:495]
		for i := range put {
			put[i] = 0
		}
		put[0] = 0x80
		for i, n := 11, size; i > 0; i, n = i-1, n>>8 {
			put[i] = byte(n)
		}
		copy(h[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 0))
		copy(h[148:], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		w.Write(body)
	})
}

func archiveWith(t testing.TB, write func(*bytes.Buffer)) []byte {
	t.Helper()
	var b bytes.Buffer
	write(&b)
	return b.Bytes()
}

// flip returns b with a byte changed, which is counted from the end if at is negative.
func flip(b []byte, at int) []byte {
	b = slices.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x10
	return b
}

// lying is a layer whose bytes are others than its digest says.
type lying struct {
	v1.Layer
	open func() (io.ReadCloser, error)
}

func (l lying) Compressed() (io.ReadCloser, error) { return l.open() }

func TestWalkComparesDigests(t *testing.T) {
	good := gzipped(t, archiveOf(t, entry{name: "first", body: strings.Repeat("1", 1000)}))
	reads := func(b []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	}
	other := gzipped(t, archiveOf(t, entry{name: "other", body: strings.Repeat("1", 1000)}))
	for name, c := range map[string]struct {
		open func() (io.ReadCloser, error)
		code model.Code
		word string
	}{
		"other bytes":  {reads(append(other, good...)[:len(good)]), model.Invalid, "damaged"},
		"changed":      {reads(flip(good, 20)), model.Invalid, "damaged"},
		"header":       {reads(flip(good, 0)), model.Invalid, "damaged"},
		"short":        {reads(good[:30]), model.Invalid, "cut off"},
		"empty":        {reads(nil), model.Invalid, "cut off"},
		"long":         {reads(append(slices.Clone(good), 0)), model.Invalid, "more than the"},
		"gone":         {func() (io.ReadCloser, error) { return nil, errors.New("connection refused") }, model.Unavailable, "connection refused"},
		"denied":       {func() (io.ReadCloser, error) { return nil, model.Errorf(model.Denied, "not for you") }, model.Denied, "not for you"},
		"breaks off":   {func() (io.ReadCloser, error) { return &breaking{good[:30]}, nil }, model.Unavailable, "connection reset"},
		"after header": {func() (io.ReadCloser, error) { return &breaking{nil}, nil }, model.Unavailable, "connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := walked(t, Reader{}, imageOf(t, layer(t, dir("a")), lying{raw(good), c.open}))
			says(t, err, c.word, "layer 1 (")
			if model.CodeOf(err) != c.code {
				t.Errorf("the error is %s, want %s: %v", model.CodeOf(err), c.code, err)
			}
		})
	}
}

type breaking struct{ left []byte }

func (b *breaking) Read(p []byte) (int, error) {
	n := copy(p, b.left)
	if b.left = b.left[n:]; n == 0 {
		return 0, errors.New("connection reset")
	}
	return n, nil
}

func (*breaking) Close() error { return nil }

func TestWalkEnds(t *testing.T) {
	img := imageOf(t, layer(t, dir("a"), dir("b")))
	own := errors.New("enough")
	err := Reader{}.Walk(t.Context(), img, func(Entry, io.Reader) error { return own })
	if err != own {
		t.Errorf("the walk ends with %v, want the visitor's own error", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client has gone"))
	err = Reader{}.Walk(ctx, img, func(Entry, io.Reader) error { return nil })
	says(t, err, "the client has gone")
}

// FuzzWalk wants that whatever a layer's bytes are, the walk ends, within its bounds,
// without a panic, and that no path leads out.
func FuzzWalk(f *testing.F) {
	plain := archiveOf(f, dir("./"), entry{name: "etc/motd", body: "hello"}, entry{name: "etc/.wh.x"}, entry{name: "l", kind: tar.TypeLink, link: "etc/motd"},
		entry{name: "s", kind: tar.TypeSymlink, link: "/etc"}, entry{name: "s/deep/er", body: "x", pax: map[string]string{"SCHILY.xattr.user.a": "b"}})
	f.Add(plain)
	f.Add(gzipped(f, plain))
	f.Add(zstdded(f, plain))
	f.Add(sparse(f, 1<<33))
	f.Add(archiveOf(f, entry{name: "../x"}, entry{name: "a/.wh..wh..opq"}))
	limits := Limits{Entries: 1000, Bytes: 1 << 20, Ratio: 100, RatioFrom: 1 << 16}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Reader{Limits: limits}.scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		img := imageOf(t, raw(b), raw(b))
		var read int64
		err = Reader{Limits: limits}.Walk(t.Context(), img, func(e Entry, r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			if read += n; read > limits.Bytes {
				t.Fatalf("%d bytes were read", read)
			}
			for _, p := range []string{e.Path, e.Header.Linkname} {
				if e.Header.Typeflag != tar.TypeSymlink && (strings.HasPrefix(p, "/") || strings.HasPrefix(p, "..")) {
					t.Fatalf("the path %q leads out", p)
				}
			}
			return err
		})
		if err != nil && model.CodeOf(err) != model.Invalid {
			t.Fatalf("the error is %s: %v", model.CodeOf(err), err)
		}
		if _, err := s.image(img); err != nil && model.CodeOf(err) != model.Invalid {
			t.Fatalf("the error is %s: %v", model.CodeOf(err), err)
		}
	})
}
