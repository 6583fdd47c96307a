package registry

import (
	"encoding/json"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// TestMain: there is one place in a process where distribution says what it does, and
// it is not a test's that has ended.
func TestMain(m *testing.M) {
	logTo(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// FuzzPaths wants that whatever is asked for, and however, is answered; that what
// nobody can have asked for is the client's fault; and that nothing is read or
// written outside of the registry's directory.
func FuzzPaths(f *testing.F) {
	manifest := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"application/json","digest":"` + string(digest.FromString("{}")) + `","size":2},"layers":[],"subject":{"digest":"` + string(digest.FromString("x")) + `","size":1}}`
	for _, seed := range [][3]string{
		{"GET", "/v2/", ""},
		{"GET", "/v2/_catalog?n=2&last=a", ""},
		{"GET", "/v2/shop/tags/list?n=-1", ""},
		{"GET", "/v2/own/manifests/1", ""},
		{"HEAD", "/v2/own/blobs/" + string(digest.FromString("own")), ""},
		{"GET", "/v2/shop/manifests/../../../../etc/passwd", ""},
		{"GET", "/v2/%2e%2e/%2e%2e/blobs/sha256:" + strings.Repeat("0", 64), ""},
		{"GET", "/v2/a/../../b/referrers/sha256:" + strings.Repeat("a", 64) + "?artifactType=x/y", ""},
		{"GET", "/v2/shop/referrers/sha512:" + strings.Repeat("a", 128), ""},
		{"PUT", "/v2/shop/manifests/latest", manifest},
		{"PUT", "/v2/own/manifests/1", manifest},
		{"PUT", "/v2/own/manifests/new", `{"layers":[{"digest":"../../x"}]}`},
		{"PUT", "/v2/../manifests/..", manifest},
		{"POST", "/v2/shop/blobs/uploads/?mount=sha256:x&from=../own", ""},
		{"POST", "/v2/shop/blobs/uploads/?digest=" + string(digest.FromString("{}")), "{}"},
		{"PATCH", "/v2/shop/blobs/uploads/../../x?_state=y", "z"},
		{"PUT", "/v2/shop/blobs/uploads/id?_state=AAAA&digest=sha256:1", "x"},
		{"DELETE", "/v2/../../blobs/uploads/..", ""},
		{"DELETE", "/v2/own/manifests/" + string(digest.FromString("own")), ""},
		{"DELETE", "/v2/shop/blobs/sha256:../../..", ""},
		{"GET", "/v2/shop/blobs/sha256:" + strings.Repeat("G", 64), ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	outside := f.TempDir()
	dir := filepath.Join(outside, "a", "b", "content")
	text := []byte("own")
	d := model.Digest(digest.FromBytes(text))
	own := kept{
		content: map[model.Digest][]byte{d: text},
		parts:   map[model.Digest][]Part{d: {{Digest: d, MediaType: ocispec.MediaTypeImageManifest, Size: int64(len(text))}}},
		named:   map[string]Repository{"own": {Images: []model.Digest{d}, Tags: map[string]model.Digest{"1": d}}},
	}
	r, err := Open(f.Context(), Config{Dir: dir, Images: own, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Close() })
	f.Fuzz(func(t *testing.T, method, target, body string) {
		at, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(at.Path, "/") || method == "" || strings.ContainsFunc(method, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
			t.Skip("no server of HTTP passes this on")
		}
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/", strings.NewReader(body))
		req.Method, req.URL, req.RequestURI = method, at, target
		req.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
		out := httptest.NewRecorder()
		r.Handler().ServeHTTP(out, req)
		if out.Code >= http.StatusInternalServerError || out.Code < http.StatusOK {
			t.Errorf("%s %s: %d %s", method, target, out.Code, out.Body)
		}
		if at.Path != "/v2/own/manifests/1" && strings.Contains(out.Body.String(), "root:") {
			t.Errorf("%s %s: a file of the host", method, target)
		}
		only(t, outside, "a", "b", "content", "docker")
		_ = os.RemoveAll(filepath.Join(dir, "docker"))
		_ = os.RemoveAll(filepath.Join(dir, "kiln"))
	})
}

// only fails the test where a directory has anything but what leads to the last name,
// or the registry's other root.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		all, err := os.ReadDir(dir)
		if err != nil {
			return // not yet
		}
		for _, e := range all {
			if e.Name() != name && (name != "docker" || e.Name() != "kiln") {
				t.Errorf("there is %s", filepath.Join(dir, e.Name()))
			}
		}
		dir = filepath.Join(dir, name)
	}
}

// TestUploadsThatBreakOff: an upload that ends early, wherever it does, leaves
// nothing to pull; what it leaves on the disk goes when it is given up.
func TestUploadsThatBreakOff(t *testing.T) {
	w := newWorld(t)
	const chunks = 5
	whole := strings.Repeat("0123456789", 1000*chunks)
	d := digest.FromString(whole)
	for sent := range chunks + 1 {
		for _, end := range []string{"given up", "ended too early", "never ended"} {
			if sent == chunks && end == "ended too early" {
				continue // it is not too early
			}
			res, _ := w.want(http.StatusAccepted, "POST", "/v2/shop/blobs/uploads/", nil)
			for i := range sent {
				part := whole[i*10_000 : (i+1)*10_000]
				res, _ = w.want(http.StatusAccepted, "PATCH", res.Header.Get("Location"), []byte(part), "Content-Type", "application/octet-stream")
			}
			at := res.Header.Get("Location")
			switch end {
			case "given up":
				w.want(http.StatusNoContent, "DELETE", at, nil)
			case "ended too early":
				w.want(http.StatusBadRequest, "PUT", at+"&digest="+string(d), nil, "Content-Type", "application/octet-stream")
			}
			w.want(http.StatusNotFound, "GET", "/v2/shop/blobs/"+string(d), nil)
			if left := w.files(); end != "never ended" && len(left) > 0 {
				t.Fatalf("%d chunks, %s: left is %v", sent, end, left)
			}
			w.want204(at, end == "never ended")
		}
	}
	if left := w.files(); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
}

// want204 gives an upload up, if it is still there.
func (w *world) want204(at string, there bool) {
	w.Helper()
	if there {
		w.want(http.StatusNoContent, "DELETE", at, nil)
	} else {
		w.want(http.StatusNotFound, "DELETE", at, nil)
	}
}

// files are all that is kept, but for what seals uploads.
func (w *world) files() (all []string) {
	_ = filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "uploads.secret" {
			all = append(all, path)
		}
		return nil
	})
	return all
}

// TestManifestsThatLie: what a manifest says of its blobs is compared when it is
// pushed, and nothing of it stays where it is not so.
func TestManifestsThatLie(t *testing.T) {
	w := newWorld(t)
	config, layer := w.blob("shop", []byte(`{"os":"linux"}`)), w.blob("shop", []byte("a layer"))
	before := len(w.files())
	text := func(d ocispec.Descriptor) string {
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	put := func(config, layer ocispec.Descriptor) string {
		return `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + text(config) + `,"layers":[` + text(layer) + `]}`
	}
	gone := layer
	gone.Digest = digest.FromString("nowhere")
	odd := layer
	odd.Digest = "sha256:../../../../etc/passwd"
	other := config
	other.Digest = digest.Digest("sha256:" + strings.Repeat("f", 64))
	for name, body := range map[string]string{
		"no JSON": "this is not JSON", "a list": "[]", "half": put(config, layer)[:100], "a layer that is not here": put(config, gone),
		"a layer's digest that is a path": put(config, odd), "a config that is not here": put(other, layer), "empty": "",
	} {
		res, answer, _ := w.do("PUT", "/v2/shop/manifests/bad", []byte(body), "Content-Type", ocispec.MediaTypeImageManifest)
		if res.StatusCode != http.StatusBadRequest && res.StatusCode != http.StatusNotFound || !strings.Contains(string(answer), `"errors"`) {
			t.Errorf("%s: %s %s", name, res.Status, answer)
		}
		w.want(http.StatusNotFound, "GET", "/v2/shop/manifests/bad", nil, "Accept", ocispec.MediaTypeImageManifest)
	}
	if after := len(w.files()); after != before {
		t.Errorf("%d files, before it were %d", after, before)
	}
	wrong := put(config, layer)
	w.want(http.StatusBadRequest, "PUT", "/v2/shop/manifests/sha256:"+strings.Repeat("0", 64), []byte(wrong), "Content-Type", ocispec.MediaTypeImageManifest)
}
