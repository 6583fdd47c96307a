package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// kept is images in memory.
type kept struct {
	*testing.T
	content map[model.Digest][]byte
	parts   map[model.Digest][]Part
	named   map[string]Repository
}

func (k kept) Repositories() []string {
	var names []string
	for n := range k.named {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (k kept) Repository(name string) Repository { return k.named[name] }

func (k kept) Parts(_ context.Context, d model.Digest) ([]Part, error) {
	if parts := k.parts[d]; parts != nil {
		return parts, nil
	}
	return nil, model.Errorf(model.NotFound, "no image %s", d)
}

func (k kept) Open(_ context.Context, p Part) (Content, error) {
	if text, ok := k.content[p.Digest]; ok {
		return struct {
			*bytes.Reader
			nothing
		}{Reader: bytes.NewReader(text)}, nil
	}
	return nil, model.Errorf(model.NotFound, "no part %s", p.Digest)
}

type nothing struct{}

func (nothing) Close() error { return nil }

// keep takes an image in.
func (k kept) keep(img v1.Image) model.Digest {
	k.Helper()
	must := func(err error) {
		k.Helper()
		if err != nil {
			k.Fatal(err)
		}
	}
	h, err := img.Digest()
	must(err)
	m, err := img.Manifest()
	must(err)
	raw, err := img.RawManifest()
	must(err)
	config, err := img.RawConfigFile()
	must(err)
	d := model.Digest(h.String())
	put := func(d v1.Hash, kind string, text []byte) {
		k.content[model.Digest(d.String())] = text
		k.parts[model.Digest(h.String())] = append(k.parts[model.Digest(h.String())], Part{Digest: model.Digest(d.String()), MediaType: kind, Size: int64(len(text))})
	}
	put(h, string(m.MediaType), raw)
	put(m.Config.Digest, string(m.Config.MediaType), config)
	layers, err := img.Layers()
	must(err)
	for i, l := range layers {
		r, err := l.Compressed()
		must(err)
		var b bytes.Buffer
		_, err = b.ReadFrom(r)
		must(err)
		put(m.Layers[i].Digest, string(m.Layers[i].MediaType), b.Bytes())
	}
	return d
}

// TestOwnImages: kiln's own images are pulled like any other, by tag and by
// digest, listed beside what was pushed, and not changed from outside.
func TestOwnImages(t *testing.T) {
	mine := kept{T: t, content: map[model.Digest][]byte{}, parts: map[model.Digest][]Part{}, named: map[string]Repository{}}
	w := newWorldOf(t, mine)
	img, err := random.Image(100_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	d := mine.keep(img)
	mine.named["shop"] = Repository{Images: []model.Digest{d}, Tags: map[string]model.Digest{"7": d}}
	host := strings.TrimPrefix(w.url, "http://")
	for _, ref := range []string{host + "/shop:7", host + "/shop@" + string(d)} {
		at, err := name.ParseReference(ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(at)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := got.Layers()
		if err != nil || len(layers) != 3 {
			t.Fatalf("%d layers (%v)", len(layers), err)
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err == nil {
				_, err = new(bytes.Buffer).ReadFrom(r) // it is compared with its digest
			}
			if err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
	// Another image on its layers: the client sends only what is new.
	child, err := mutate.AppendLayers(img, layerOf(t))
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.ParseReference(host+"/shop:mine", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, child); err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Image(to)
	if err != nil {
		t.Fatal(err)
	}
	if layers, err := pushed.Layers(); err != nil || len(layers) != 4 {
		t.Errorf("%d layers were pushed (%v)", len(layers), err)
	}
	w.attach("shop", "a/signature", &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d), Size: 1}, "signed")
	if list := w.referrers("shop", digest.Digest(d), ""); len(list) != 1 {
		t.Errorf("%d refer to it, want 1", len(list))
	}
	for query, want := range map[string]string{"": "7,mine", "?n=1": "7", "?n=1&last=7": "mine", "?last=mine": "", "?n=0": ""} {
		_, text := w.want(http.StatusOK, "GET", "/v2/shop/tags/list"+query, nil)
		var list struct{ Tags []string }
		if err := json.Unmarshal(text, &list); err != nil || strings.Join(list.Tags, ",") != want {
			t.Errorf("tags%s: %s, want %s (%v)", query, text, want, err)
		}
	}
	w.attach("other", "", nil, "somebody's")
	_, text := w.want(http.StatusOK, "GET", "/v2/_catalog", nil)
	if !strings.Contains(string(text), `["other","shop"]`) {
		t.Errorf("the catalog is %s", text)
	}
	w.want(http.StatusNotFound, "GET", "/v2/nobody/tags/list", nil)
	w.want(http.StatusBadRequest, "GET", "/v2/shop/tags/list?n=x", nil)
	manifest := mine.content[d]
	for _, c := range [][2]string{{"PUT", "/v2/shop/manifests/7"}, {"DELETE", "/v2/shop/manifests/7"}, {"DELETE", "/v2/shop/manifests/" + string(d)}} {
		_, text := w.want(http.StatusForbidden, c[0], c[1], manifest, "Content-Type", ocispec.MediaTypeImageManifest)
		if !strings.Contains(string(text), "DENIED") {
			t.Errorf("%s %s: %s", c[0], c[1], text)
		}
	}
	// What kiln cannot read takes no tag of its own either.
	w.want(http.StatusBadRequest, "PUT", "/v2/shop/manifests/7", []byte(`{"schemaVersion":2,"artifactType":5}`), "Content-Type", ocispec.MediaTypeImageManifest)
	layer := mine.parts[d][2]
	res, part := w.want(http.StatusPartialContent, "GET", "/v2/shop/blobs/"+string(layer.Digest), nil, "Range", "bytes=5-9")
	if !bytes.Equal(part, mine.content[layer.Digest][5:10]) {
		t.Errorf("a part is %x (%s)", part, res.Header.Get("Content-Range"))
	}
	// What was changed where kiln keeps it, and what kiln has removed.
	mine.content[d] = append(bytes.Clone(manifest[:len(manifest)-1]), ' ')
	w.want(http.StatusInternalServerError, "GET", "/v2/shop/manifests/7", nil)
	delete(mine.content, layer.Digest)
	w.want(http.StatusNotFound, "GET", "/v2/shop/blobs/"+string(layer.Digest), nil)
	w.want(http.StatusNotFound, "GET", "/v2/other/manifests/"+string(d), nil)
}

func layerOf(t *testing.T) v1.Layer {
	t.Helper()
	l, err := random.Layer(1000, "application/vnd.oci.image.layer.v1.tar+gzip")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestStrangers: who may not read learns nothing, whatever is asked.
func TestStrangers(t *testing.T) {
	mine := kept{T: t, content: map[model.Digest][]byte{}, parts: map[model.Digest][]Part{}, named: map[string]Repository{}}
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	d := mine.keep(img)
	mine.named["shop"] = Repository{Images: []model.Digest{d}, Tags: map[string]model.Digest{"7": d}}
	dir := t.TempDir()
	path := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(path, []byte("ann:$2a$04$bZUHfjybYzvRY8OzFHV5COd68Ok2ArJtxpNPYWNvW6uUIy.bFqAAe\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := &File{Push: true}
	file.HTTP.Addr = "127.0.0.1:0"
	file.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "kiln", "path": path}}
	r, err := Open(t.Context(), Config{File: file, Dir: dir, Images: mine, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(r.Public())
	defer s.Close()
	w := &world{T: t, registry: r, dir: dir, url: s.URL}
	manifest := mine.content[d]
	ask := []string{
		"GET /v2/", "GET /v2/_catalog", "GET /v2/shop/tags/list", "GET /v2/shop/manifests/7", "HEAD /v2/shop/manifests/7", "PUT /v2/shop/manifests/7",
		"DELETE /v2/shop/manifests/7", "PUT /v2/shop/manifests/8", "GET /v2/nobody/tags/list", "GET /v2/shop/manifests/" + string(d),
		"GET /v2/shop/blobs/" + string(mine.parts[d][2].Digest), "GET /v2/shop/referrers/" + string(d), "POST /v2/shop/blobs/uploads/",
	}
	for _, what := range ask {
		method, path, _ := strings.Cut(what, " ")
		res, text, err := w.do(method, path, manifest, "Content-Type", ocispec.MediaTypeImageManifest)
		if err != nil || res.StatusCode != http.StatusUnauthorized || strings.Contains(string(text), "own images") {
			t.Errorf("%s: %s %s (%v), want 401", what, res.Status, text, err)
		}
	}
	login := []string{"Authorization", "Basic YW5uOnNlY3JldA=="}
	w.want(http.StatusOK, "GET", "/v2/shop/manifests/7", nil, login...)
	w.want(http.StatusForbidden, "PUT", "/v2/shop/manifests/7", manifest, append(login, "Content-Type", ocispec.MediaTypeImageManifest)...)
	w.want(http.StatusCreated, "PUT", "/v2/shop/manifests/mine", manifest, append(login, "Content-Type", string(types.DockerManifestSchema2))...)
}
