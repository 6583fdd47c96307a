package sign

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPages reads a list of referrers that comes in pages of one, and one that leads to
// another host or in a circle.
func TestPages(t *testing.T) {
	good := registry.New(registry.WithReferrersSupport(true))
	var circle, elsewhere bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/referrers/") || r.Method != http.MethodGet {
			good.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, r)
		var list v1.IndexManifest
		if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil {
			t.Error(err)
		}
		at := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("at"), &at)
		switch {
		case circle:
			w.Header().Set("Link", `<`+r.URL.Path+`>; rel="next"`)
		case elsewhere:
			w.Header().Set("Link", `<http://elsewhere.example.com`+r.URL.Path+`?at=1>; rel="next"`)
		case at+1 < len(list.Manifests):
			w.Header().Set("Link", fmt.Sprintf(`<%s?at=%d>; rel="next"`, r.URL.Path, at+1))
		}
		list.Manifests = list.Manifests[at : at+1]
		w.Header().Set("Content-Type", string(list.MediaType))
		_ = json.NewEncoder(w).Encode(list)
	}))
	defer srv.Close()
	to, err := name.NewTag(strings.TrimPrefix(srv.URL, "http://")+"/x/y:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	at := to.Context().Digest(d.String())
	paged := remote.WithTransport(Paged(http.DefaultTransport))
	key := generate(t)
	for i := range 5 {
		bundle, err := key.Attest(image, TestResult, json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Push(t.Context(), at, bundle, time.Now(), paged); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := List(t.Context(), at, paged); err != nil || len(all) != 5 {
		t.Errorf("%d attachments (%v)", len(all), err)
	}
	elsewhere = true
	if all, err := List(t.Context(), at, paged); err != nil || len(all) != 1 {
		t.Errorf("it went to another host: %d attachments (%v)", len(all), err)
	}
	circle = true
	if _, err := List(t.Context(), at, paged); err != nil {
		t.Errorf("in a circle: %v", err)
	}
}
