package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

// world is a registry with an image.
type world struct {
	*testing.T
	image name.Digest
	// answer, where it is set, may answer in the registry's place.
	answer atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

func newWorld(t *testing.T, referrersAPI bool) *world {
	t.Helper()
	w := &world{T: t}
	kept := registry.New(registry.WithReferrersSupport(referrersAPI), registry.Logger(log.New(t.Output(), "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if answer := w.answer.Load(); answer != nil && (*answer)(out, r) {
			return
		}
		kept.ServeHTTP(out, r)
	}))
	t.Cleanup(s.Close)
	repository, err := name.NewRepository(strings.TrimPrefix(s.URL, "http://") + "/team/shop")
	if err != nil {
		t.Fatal(err)
	}
	w.image = w.push(repository)
	return w
}

// push stores an image.
func (w *world) push(repository name.Repository) name.Digest {
	w.Helper()
	img, err := random.Image(100, 1)
	if err != nil {
		w.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		w.Fatal(err)
	}
	ref := repository.Digest(d.String())
	if err := remote.Write(ref, img); err != nil {
		w.Fatal(err)
	}
	return ref
}

// instead has what matches answered with a status.
func (w *world) instead(method, path string, status int) {
	answer := func(out http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.Contains(r.URL.Path, path) {
			return false
		}
		http.Error(out, `{"errors":[{"code":"UNKNOWN"}]}`, status)
		return true
	}
	w.answer.Store(&answer)
}

func digestOf(ref name.Digest) digest.Digest { return digest.Digest(ref.DigestStr()) }

// quick keeps go-containerregistry from trying again for seconds.
func quick() remote.Option {
	return remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 2})
}

var created = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func both(t *testing.T, test func(t *testing.T, w *world)) {
	for how, api := range map[string]bool{"referrers API": true, "tag": false} {
		t.Run(how, func(t *testing.T) { test(t, newWorld(t, api)) })
	}
}

func TestAttachments(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		key := generate(t)
		if list, err := List(t.Context(), w.image); err != nil || len(list) != 0 {
			t.Fatalf("attached is %v (%v)", list, err)
		}
		bundles := map[string][]byte{
			Signature: must(t)(key.SignImage(digestOf(w.image))),
			SPDX:      must(t)(key.Attest(digestOf(w.image), SPDX, json.RawMessage(`{"spdxVersion":"SPDX-2.3"}`))),
		}
		for range 2 { // the second time changes nothing
			for kind, text := range bundles {
				a, err := Push(t.Context(), w.image, text, created)
				if err != nil {
					t.Fatal(err)
				}
				if a.PredicateType != kind || !a.Created.Equal(created) || a.Bundle != BundleDigest(text) || a.Size != int64(len(text)) {
					t.Errorf("it is attached as %+v", a)
				}
			}
		}
		w.attachSomethingElse()
		list, err := List(t.Context(), w.image)
		if err != nil || len(list) != len(bundles) {
			t.Fatalf("attached is %+v (%v)", list, err)
		}
		if !slices.IsSortedFunc(list, func(a, b Attachment) int { return strings.Compare(string(a.Manifest), string(b.Manifest)) }) {
			t.Error("the list has no order")
		}
		for _, a := range list {
			text, err := Fetch(t.Context(), w.image.Context(), a)
			if err != nil || !bytes.Equal(text, bundles[a.PredicateType]) {
				t.Errorf("%s: %s (%v)", a.PredicateType, text, err)
			}
			if _, err := Verify(text, []PublicKey{key.Public()}, digestOf(w.image), a.PredicateType); err != nil {
				t.Error(err)
			}
		}
		if list, err := List(t.Context(), w.push(w.image.Context())); err != nil || len(list) != 0 {
			t.Errorf("to another image is attached %v (%v)", list, err)
		}
	})
}

// attachSomethingElse attaches what is no bundle.
func (w *world) attachSomethingElse() {
	w.Helper()
	subject, err := remote.Head(w.image)
	if err != nil {
		w.Fatal(err)
	}
	for _, kind := range []types.MediaType{"application/vnd.example.something", emptyMediaType} {
		img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
		img = mutate.ConfigMediaType(img, kind)
		img, _ = mutate.Subject(img, *subject).(v1.Image)
		d, err := img.Digest()
		if err != nil {
			w.Fatal(err)
		}
		if err := remote.Write(w.image.Context().Digest(d.String()), img); err != nil {
			w.Fatal(err)
		}
	}
}

func TestArtifactIsAsTheSpecificationsHaveIt(t *testing.T) {
	// Signatures differ each time: a bundle with one of zeroes will do here.
	text := edited(t, must(t)(generate(t).SignImage(image)), func(b, e map[string]any) {
		b["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": "x"}}
		e["signatures"] = []any{map[string]any{"sig": "AAAA"}}
	})
	subject := v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: 42, Digest: v1.Hash{Algorithm: "sha256", Hex: image.Encoded()}, Annotations: map[string]string{"left": "out"}}
	img, err := Artifact(text, subject, created.In(time.FixedZone("elsewhere", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := json.Indent(&shown, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "artifact.golden", shown.String()+"\n")
	config, err := img.RawConfigFile()
	if err != nil || string(config) != "{}" {
		t.Errorf("its configuration is %s (%v)", config, err)
	}
	_, err = Artifact([]byte("garbage"), subject, created)
	if !errors.Is(err, ErrNoBundle) {
		t.Errorf("garbage: %v", err)
	}
}

func TestRegistryThatRefuses(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		text := must(t)(generate(t).SignImage(digestOf(w.image)))
		for _, c := range []struct {
			method, path string
			status       int
			want         model.Code
		}{
			{"HEAD", "/manifests/" + w.image.DigestStr(), 404, model.NotFound},
			{"HEAD", "/manifests/" + w.image.DigestStr(), 401, model.Denied},
			{"POST", "/blobs/uploads/", 503, model.Unavailable},
			{"PUT", "/manifests/", 403, model.Denied},
			{"PUT", "/manifests/", 500, model.Unavailable},
			{"PUT", "/manifests/", 400, model.Invalid},
			{"GET", "/referrers/", 500, model.Unavailable},
		} {
			w.instead(c.method, c.path, c.status)
			_, err := Push(t.Context(), w.image, text, created, quick())
			if model.CodeOf(err) != c.want || !strings.Contains(err.Error(), "cannot attach a statement to "+w.image.String()) {
				t.Errorf("%s %s answered %d: %v (%s)", c.method, c.path, c.status, err, model.CodeOf(err))
			}
		}
		w.answer.Store(nil)
		a, err := Push(t.Context(), w.image, text, created)
		if err != nil {
			t.Fatal(err)
		}
		for status, want := range map[int]model.Code{500: model.Unavailable, 401: model.Denied} {
			for _, path := range []string{"/referrers/", "/manifests/" + string(a.Manifest)} {
				w.instead("GET", path, status)
				if list, err := List(t.Context(), w.image, quick()); model.CodeOf(err) != want {
					t.Errorf("%s answered %d: %v (%v)", path, status, list, err)
				}
			}
			w.instead("GET", "/blobs/", status)
			if _, err := Fetch(t.Context(), w.image.Context(), a, quick()); model.CodeOf(err) != want {
				t.Errorf("blobs answered %d: %v", status, err)
			}
		}
		w.instead("GET", "/blobs/", 404)
		_, err = Fetch(t.Context(), w.image.Context(), a)
		wantError(t, err, model.NotFound, "the registry does not have it", "")
		w.instead("GET", "/manifests/"+string(a.Manifest), 404)
		list, err := List(t.Context(), w.image)
		if err != nil || len(list) != 1 || model.CodeOf(list[0].Err) != model.NotFound {
			t.Errorf("what is lost is listed as %v (%v)", list, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := List(ended, w.image); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled call: %v", err)
		}
	})
	gone, err := name.NewDigest("127.0.0.1:1/team/shop@" + string(image))
	if err != nil {
		t.Fatal(err)
	}
	_, err = List(t.Context(), gone, quick())
	wantError(t, err, model.Unavailable, "connection refused", "")
}

// TestOtherBytes has the registry give something else than was asked for.
func TestOtherBytes(t *testing.T) {
	w := newWorld(t, true)
	a, err := Push(t.Context(), w.image, must(t)(generate(t).SignImage(digestOf(w.image))), created)
	if err != nil {
		t.Fatal(err)
	}
	for what, body := range map[string]string{"other": strings.Repeat("x", int(a.Size)), "cut": "x"} {
		answer := func(out http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, string(a.Bundle)) && !strings.Contains(r.URL.Path, string(a.Manifest)) {
				return false
			}
			out.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			_, _ = io.WriteString(out, body)
			return true
		}
		w.answer.Store(&answer)
		if text, err := Fetch(t.Context(), w.image.Context(), a, quick()); model.CodeOf(err) != model.Invalid || text != nil {
			t.Errorf("%s bytes: %s (%v)", what, text, err)
		}
		list, err := List(t.Context(), w.image, quick())
		if err != nil || len(list) != 1 || model.CodeOf(list[0].Err) != model.Invalid {
			t.Errorf("%s manifest: %v (%v)", what, list, err)
		}
		if _, err := Fetch(t.Context(), w.image.Context(), list[0]); model.CodeOf(err) != model.Invalid {
			t.Errorf("what cannot be read is fetched: %v", err)
		}
	}
	answer := func(out http.ResponseWriter, r *http.Request) bool { // without end, which no digest is compared with
		for strings.Contains(r.URL.Path, "/blobs/") {
			if _, err := out.Write(make([]byte, 1<<20)); err != nil {
				return true
			}
		}
		return false
	}
	w.answer.Store(&answer)
	text, err := Fetch(t.Context(), w.image.Context(), a)
	if text != nil {
		t.Errorf("%d bytes are returned", len(text))
	}
	wantError(t, err, model.Invalid, "what came is not what that digest names", "")
	w.answer.Store(nil)
	a.Size = MaxBundle + 1
	_, err = Fetch(t.Context(), w.image.Context(), a)
	wantError(t, err, model.Invalid, "more than 67108864", "")
}

// TestMovedOver lists an artifact of another image: not its bundle is taken for one
// of this image, and what can be read is still read.
func TestMovedOver(t *testing.T) {
	w := newWorld(t, false)
	key := generate(t)
	there := w.push(w.image.Context())
	moved, err := Push(t.Context(), there, must(t)(key.SignImage(digestOf(there))), created)
	if err != nil {
		t.Fatal(err)
	}
	// The other image's list is put under this one's tag.
	index, err := remote.Index(w.image.Context().Tag(strings.Replace(there.DigestStr(), ":", "-", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(w.image.Context().Tag(strings.Replace(w.image.DigestStr(), ":", "-", 1)), index); err != nil {
		t.Fatal(err)
	}
	good := must(t)(key.SignImage(digestOf(w.image)))
	if _, err := Push(t.Context(), w.image, good, created); err != nil {
		t.Fatal(err)
	}
	list, err := List(t.Context(), w.image)
	if err != nil || len(list) != 2 {
		t.Fatalf("listed is %v (%v)", list, err)
	}
	for _, a := range list {
		if (a.Manifest == moved.Manifest) != (a.Err != nil) {
			t.Errorf("listed is %+v", a)
		}
		if a.Err != nil {
			wantError(t, a.Err, model.Invalid, "it is not attached to "+w.image.DigestStr(), "")
		}
	}
	// The bundle itself, attached as if it were this one's.
	if _, err := Push(t.Context(), w.image, must(t)(key.SignImage(digestOf(there))), created); err != nil {
		t.Fatal(err)
	}
	list, err = List(t.Context(), w.image)
	if err != nil || len(list) != 3 {
		t.Fatalf("listed is %v (%v)", list, err)
	}
	good2, refused := 0, 0
	for _, a := range list {
		text, err := Fetch(t.Context(), w.image.Context(), a)
		if err != nil {
			continue
		}
		switch _, err := Verify(text, []PublicKey{key.Public()}, digestOf(w.image), Signature); {
		case err == nil:
			good2++
		case errors.Is(err, ErrOtherImage):
			refused++
		}
	}
	if good2 != 1 || refused != 1 {
		t.Errorf("%d hold, %d are of another image", good2, refused)
	}
}

// TestTwoWriters pushes at once to a registry without the referrers API: each is
// listed when its push returns, or says that it is not.
func TestTwoWriters(t *testing.T) {
	w := newWorld(t, false)
	key := generate(t)
	// Another writer puts its own list in place of ours, three times.
	var undone atomic.Int32
	tag := strings.Replace(w.image.DigestStr(), ":", "-", 1)
	answer := func(out http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, tag) || undone.Add(1) > 3 {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		out.Header().Set("Docker-Content-Digest", string(image))
		out.WriteHeader(http.StatusCreated) // and is gone
		return true
	}
	w.answer.Store(&answer)
	if _, err := Push(t.Context(), w.image, must(t)(key.SignImage(digestOf(w.image))), created); err != nil {
		t.Fatal(err)
	}
	if undone.Load() != 4 {
		t.Errorf("it was listed after %d tries", undone.Load())
	}
	undone.Store(-100)
	_, err := Push(t.Context(), w.image, must(t)(key.Attest(digestOf(w.image), SPDX, json.RawMessage(`{}`))), created)
	wantError(t, err, model.Unavailable, "has taken it and does not list it", tag)
	w.answer.Store(nil)

	var pushing sync.WaitGroup
	for range 4 {
		pushing.Go(func() {
			text, err := key.SignImage(digestOf(w.image))
			if err == nil {
				_, err = Push(t.Context(), w.image, text, created)
			}
			if err != nil && model.CodeOf(err) != model.Unavailable {
				t.Error(err)
			}
		})
	}
	pushing.Wait()
}

// TestHalfDone attaches what was stored before, and not listed.
func TestHalfDone(t *testing.T) {
	w := newWorld(t, false)
	text := must(t)(generate(t).SignImage(digestOf(w.image)))
	tag := strings.Replace(w.image.DigestStr(), ":", "-", 1)
	w.instead(http.MethodPut, tag, http.StatusForbidden)
	_, err := Push(t.Context(), w.image, text, created, quick())
	wantError(t, err, model.Denied, "the registry refuses", "")
	w.answer.Store(nil)
	if _, err := Push(t.Context(), w.image, text, created); err != nil {
		t.Error(err)
	}
	if list, err := List(t.Context(), w.image); err != nil || len(list) != 1 {
		t.Errorf("attached is %v (%v)", list, err)
	}
}

func TestTooManyAttachments(t *testing.T) {
	w := newWorld(t, true)
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	layer := static.NewLayer([]byte("x"), BundleMediaType)
	d, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for range maxAttachments + 1 {
		index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: d, Size: 1, ArtifactType: BundleMediaType})
	}
	answer := func(out http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		out.Header().Set("Content-Type", string(types.OCIImageIndex))
		_ = json.NewEncoder(out).Encode(index)
		return true
	}
	w.answer.Store(&answer)
	_, err = List(t.Context(), w.image)
	wantError(t, err, model.Invalid, "more than 1000 bundles", "who may write")
}
