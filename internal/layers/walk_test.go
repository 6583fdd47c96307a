package layers_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kiln/internal/layers"
	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// small are limits that a test can reach.
var small = layers.Limits{Layers: 3, Entries: 10, Bytes: 8 << 20, RatioFrom: 1 << 20, Ratio: 100, Window: 8 << 20}

// walk walks an image's layers.
func walk(ctx context.Context, w layers.Walker, img v1.Image, visit func(*layers.Entry) error) error {
	all, err := layers.Of(ctx, img)
	if err != nil {
		return err
	}
	for _, l := range all {
		if _, err := w.Walk(ctx, l, visit); err != nil {
			return err
		}
	}
	return nil
}

// walked returns what a walk visits, a line for each entry.
func walked(t testing.TB, w layers.Walker, img v1.Image) ([]string, error) {
	t.Helper()
	var lines []string
	err := walk(t.Context(), w, img, func(e *layers.Entry) error {
		body, err := io.ReadAll(e.Content)
		if len(body) > 100 {
			body = fmt.Appendf(nil, "%d bytes", len(body))
		}
		lines = append(lines, fmt.Sprintf("%d %s %s %s", e.Layer.Index, e.Path, e.Whiteout, body))
		return err
	})
	return lines, err
}

func file(name, text string) layertest.File { return layertest.File{Name: name, Text: text} }

func link(name, to string) layertest.File {
	return layertest.File{Name: name, Kind: tar.TypeLink, Link: to}
}

func TestWalk(t *testing.T) {
	first := layertest.Archive(t, layertest.Dir("./"), layertest.Dir("/etc/"), file("./etc/motd", "hello"), file("//usr/./bin/x", "1"), link("h", "/etc//motd"))
	second := layertest.Archive(t, file("etc/.wh.motd", ""), file("usr/.wh..wh..opq", ""), file(".wh..wh.plnk/1.2", ""), file(".wh..wh..opq", ""), file("a/..b", "1"))
	third := layertest.Archive(t, layertest.File{Name: "a", Kind: tar.TypeSymlink, Link: "/../../etc"}, file("a", "twice"), file("new\nline\x1b[2J", ""), file("caf\xe9", ""))
	want := []string{
		"0 .  ", "0 etc  ", "0 etc/motd  hello", "0 usr/bin/x  1", "0 h  ",
		"1 etc/motd path ", "1 usr opaque ", "1 .wh..wh.plnk/1.2  ", "1 . opaque ", "1 a/..b  1",
		"2 a  ", "2 a  twice", "2 new\nline\x1b[2J  ", "2 caf\xe9  ",
	}
	for name, pack := range map[string]func([]byte) []byte{
		"plain":            func(b []byte) []byte { return b },
		"gzip":             func(b []byte) []byte { return layertest.Gzip(t, b) },
		"zstd":             func(b []byte) []byte { return layertest.Zstd(t, b) },
		"two gzip members": func(b []byte) []byte { return append(layertest.Gzip(t, b[:1000]), layertest.Gzip(t, b[1000:])...) },
		"without its end":  func(b []byte) []byte { return b[:len(b)-1024] },
		"with more behind": func(b []byte) []byte { return append(slices.Clip(b), make([]byte, 100_000)...) },
		"with a skippable frame": func(b []byte) []byte {
			return append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9}, layertest.Zstd(t, b)...)
		},
	} {
		got, err := walked(t, layers.NewWalker(layers.Limits{}), layertest.ImageOf(t, pack(first), pack(second), pack(third)))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: the walk visits %q, want %q (%v)", name, got, want, err)
		}
	}
	if got, err := walked(t, layers.NewWalker(layers.Limits{}), layertest.ImageOf(t, nil)); err != nil || len(got) > 0 {
		t.Errorf("an empty layer has %q (%v)", got, err)
	}
	if got, err := walked(t, layers.NewWalker(small), layertest.ImageOf(t, layertest.Sparse(t, 1<<19))); err != nil || fmt.Sprint(got) != "[0 sparse  524288 bytes]" {
		t.Errorf("a sparse file: %q (%v)", got, err)
	}
}

// TestWalkRefuses: each error says which layer and which entry.
func TestWalkRefuses(t *testing.T) {
	archive := func(files ...layertest.File) []byte { return layertest.Archive(t, files...) }
	device := func(major, minor int64) layertest.File {
		return layertest.File{Name: "d", Kind: tar.TypeBlock, Major: major, Minor: minor}
	}
	attribute := func(name string) layertest.File {
		return layertest.File{Name: "a", Records: map[string]string{"SCHILY.xattr." + name: "/etc"}}
	}
	good := archive(file("first", "x"))
	zeros := strings.Repeat("\x00", 4<<20)
	var many []layertest.File
	for i := range 11 {
		many = append(many, file(fmt.Sprint("f", i), ""))
	}
	huge := archive(file("huge", "x"))
	copy(huge[124:136], "77777777777\x00")
	layertest.Sum(huge)
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"climbs":                              {archive(file("a/../../etc/passwd", "")), `entry "a/../../etc/passwd": its name leads out of the image`},
		"climbs within":                       {archive(file("a/../b", "")), `entry "a/../b": its name leads out of the image`},
		"climbs behind a slash":               {archive(file("/../x", "")), `entry "/../x": its name leads out of the image`},
		"climbs to hide":                      {archive(file("../.wh.x", "")), `entry "../.wh.x": its name leads out of the image`},
		"links outside":                       {archive(link("a", "../../etc/shadow")), `entry "a": it is a link to "../../etc/shadow", which leads out of the image`},
		"links to nothing":                    {archive(link("a", "")), `entry "a": it is a link to nothing`},
		"hides nothing":                       {archive(file("a/.wh.", "")), `entry "a/.wh.": it is a whiteout of nothing`},
		"hides itself":                        {archive(file("a/.wh..", "")), `entry "a/.wh..": it is a whiteout of nothing`},
		"hides its parent":                    {archive(file("a/.wh...", "")), `entry "a/.wh...": it is a whiteout of nothing`},
		"has no name":                         {noName(t), `entry "": it has no name`},
		"has a long part of a name":           {archive(file(strings.Repeat("n", 256), "")), `has 256 bytes, and Linux takes 255`},
		"has a long name":                     {archive(layertest.Dir(strings.Repeat("abcdefg/", 513))), `its name has 4104 bytes, and Linux takes 4096`},
		"links with a long name":              {archive(layertest.File{Name: "l", Kind: tar.TypeSymlink, Link: strings.Repeat("abcdefg/", 513)}), `entry "l": the path that it links to has 4104 bytes`},
		"has a file for its root":             {archive(layertest.File{Name: "./", Kind: tar.TypeSymlink, Link: "x"}), `the root of an image is a directory`},
		"has what no image has":               {archive(layertest.File{Name: "x", Kind: 'Q'}), `entry "x": it is of a kind ('Q') that no image has`},
		"is sparse as GNU tar likes it":       {layertest.OldSparse(t, 1<<10), `entry "sparse": it is sparse in a way`},
		"is contiguous":                       {archive(layertest.File{Name: "x", Kind: tar.TypeCont}), `it is of a kind ('7')`},
		"belongs to nobody that can be":       {archive(layertest.File{Name: "x", UID: 1 << 32}), `entry "x": it belongs to user 4294967296 and group 0`},
		"belongs to -1":                       {archive(layertest.File{Name: "x", GID: -1}), `entry "x": it belongs to user 0 and group -1`},
		"belongs to what means no change":     {archive(layertest.File{Name: "x", UID: 1<<32 - 1}), `entry "x": it belongs to user 4294967295`},
		"has a device beyond Linux's":         {archive(device(1<<12, 0)), `entry "d": it is a device with the numbers 4096:0`},
		"has a device below Linux's":          {archive(device(8, -1)), `entry "d": it is a device with the numbers 8:-1`},
		"changes what is seen of others":      {archive(attribute("trusted.overlay.redirect")), `entry "a": it has the attribute "trusted.overlay.redirect"`},
		"does so for users":                   {archive(attribute("user.overlay.metacopy")), `entry "a": it has the attribute "user.overlay.metacopy"`},
		"has many entries":                    {archive(many...), `entry "f10": the image has more than 10 entries`},
		"says it is huge":                     {huge, `entry "huge": it says that it has 8589934591 bytes`},
		"is sparse, and says it is huge":      {layertest.OldSparse(t, 1<<40), `entry "sparse": it says that it has 1099511627776 bytes`},
		"is sparse beyond measure":            {layertest.Gzip(t, layertest.Sparse(t, 6<<20)), `entry "sparse": `},
		"is a gzip bomb":                      {layertest.Gzip(t, archive(file("bomb", zeros))), `entry "bomb": `},
		"is a zstd bomb":                      {layertest.Zstd(t, archive(file("bomb", zeros))), "the layer is made to exhaust who unpacks it"},
		"hides a bomb behind its end":         {layertest.Gzip(t, append(bytes.Clone(good), zeros...)), "the layer is made to exhaust who unpacks it"},
		"is too large":                        {archive(file("a", zeros), file("b", zeros), file("c", zeros)), `entry "b": the image unpacks to more than 8388608 bytes`},
		"has too much behind its end":         {append(bytes.Clone(good), strings.Repeat("\x00", 9<<20)...), "the image unpacks to more than 8388608 bytes"},
		"is cut off, compressed":              {layertest.Gzip(t, good)[:40], "unexpected EOF"},
		"is cut off, compressed with zstd":    {layertest.Zstd(t, good)[:20], "unexpected EOF"},
		"is cut off in a file":                {archive(file("a", zeros))[:5000], "unexpected EOF"},
		"is damaged":                          {append(layertest.Gzip(t, good)[:20], make([]byte, 30)...), "cannot read layer 1"},
		"has a bad checksum":                  {layertest.Flip(layertest.Gzip(t, good), -6), "checksum"},
		"is no archive":                       {[]byte(strings.Repeat("no archive", 100)), "invalid tar header"},
		"has a window that takes much memory": {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00}, "window size exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := walked(t, layers.NewWalker(small), layertest.ImageOf(t, c.content))
			layertest.Says(t, err, c.want, "cannot read layer 1 (")
			if model.CodeOf(err) != model.Invalid {
				t.Errorf("the error is %s, want invalid", model.CodeOf(err))
			}
		})
	}
}

// noName is an archive with an entry that has none.
func noName(t testing.TB) []byte {
	b := layertest.Archive(t, file("x", ""))
	b[0] = 0
	layertest.Sum(b)
	return b
}

func TestRelative(t *testing.T) {
	w := layers.NewWalker(small)
	w.Relative = true
	_, err := walked(t, w, layertest.ImageOf(t, layertest.Archive(t, file("/etc/passwd", ""))))
	layertest.Says(t, err, `entry "/etc/passwd": its name leads out of the image`)
	_, err = walked(t, w, layertest.ImageOf(t, layertest.Archive(t, link("a", "/etc/shadow"))))
	layertest.Says(t, err, `entry "a": it is a link to "/etc/shadow", which leads out of the image`)
}

// TestWalkCounts: the bounds are those of the image, not of each layer.
func TestWalkCounts(t *testing.T) {
	one := layertest.Archive(t, file("a", "x"))
	_, err := walked(t, layers.NewWalker(small), layertest.ImageOf(t, one, one, one, one))
	layertest.Says(t, err, "cannot read layer 4", "more than 3 layers")
	half := layertest.Archive(t, file("a", strings.Repeat("x", 5<<20)))
	_, err = walked(t, layers.NewWalker(small), layertest.ImageOf(t, half, half))
	layertest.Says(t, err, `cannot read layer 2`, `entry "a": it says`)
	few := layertest.Archive(t, file("a", ""), file("b", ""), file("c", ""), file("d", ""))
	_, err = walked(t, layers.NewWalker(small), layertest.ImageOf(t, few, few, few))
	layertest.Says(t, err, `cannot read layer 3`, `entry "c": the image has more than 10 entries`)
}

// TestManyEntries walks a million of them, and stops after more.
func TestManyEntries(t *testing.T) {
	const all = 1_000_000
	each := all / 127
	files := make([]layertest.File, each)
	for i := range files {
		files[i] = file(fmt.Sprintf("d/f%d", i), "")
	}
	one := layertest.Layer(t, layertest.Zstd(t, layertest.Archive(t, files...)))
	img := layertest.Image(t, slices.Repeat([]v1.Layer{one}, 127)...) // as many layers as Docker makes
	walker := func(entries int) layers.Walker {
		w := layers.NewWalker(layers.Limits{Entries: entries})
		w.Unpacked = true
		return w
	}
	n := 0
	count := func(*layers.Entry) error { n++; return nil }
	if err := walk(t.Context(), walker(0), img, count); err != nil || n != 127*each {
		t.Errorf("%d entries (%v), want %d", n, err, 127*each)
	}
	n = 0
	err := walk(t.Context(), walker(all/2), img, count)
	layertest.Says(t, err, "the image has more than 500000 entries", "cannot read layer 64")
	if n != all/2 {
		t.Errorf("%d entries were visited, want the bound's", n)
	}
}

// lying is a layer whose bytes are others than its digest says.
type lying struct {
	v1.Layer
	open func() (io.ReadCloser, error)
}

func (l lying) Compressed() (io.ReadCloser, error) { return l.open() }

func TestWalkComparesDigests(t *testing.T) {
	good := layertest.Gzip(t, layertest.Archive(t, file("first", strings.Repeat("1", 1000))))
	other := layertest.Gzip(t, layertest.Archive(t, file("other", strings.Repeat("1", 1000))))
	reads := func(b []byte, err error) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(b), failing{err})), nil
		}
	}
	disk := &fs.PathError{Op: "read", Path: "/x", Err: errors.New("input/output error")}
	for name, c := range map[string]struct {
		open func() (io.ReadCloser, error)
		code model.Code
		word string
	}{
		"other bytes":         {reads(append(other, good...)[:len(good)], nil), model.Invalid, "damaged"},
		"changed":             {reads(layertest.Flip(good, 20), nil), model.Invalid, "damaged"},
		"changed, and judged": {reads(layertest.Flip(good, 20), errors.New("error verifying sha256 checksum")), model.Invalid, "damaged"},
		"header":              {reads(layertest.Flip(good, 0), nil), model.Invalid, "damaged"},
		"short":               {reads(good[:30], nil), model.Invalid, "cut off"},
		"empty":               {reads(nil, nil), model.Invalid, "cut off"},
		"long":                {reads(append(slices.Clone(good), 0), nil), model.Invalid, "more than the"},
		"breaks off":          {reads(good[:30], errors.New("connection reset")), model.Unavailable, "connection reset"},
		"after nothing":       {reads(nil, errors.New("connection reset")), model.Unavailable, "connection reset"},
		"bad disk":            {reads(good[:30], disk), model.Unavailable, "input/output error"},
		"gone":                {func() (io.ReadCloser, error) { return nil, errors.New("connection refused") }, model.Unavailable, "connection refused"},
		"denied":              {func() (io.ReadCloser, error) { return nil, model.Errorf(model.Denied, "not for you") }, model.Denied, "not for you"},
	} {
		t.Run(name, func(t *testing.T) {
			img := layertest.Image(t, layertest.Files(t, layertest.Dir("a")), lying{layertest.Layer(t, good), c.open})
			_, err := walked(t, layers.NewWalker(layers.Limits{}), img)
			layertest.Says(t, err, c.word, "layer 2 (")
			if model.CodeOf(err) != c.code {
				t.Errorf("the error is %s, want %s: %v", model.CodeOf(err), c.code, err)
			}
			if _, damaged := layers.Damaged(err); damaged != (c.code == model.Invalid) {
				t.Errorf("damaged: %v", damaged)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// TestContradictions: what manifest and configuration say is compared.
func TestContradictions(t *testing.T) {
	img := layertest.Image(t, layertest.Files(t, file("a", "")), layertest.Files(t, file("b", "")))
	diffIDs := func(change func([]v1.Hash) []v1.Hash) v1.Image {
		return layertest.Configured(t, img, func(c *v1.ConfigFile) { c.RootFS.DiffIDs = change(c.RootFS.DiffIDs) })
	}
	digest, err := layertest.Files(t, file("b", "")).Digest()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		img   v1.Image
		want  string
		later bool // found where it is unpacked
	}{
		"none":         {diffIDs(func([]v1.Hash) []v1.Hash { return nil }), "it has 2 layers, and its configuration speaks of 0", false},
		"more":         {diffIDs(func(d []v1.Hash) []v1.Hash { return append(d, d...) }), "it has 2 layers, and its configuration speaks of 4", false},
		"exchanged":    {diffIDs(func(d []v1.Hash) []v1.Hash { return []v1.Hash{d[1], d[0]} }), "layer 1 (", true},
		"no sum":       {diffIDs(func(d []v1.Hash) []v1.Hash { return []v1.Hash{d[0], {Algorithm: "md5", Hex: "00"}} }), "layer 2: its digest", false},
		"of the bytes": {diffIDs(func(d []v1.Hash) []v1.Hash { return []v1.Hash{d[0], digest} }), "it unpacks to other bytes than the image's configuration says", true},
	} {
		w := layers.NewWalker(layers.Limits{})
		_, err := walked(t, w, c.img)
		layertest.Says(t, err, c.want)
		w.Unpacked = true
		if _, err := walked(t, w, c.img); (err == nil) != c.later {
			t.Errorf("%s, of an image that was unpacked: %v", name, err)
		}
		if model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: the error is %s: %v", name, model.CodeOf(err), err)
		}
	}
}

// TestKinds: a layer says what it is.
func TestKinds(t *testing.T) {
	of := func(media string) error {
		img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layertest.Files(t, file("a", "")), MediaType: types.MediaType(media)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = walked(t, layers.NewWalker(layers.Limits{}), img)
		return err
	}
	for _, media := range []string{
		string(types.OCILayer), string(types.OCIUncompressedLayer), string(types.OCILayerZStd), string(types.DockerLayer), string(types.DockerUncompressedLayer),
		string(types.OCIRestrictedLayer), string(types.DockerForeignLayer), "application/vnd.docker.image.rootfs.diff.tar.zstd",
	} {
		if err := of(media); err != nil {
			t.Errorf("%s: %v", media, err)
		}
	}
	for media, want := range map[string]string{
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":  "it is encrypted",
		"application/vnd.cncf.helm.chart.content.v1.tar+gzip":    "no layer of files",
		"application/vnd.oci.image.layer.v1.tar+rot13":           "no layer of files",
		"application/vnd.oci.image.layer.v1.tarred":              "no layer of files",
		"application/vnd.oci.empty.v1+json":                      "no layer of files",
		"application/vnd.in-toto+json":                           "no layer of files",
		"application/vnd.docker.image.rootfs.diff.tar.gzip.gzip": "no layer of files",
	} {
		err := of(media)
		layertest.Says(t, err, want, "cannot read layer 1 (")
		if model.CodeOf(err) != model.Invalid || model.HintOf(err) == "" {
			t.Errorf("%s: %s, %q", media, model.CodeOf(err), model.HintOf(err))
		}
	}
}

func TestWalkEnds(t *testing.T) {
	img := layertest.Image(t, layertest.Files(t, layertest.Dir("a"), layertest.Dir("b")))
	own := errors.New("enough")
	if err := walk(t.Context(), layers.NewWalker(small), img, func(*layers.Entry) error { return own }); err != own {
		t.Errorf("the walk ends with %v, want the visitor's own error", err)
	}
	err := walk(t.Context(), layers.NewWalker(small), img, func(*layers.Entry) error { return layers.Broken("it cannot be") })
	layertest.Says(t, err, `cannot read layer 1 (`, `entry "a": it cannot be`)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("the client has gone: %w", context.Canceled))
	err = walk(ctx, layers.NewWalker(small), img, func(*layers.Entry) error { return nil })
	layertest.Says(t, err, "the client has gone")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

// TestCutAnywhere cuts an archive off at each of its bytes: the walk finds it,
// wherever that is, by the digest if by nothing else.
func TestCutAnywhere(t *testing.T) {
	whole := layertest.Archive(t, layertest.Dir("a"), file("a/b", strings.Repeat("x", 700)), link("a/c", "a/b"))
	for name, packed := range map[string][]byte{"plain": whole, "gzip": layertest.Gzip(t, whole), "zstd": layertest.Zstd(t, whole)} {
		l := layertest.Layer(t, packed)
		for at := range packed {
			short := lying{l, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed[:at])), nil }}
			_, err := walked(t, layers.NewWalker(small), layertest.Image(t, short))
			if model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "cut off") {
				t.Fatalf("%s, cut off at %d of %d: %v", name, at, len(packed), err)
			}
		}
	}
}

// FuzzWalk wants that whatever a layer's bytes are, the walk ends, within its bounds,
// without a panic, and that no path leads out.
func FuzzWalk(f *testing.F) {
	plain := layertest.Archive(f, layertest.Dir("./"), file("etc/motd", "hello"), file("etc/.wh.x", ""), link("l", "etc/motd"),
		layertest.File{Name: "s", Kind: tar.TypeSymlink, Link: "/etc"}, layertest.File{Name: "s/deep/er", Text: "x", Records: map[string]string{"SCHILY.xattr.user.a": "b"}})
	for _, b := range [][]byte{
		plain, layertest.Gzip(f, plain), layertest.Zstd(f, plain), layertest.OldSparse(f, 1<<33), layertest.Sparse(f, 1<<12),
		layertest.Archive(f, file("../x", ""), file("a/.wh..wh..opq", "")), layertest.Archive(f, file("/a", ""), link("b", "/a")),
	} {
		f.Add(b)
	}
	limits := layers.Limits{Entries: 1000, Bytes: 1 << 20, Ratio: 100, RatioFrom: 1 << 16, Window: 8 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		var read int64
		err := walk(t.Context(), layers.NewWalker(limits), layertest.ImageOf(t, b, b), func(e *layers.Entry) error {
			n, err := io.Copy(io.Discard, e.Content)
			if read += n; read > limits.Bytes {
				t.Fatalf("%d bytes were read", read)
			}
			inside := []string{e.Path}
			if e.Typeflag == tar.TypeLink {
				inside = append(inside, e.Linkname)
			}
			for _, p := range inside {
				if !fs.ValidPath(strings.ToValidUTF8(p, "?")) {
					t.Fatalf("the path %q leads out", p)
				}
			}
			return err
		})
		if err != nil && model.CodeOf(err) != model.Invalid {
			t.Fatalf("the error is %s: %v", model.CodeOf(err), err)
		}
	})
}
