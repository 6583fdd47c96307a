package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// world is a registry and a client of it.
type world struct {
	*testing.T
	registry *Registry
	dir      string
	url      string
}

func newWorld(t *testing.T) *world { return newWorldOf(t, nil) }

func newWorldOf(t *testing.T, images Images) *world {
	t.Helper()
	dir := t.TempDir()
	r, err := Open(t.Context(), Config{Dir: dir, Images: images, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		s.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{T: t, registry: r, dir: dir, url: s.URL}
}

// do makes a request and returns the answer, whose body is read, and why the body
// ended early.
func (w *world) do(method, path string, body []byte, header ...string) (*http.Response, []byte, error) {
	w.Helper()
	if !strings.HasPrefix(path, "http") {
		path = w.url + path
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(w.Context()), method, path, bytes.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, text, err
}

func (w *world) want(status int, method, path string, body []byte, header ...string) (*http.Response, []byte) {
	w.Helper()
	res, text, err := w.do(method, path, body, header...)
	if res.StatusCode != status || err != nil {
		w.Fatalf("%s %s: %s (%v) %s, want %d", method, path, res.Status, err, text, status)
	}
	return res, text
}

// blob stores bytes.
func (w *world) blob(name string, content []byte) ocispec.Descriptor {
	w.Helper()
	d := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(content), Size: int64(len(content))}
	res, _ := w.want(http.StatusAccepted, "POST", "/v2/"+name+"/blobs/uploads/", nil)
	w.want(http.StatusCreated, "PUT", res.Header.Get("Location")+"&digest="+string(d.Digest), content, "Content-Type", "application/octet-stream")
	return d
}

// attach stores a manifest that refers to a subject, nil: to nothing.
func (w *world) attach(name, kind string, subject *ocispec.Descriptor, content string) ocispec.Descriptor {
	w.Helper()
	config := w.blob(name, []byte("{}"))
	config.MediaType = ocispec.MediaTypeEmptyJSON
	text, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind,
		Config: config, Layers: []ocispec.Descriptor{w.blob(name, []byte(content))}, Subject: subject,
		Annotations: map[string]string{"says": content},
	})
	if err != nil {
		w.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(text), Size: int64(len(text))}
	res, _ := w.want(http.StatusCreated, "PUT", "/v2/"+name+"/manifests/"+string(d.Digest), text, "Content-Type", d.MediaType)
	if subject != nil && res.Header.Get("OCI-Subject") != string(subject.Digest) {
		w.Errorf("OCI-Subject is %q", res.Header.Get("OCI-Subject"))
	}
	return d
}

func (w *world) referrers(name string, subject digest.Digest, query string) []ocispec.Descriptor {
	w.Helper()
	res, text := w.want(http.StatusOK, "GET", "/v2/"+name+"/referrers/"+string(subject)+query, nil)
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil || index.SchemaVersion != 2 || res.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
		w.Fatalf("the list is %s (%v)", text, err)
	}
	return index.Manifests
}

func TestReferrers(t *testing.T) {
	w := newWorld(t)
	image := w.attach("team/shop", "", nil, "an image")
	if list := w.referrers("team/shop", image.Digest, ""); len(list) != 0 {
		t.Errorf("%v refers to what nothing refers to", list)
	}
	sbom := w.attach("team/shop", "application/spdx+json", &image, "what is in it")
	signature := w.attach("team/shop", "application/vnd.dev.sigstore.bundle.v0.3+json", &image, "that it is ours")
	for query, want := range map[string][]digest.Digest{
		"":                                      {sbom.Digest, signature.Digest},
		"?artifactType=application/spdx%2Bjson": {sbom.Digest},
		"?artifactType=nothing":                 {},
	} {
		got := map[digest.Digest]string{}
		for _, d := range w.referrers("team/shop", image.Digest, query) {
			got[d.Digest] = d.ArtifactType + " " + d.Annotations["says"]
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
		for _, d := range want {
			if got[d] == "" {
				t.Errorf("%s: %s is not listed", query, d)
			}
		}
		if got[sbom.Digest] != "" && got[sbom.Digest] != "application/spdx+json what is in it" {
			t.Errorf("it is described as %q", got[sbom.Digest])
		}
	}
	if list := w.referrers("team/other", image.Digest, ""); len(list) != 0 {
		t.Errorf("another repository has %v", list)
	}
	// Of what is not there yet, too.
	coming := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("coming"), Size: 6}
	w.attach("team/shop", "early", &coming, "too early")
	if list := w.referrers("team/shop", coming.Digest, ""); len(list) != 1 {
		t.Errorf("%d refer to what is coming, want 1", len(list))
	}
	w.want(http.StatusAccepted, "DELETE", "/v2/team/shop/manifests/"+string(sbom.Digest), nil)
	if list := w.referrers("team/shop", image.Digest, ""); len(list) != 1 || list[0].Digest != signature.Digest {
		t.Errorf("%v is left, want the signature", list)
	}
}

func TestReferrersRefuse(t *testing.T) {
	w := newWorld(t)
	d := string(digest.FromString("x"))
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/shop/referrers/latest", http.StatusBadRequest, "DIGEST_INVALID"},
		{"GET", "/v2/shop/referrers/sha256:ff", http.StatusBadRequest, "DIGEST_INVALID"},
		{"GET", "/v2/SHOP/referrers/" + d, http.StatusBadRequest, "NAME_INVALID"},
		{"GET", "/v2/a/%2e%2e/%2e%2e/b/referrers/" + d, http.StatusBadRequest, "NAME_INVALID"},
		{"PUT", "/v2/shop/referrers/" + d, http.StatusMethodNotAllowed, "UNSUPPORTED"},
	} {
		res, text, err := w.do(c.method, c.path, nil)
		if res.StatusCode != c.status || err != nil || !strings.Contains(string(text), c.code) {
			t.Errorf("%s %s: %s %s (%v), want %d %s", c.method, c.path, res.Status, text, err, c.status, c.code)
		}
	}
	large := append([]byte(`{"annotations":{"x":"`), bytes.Repeat([]byte("x"), maxManifest)...)
	w.want(http.StatusRequestEntityTooLarge, "PUT", "/v2/shop/manifests/large", append(large, `"}}`...), "Content-Type", ocispec.MediaTypeImageManifest)
}

// TestTampered: what was changed on the disk is not served for whole.
func TestTampered(t *testing.T) {
	w := newWorld(t)
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	d := w.blob("shop", content)
	_, got := w.want(http.StatusOK, "GET", "/v2/shop/blobs/"+string(d.Digest), nil)
	if !bytes.Equal(got, content) {
		t.Fatal("the blob is another")
	}
	image := w.attach("shop", "", nil, "an image")
	for _, of := range []digest.Digest{d.Digest, image.Digest} {
		w.damage(of)
	}
	res, got, err := w.do("GET", "/v2/shop/blobs/"+string(d.Digest), nil, "Range", "bytes=10-19")
	if res.StatusCode != http.StatusPartialContent || err != nil || len(got) != 10 {
		t.Errorf("a part: %s, %d bytes (%v)", res.Status, len(got), err)
	}
	for path, size := range map[string]int64{"/v2/shop/blobs/" + string(d.Digest): d.Size, "/v2/shop/manifests/" + string(image.Digest): image.Size} {
		res, got, err := w.do("GET", path, nil, "Accept", ocispec.MediaTypeImageManifest)
		if size < 1<<10 && res.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s: %s, want an answer that says so", path, res.Status)
		}
		if res.StatusCode == http.StatusOK && (err == nil || int64(len(got)) >= size) {
			t.Errorf("%s: %d of %d damaged bytes are served (%v)", path, len(got), size, err)
		}
	}
	cut := w.blob("shop", []byte("a machine lost its power"))
	if err := os.Truncate(w.path(cut.Digest), 0); err != nil {
		t.Fatal(err)
	}
	w.want(http.StatusInternalServerError, "GET", "/v2/shop/blobs/"+string(cut.Digest), nil)
	// What is damaged is taken away: it can be pushed again.
	w.want(http.StatusNotFound, "GET", "/v2/shop/blobs/"+string(cut.Digest), nil)
	w.blob("shop", content)
	if _, got := w.want(http.StatusOK, "GET", "/v2/shop/blobs/"+string(d.Digest), nil); !bytes.Equal(got, content) {
		t.Error("pushed again, it is another")
	}
}

// TestUploadGoesOn: an upload goes on where it was when the registry was opened anew.
func TestUploadGoesOn(t *testing.T) {
	w := newWorld(t)
	content := []byte("half of it, and the other half")
	res, _ := w.want(http.StatusAccepted, "POST", "/v2/shop/blobs/uploads/", nil)
	res, _ = w.want(http.StatusAccepted, "PATCH", res.Header.Get("Location"), content[:11], "Content-Type", "application/octet-stream")
	at, err := url.Parse(res.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), Config{Dir: w.dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(again.Handler())
	defer func() {
		srv.Close()
		_ = again.Close()
	}()
	w.url = srv.URL
	res, _ = w.want(http.StatusNoContent, "GET", at.RequestURI(), nil)
	if got := res.Header.Get("Range"); got != "0-10" {
		t.Errorf("it has %s of it", got)
	}
	if at, err = url.Parse(res.Header.Get("Location")); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(content)
	query := at.Query()
	query.Set("digest", string(d))
	w.want(http.StatusCreated, "PUT", at.Path+"?"+query.Encode(), content[11:], "Content-Type", "application/octet-stream")
	if _, got := w.want(http.StatusOK, "GET", "/v2/shop/blobs/"+string(d), nil); !bytes.Equal(got, content) {
		t.Errorf("it became %q", got)
	}
}

// path is where bytes are kept.
func (w *world) path(d digest.Digest) string {
	return filepath.Join(w.dir, "docker/registry/v2/blobs/sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// damage changes a byte of what is kept.
func (w *world) damage(d digest.Digest) {
	w.Helper()
	path := w.path(d)
	text, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		w.Fatal(err)
	}
}

// TestWrongUploads: an upload that breaks off, or is not what it says, leaves
// nothing that could be pulled.
func TestWrongUploads(t *testing.T) {
	w := newWorld(t)
	d := digest.FromString("what it should be")
	res, _ := w.want(http.StatusAccepted, "POST", "/v2/shop/blobs/uploads/", nil)
	w.want(http.StatusBadRequest, "PUT", res.Header.Get("Location")+"&digest="+string(d), []byte("what it is"), "Content-Type", "application/octet-stream")
	w.want(http.StatusNotFound, "GET", "/v2/shop/blobs/"+string(d), nil)
	res, _ = w.want(http.StatusAccepted, "POST", "/v2/shop/blobs/uploads/", nil)
	res, _ = w.want(http.StatusAccepted, "PATCH", res.Header.Get("Location"), []byte("the first half"), "Content-Type", "application/octet-stream")
	w.want(http.StatusNoContent, "DELETE", res.Header.Get("Location"), nil)
	_ = filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "uploads.secret" {
			t.Errorf("%s is left", path)
		}
		return nil
	})
}

// TestFullDisk: nothing is pushed to a disk that is full, and what is there is
// still served.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	image := w.attach("shop", "", nil, "an image")
	w.registry.room = func() error { return errors.New("the disk is full") }
	for _, what := range []string{"POST /v2/shop/blobs/uploads/", "PUT /v2/shop/manifests/x"} {
		method, path, _ := strings.Cut(what, " ")
		if _, text := w.want(http.StatusInsufficientStorage, method, path, nil); !strings.Contains(string(text), "the disk is full") {
			t.Errorf("%s: %s", what, text)
		}
	}
	w.want(http.StatusOK, "GET", "/v2/shop/manifests/"+string(image.Digest), nil, "Accept", ocispec.MediaTypeImageManifest)
	w.want(http.StatusAccepted, "DELETE", "/v2/shop/manifests/"+string(image.Digest), nil)
}

// TestCollect: what was deleted gives its room back, and what was not stays.
func TestCollect(t *testing.T) {
	w := newWorld(t)
	if err := w.registry.Collect(t.Context()); err != nil { // nothing was ever pushed
		t.Fatal(err)
	}
	image := w.attach("shop", "", nil, "an image")
	signature := w.attach("shop", "a/signature", &image, "signed")
	gone := w.attach("shop", "a/remark", &image, "forget this")
	w.want(http.StatusAccepted, "DELETE", "/v2/shop/manifests/"+string(gone.Digest), nil)
	before := w.bytes()
	if err := w.registry.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := w.bytes(); after >= before {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	for _, d := range []digest.Digest{image.Digest, signature.Digest} {
		w.want(http.StatusOK, "GET", "/v2/shop/manifests/"+string(d), nil, "Accept", ocispec.MediaTypeImageManifest)
	}
	w.want(http.StatusOK, "GET", "/v2/shop/blobs/"+string(digest.FromString("signed")), nil)
	w.want(http.StatusNotFound, "GET", "/v2/shop/blobs/"+string(digest.FromString("forget this")), nil)
	if list := w.referrers("shop", image.Digest, ""); len(list) != 1 || list[0].Digest != signature.Digest {
		t.Errorf("%v refers to it, want the signature", list)
	}
}

// bytes is how much is kept.
func (w *world) bytes() (sum int64) {
	_ = filepath.WalkDir(w.dir, func(_ string, e fs.DirEntry, err error) error {
		if info, none := e.Info(); err == nil && none == nil && e.Type().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// TestPushesOfOneTag: of two at once one is the tag's, whole.
func TestPushesOfOneTag(t *testing.T) {
	w := newWorld(t)
	var texts [2][]byte
	for i := range texts {
		d := w.attach("shop", "", nil, fmt.Sprint("image ", i))
		_, texts[i] = w.want(http.StatusOK, "GET", "/v2/shop/manifests/"+string(d.Digest), nil, "Accept", ocispec.MediaTypeImageManifest)
	}
	for range 20 {
		var both sync.WaitGroup
		for _, text := range texts {
			both.Go(func() {
				w.want(http.StatusCreated, "PUT", "/v2/shop/manifests/latest", text, "Content-Type", ocispec.MediaTypeImageManifest)
			})
		}
		both.Wait()
		_, got := w.want(http.StatusOK, "GET", "/v2/shop/manifests/latest", nil, "Accept", ocispec.MediaTypeImageManifest)
		if !bytes.Equal(got, texts[0]) && !bytes.Equal(got, texts[1]) {
			t.Fatalf("the tag is %s", got)
		}
	}
}
