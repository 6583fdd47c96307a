package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	v1tar "github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"kiln/internal/image"
	"kiln/internal/image/imagetest"
	"kiln/internal/model"
)

func TestMain(m *testing.M) { imagetest.Main(m) }

// TestStore runs its cases on one machine, each in an empty store.
func TestStore(t *testing.T) {
	m := imagetest.Start(t)
	s := m.Store(t)
	for name, test := range map[string]func(*testing.T, *image.Store){
		"formats":        testFormats,
		"rootfs":         testRootfs,
		"archives":       testArchives,
		"wrong":          testWrong,
		"cut off":        testCutOff,
		"hostile":        testHostile,
		"twisted":        testTwisted,
		"inside":         testInside,
		"cancelled":      testCancelled,
		"find":           testFind,
		"delete":         testDelete,
		"not whole":      func(t *testing.T, s *image.Store) { testNotWhole(t, m, s) },
		"names":          testNames,
		"inventory":      testInventory,
		"pull":           testPull,
		"bad registries": testBadRegistries,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, s)
			clear(t, s)
			if left := blobs(t, m); len(left) > 0 {
				t.Errorf("after everything was deleted there is %v", left)
			}
		})
	}
}

func clear(t *testing.T, s *image.Store) {
	t.Helper()
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		if err := s.Delete(t.Context(), img.Digest); err != nil {
			t.Error(err)
		}
	}
}

// blobs lists what the content store holds of the instance.
func blobs(t *testing.T, m *imagetest.Machine) []string {
	t.Helper()
	c, err := client.New(image.SocketPath(m.RunDir), client.WithDefaultNamespace(image.Namespace(m.Instance)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx := namespaces.WithNamespace(t.Context(), image.Namespace(m.Instance))
	var found []string
	err = c.ContentStore().Walk(ctx, func(i content.Info) error {
		found = append(found, i.Digest.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	under, err := c.ContentStore().ListStatuses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range under {
		found = append(found, "unfinished "+u.Ref)
	}
	return found
}

func quiet(image.Progress) {}

func bring(t *testing.T, s *image.Store, data []byte, name string) model.Image {
	t.Helper()
	img, err := s.Import(t.Context(), bytes.NewReader(data), name, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// tarOf returns a tar of the files, in the order of their names.
func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(files[n]))}
		if strings.HasSuffix(n, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[n]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func rootfs(t *testing.T) []byte {
	return tarOf(t, map[string]string{"./": "", "./etc/": "", "./etc/passwd": "root:x:0:0::/:/bin/sh\n", "./data": strings.Repeat("0123456789abcdef", 1<<14)})
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zstded(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// testFormats: the same content is the same image, however it is packed.
func testFormats(t *testing.T, s *image.Store) {
	plain := rootfs(t)
	want := bring(t, s, plain, "base/one:1")
	for format, data := range map[string][]byte{"plain": plain, "gzip": gzipped(plain), "zstd": zstded(t, plain)} {
		if got := bring(t, s, data, "base/"+format+":1"); got.Digest != want.Digest {
			t.Errorf("as %s it is %s, before %s", format, got.Digest, want.Digest)
		}
	}
}

func testRootfs(t *testing.T, s *image.Store) {
	img := bring(t, s, rootfs(t), "base/debian:12")
	if !slices.Equal(img.Names, []string{"docker.io/base/debian:12"}) || img.Source != "import" || img.Size < 500 {
		t.Errorf("the image is %+v", img)
	}
	d, err := s.Show(t.Context(), "base/debian:12")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Layers) != 1 || !strings.HasSuffix(d.Layers[0].MediaType, "+zstd") || !strings.HasPrefix(d.Platform, "linux/") {
		t.Errorf("it shows as %+v", d)
	}
	if d.Size != img.Size || !strings.HasPrefix(strings.Join(d.Runtime.Env, " "), "PATH=") {
		t.Errorf("it shows as %+v", d)
	}
}

// sample is an image of two layers as other tools make them.
func sample(t *testing.T) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image,
		static.NewLayer(tarOf(t, map[string]string{"a": "one"}), types.DockerUncompressedLayer),
		static.NewLayer(tarOf(t, map[string]string{"b": "two"}), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", imagetest.Architecture
	c.Config.User, c.Config.Cmd, c.Config.Entrypoint = "65534:65534", []string{"serve"}, []string{"/app"}
	c.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}, "443/tcp": {}}
	c.Config.StopSignal, c.Config.WorkingDir = "SIGQUIT", "/srv"
	img, err = mutate.ConfigFile(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// ociTar is a tar of an OCI layout that holds the images.
func ociTar(t *testing.T, imgs ...v1.Image) map[string]string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range imgs {
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
	}
	return imagetest.ReadTree(t, dir)
}

func dockerTar(t *testing.T, refs map[string]v1.Image) []byte {
	t.Helper()
	tags := map[name.Tag]v1.Image{}
	for r, img := range refs {
		tag, err := name.NewTag(r)
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = img
	}
	var b bytes.Buffer
	if err := v1tar.MultiWrite(tags, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func testArchives(t *testing.T, s *image.Store) {
	img := sample(t)
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	oci := bring(t, s, tarOf(t, ociTar(t, img)), "vendor/app:1")
	if string(oci.Digest) != want.String() {
		t.Errorf("the layout's image is %s, want %s", oci.Digest, want)
	}
	packed := bring(t, s, gzipped(tarOf(t, ociTar(t, img))), "vendor/app:2")
	if packed.Digest != oci.Digest || !slices.Equal(packed.Names, []string{"docker.io/vendor/app:1", "docker.io/vendor/app:2"}) {
		t.Errorf("compressed it is %+v", packed)
	}
	docker := bring(t, s, dockerTar(t, map[string]v1.Image{"vendor/saved:3": img}), "")
	if !slices.Contains(docker.Names, "docker.io/vendor/saved:3") {
		t.Errorf("its own name was not kept: %+v", docker)
	}
	for _, ref := range []string{"vendor/app:1", "vendor/saved:3"} {
		d, err := s.Show(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		r := d.Runtime
		if r.User != "65534:65534" || r.Command[0] != "serve" || r.Entrypoint[0] != "/app" || r.StopSignal != "SIGQUIT" ||
			r.WorkingDir != "/srv" || !slices.Equal(r.Ports, []string{"443/tcp", "8080/tcp"}) || len(d.Layers) != 2 {
			t.Errorf("%s shows as %+v", ref, d)
		}
	}
	other, err := mutate.Config(img, v1.Config{User: "other"})
	if err != nil {
		t.Fatal(err)
	}
	two := dockerTar(t, map[string]v1.Image{"vendor/saved:3": img, "vendor/other:1": other})
	_, err = s.Import(t.Context(), bytes.NewReader(two), "", quiet)
	wantError(t, err, model.Invalid, "holds 2", "vendor/other:1")
	if got := bring(t, s, two, "vendor/saved:3"); got.Digest != docker.Digest {
		t.Errorf("by its name it is %s, want %s", got.Digest, docker.Digest)
	}
}

// testWrong: what is not an image is refused in words and leaves nothing.
func testWrong(t *testing.T, s *image.Store) {
	foreign, err := mutate.ConfigFile(sample(t), &v1.ConfigFile{OS: "linux", Architecture: "s390x", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	noLayer := ociTar(t, sample(t))
	for n, text := range noLayer {
		if strings.Contains(text, "ustar") {
			delete(noLayer, n)
			break
		}
	}
	changed := ociTar(t, sample(t))
	for n, text := range changed {
		if strings.Contains(text, "ustar") {
			changed[n] = strings.Replace(text, "one", "0ne", 1)
			if changed[n] == text {
				changed[n] = strings.Replace(text, "two", "tw0", 1)
			}
			break
		}
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":        {nil, "cut off after 0 bytes"},
		"text":           {[]byte(strings.Repeat("this is not an archive\n", 100)), "not a tar archive"},
		"short text":     {[]byte("hello"), "cut off"},
		"empty tar":      {make([]byte, 10240), "empty"},
		"xz":             {[]byte("\xfd7zXZ\x00...."), "xz"},
		"bad gzip":       {append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}, "garbage garbage"...), "cannot import"},
		"bad zstd":       {append([]byte{0x28, 0xb5, 0x2f, 0xfd}, "garbage garbage"...), "cannot import"},
		"no index":       {tarOf(t, map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}), "index.json"},
		"other platform": {tarOf(t, ociTar(t, foreign)), "s390x"},
		"absent layer":   {tarOf(t, noLayer), "missing"},
		"changed layer":  {tarOf(t, changed), "does not match"},
	} {
		_, err := s.Import(t.Context(), bytes.NewReader(c.data), "base/wrong:1", quiet)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s: %v, want %q", name, model.CodeOf(err), err, c.want)
		}
	}
	nothingIsLeft(t, s)
}

// testCutOff: an archive that ends too early is found, wherever it ends.
func testCutOff(t *testing.T, s *image.Store) {
	plain := rootfs(t)
	for name, whole := range map[string][]byte{
		"rootfs": plain, "gzip": gzipped(plain), "zstd": zstded(t, plain), "layout": tarOf(t, ociTar(t, sample(t))),
	} {
		for _, at := range []int{1, 511, 512, 600, 1024, 1536, len(whole) / 2, len(whole) - 1024, len(whole) - 5} {
			if at <= 0 || at >= len(whole) || name == "layout" && at >= len(whole)-1024 {
				continue
			}
			_, err := s.Import(t.Context(), bytes.NewReader(whole[:at]), "base/cut:1", quiet)
			if err == nil || model.CodeOf(err) != model.Invalid {
				t.Errorf("%s, cut off at %d of %d: %v", name, at, len(whole), err)
			}
		}
	}
	// A small one, at the end of each of its blocks, and around it.
	small := tarOf(t, map[string]string{"./": "", "./a": "x", "./b": strings.Repeat("y", 600)})
	for name, whole := range map[string][]byte{
		"rootfs": small, "gzip": gzipped(small), "zstd": zstded(t, small), "docker archive": dockerTar(t, map[string]v1.Image{"a/b:1": sample(t)}),
	} {
		end, step := len(whole), 512
		switch name {
		case "gzip", "zstd":
			step = max(1, end/16)
		case "docker archive":
			end = bytes.LastIndex(whole, []byte("ustar")) // behind the last file nothing is missing
		}
		for block := step; block <= end; block += step {
			for _, at := range []int{block - 1, block, block + 1} {
				if at >= end {
					break
				}
				if _, err := s.Import(t.Context(), bytes.NewReader(whole[:at]), "base/cut:1", quiet); model.CodeOf(err) != model.Invalid {
					t.Errorf("%s, cut off at %d of %d: %v", name, at, len(whole), err)
				}
			}
		}
	}
	_, err := s.Import(t.Context(), io.MultiReader(bytes.NewReader(plain[:2000]), failing{}), "base/cut:1", quiet)
	wantError(t, err, model.Unavailable, "the cable is out")
	nothingIsLeft(t, s)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the cable is out") }

func testCancelled(t *testing.T, s *image.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	plain := rootfs(t)
	r := io.MultiReader(bytes.NewReader(plain[:2000]), cancelling{cancel}, bytes.NewReader(plain[2000:]))
	if _, err := s.Import(ctx, r, "base/cut:1", quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	nothingIsLeft(t, s)
}

type cancelling struct{ cancel func() }

func (c cancelling) Read([]byte) (int, error) { c.cancel(); return 0, io.EOF }

func nothingIsLeft(t *testing.T, s *image.Store) {
	t.Helper()
	if all, err := s.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("left are %v, %v", all, err)
	}
}

func testFind(t *testing.T, s *image.Store) {
	img := bring(t, s, rootfs(t), "base/debian:12")
	hex := strings.TrimPrefix(string(img.Digest), "sha256:")
	for _, what := range []string{string(img.Digest), hex, hex[:4], "sha256:" + hex[:12], "base/debian:12", "docker.io/base/debian:12"} {
		if d, err := s.Show(t.Context(), what); err != nil || d.Digest != img.Digest {
			t.Errorf("%s finds %s, %v", what, d.Digest, err)
		}
	}
	for _, what := range []string{"base/none", "sha256:" + strings.Repeat("0", 64), "sha256:" + flip(hex[:8]), flip(hex[:1]) + hex[1:]} {
		_, err := s.Show(t.Context(), what)
		wantError(t, err, model.NotFound, what)
	}
	_, err := s.Show(t.Context(), "UPPER CASE")
	wantError(t, err, model.Invalid, "UPPER CASE")
}

func flip(hex string) string {
	if hex[0] == '0' {
		return "1" + hex[1:]
	}
	return "0" + hex[1:]
}

func testDelete(t *testing.T, s *image.Store) {
	img := bring(t, s, rootfs(t), "base/debian:12")
	if err := s.Delete(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Delete(t.Context(), img.Digest), model.NotFound, string(img.Digest))
	_, err := s.Show(t.Context(), "base/debian:12")
	wantError(t, err, model.NotFound, "base/debian:12")
	if again := bring(t, s, rootfs(t), "base/debian:12"); again.Digest != img.Digest {
		t.Errorf("imported again it is %s, before %s", again.Digest, img.Digest)
	}
}

// testNames: a name moves to the image that got it last; the other one stays.
// testInventory measures what each image has alone, and removes it.
func testInventory(t *testing.T, s *image.Store) {
	a := bring(t, s, rootfs(t), "a:1")
	b := bring(t, s, tarOf(t, map[string]string{"etc/other": strings.Repeat("x", 5000)}), "b:1")
	inventory := image.Inventory{Store: s}
	list := func() map[string]model.Object {
		objects, err := inventory.Objects(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]model.Object{}
		for _, o := range objects {
			found[o.ID] = o
		}
		return found
	}
	there := list()
	if len(there) != 2 || there[string(a.Digest)].Name != "a:1" || there[string(a.Digest)].Bytes <= a.Size {
		t.Errorf("there is %+v; image a has %d bytes, and what it is unpacked", there, a.Size)
	}
	for range 2 { // the second time it is gone already
		if err := inventory.Remove(t.Context(), there[string(a.Digest)]); err != nil {
			t.Fatal(err)
		}
	}
	if left := list(); len(left) != 1 || left[string(b.Digest)].ID == "" {
		t.Errorf("after a was removed there is %+v", left)
	}
	strays, err := image.Strays{Store: s}.Objects(t.Context())
	if err != nil || len(strays) != 0 {
		t.Errorf("snapshots that belong to nothing: %+v, %v", strays, err)
	}
}

func testNames(t *testing.T, s *image.Store) {
	first := bring(t, s, rootfs(t), "base/debian:12")
	second := bring(t, s, tarOf(t, map[string]string{"x": "x"}), "base/debian:12")
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2 || all[0].Digest != second.Digest {
		t.Fatalf("the list is %v, %v", all, err)
	}
	if len(all[1].Names) != 0 || all[1].Digest != first.Digest {
		t.Errorf("the first is %+v", all[1])
	}
	if err := s.Unname(t.Context(), "base/debian:12"); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Unname(t.Context(), "base/debian:12"), model.NotFound, "debian:12")
	if d, err := s.Show(t.Context(), string(second.Digest)); err != nil || len(d.Names) != 0 {
		t.Errorf("without its name it is %+v, %v", d, err)
	}
}

func testPull(t *testing.T, s *image.Store) {
	srv := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	img := sample(t)
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: imagetest.Architecture}}})
	push(t, host+"/x/one:1", func(r name.Reference) error { return remote.Write(r, img) })
	push(t, host+"/x/many:1", func(r name.Reference) error { return remote.WriteIndex(r, index) })
	for _, ref := range []string{host + "/x/one:1", host + "/x/one@" + want.String(), host + "/x/many:1"} {
		got, err := s.Pull(t.Context(), ref, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Digest) != want.String() || !slices.Contains(got.Names, ref) {
			t.Errorf("%s gave %+v, want %s", ref, got, want)
		}
	}
	_, err = s.Pull(t.Context(), host+"/x/one:2", quiet)
	wantError(t, err, model.NotFound, "no such image")
	_, err = s.Pull(t.Context(), host+"/x/one@sha256:"+strings.Repeat("0", 64), quiet)
	wantError(t, err, model.NotFound, "no such image")
	srv.Close()
	_, err = s.Pull(t.Context(), host+"/x/one:1", quiet)
	wantError(t, err, model.Unavailable, host)
	_, err = s.Pull(t.Context(), "not a reference", quiet)
	wantError(t, err, model.Invalid, "not a reference")
	lying(t, s, img)
}

// lying: a registry that gives other bytes than it was asked for.
func lying(t *testing.T, s *image.Store, img v1.Image) {
	clear(t, s)
	good := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	victim, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, victim.String()) {
			good.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		b[len(b)/2] ^= 1
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	push(t, host+"/x/one:1", func(r name.Reference) error { return remote.Write(r, img) })
	_, err = s.Pull(t.Context(), host+"/x/one:1", quiet)
	wantError(t, err, model.Invalid, "does not match its digest")
	nothingIsLeft(t, s)
}

func push(t *testing.T, ref string, write func(name.Reference) error) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(r); err != nil {
		t.Fatal(err)
	}
}

func TestOpenWithoutContainerd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := image.Open(ctx, image.Config{Instance: "aaaaaa", RunDir: t.TempDir()})
	wantError(t, err, model.Unavailable, "containerd")
}

func wantError(t *testing.T, err error, code model.Code, parts ...string) {
	t.Helper()
	if model.CodeOf(err) != code {
		t.Errorf("the code of %v is %q, want %q", err, model.CodeOf(err), code)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not contain %q: %v", p, err)
		}
	}
}
