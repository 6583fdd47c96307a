package image_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"kiln/internal/image"
	"kiln/internal/model"
)

// badly is a registry that does one thing wrong; false: it answers as it should.
type badly func(w http.ResponseWriter, r *http.Request, good http.Handler) bool

// answers has requests whose path has the part answered with the status.
func answers(method, part string, status int) badly {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == method && strings.Contains(r.URL.Path, part) {
			http.Error(w, "<html>sorry</html>", status)
			return true
		}
		return false
	}
}

// changed gives the answer to a GET whose path has the part, changed.
func changed(part string, change func(http.Header, []byte) []byte) badly {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, part) {
			return false
		}
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, r)
		head := rec.Header().Clone()
		body := change(head, rec.Body.Bytes())
		maps.Copy(w.Header(), head)
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body)
		return true
	}
}

// sendsTo sends whoever asks for a blob elsewhere.
func sendsTo(address string) badly {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, address, http.StatusTemporaryRedirect)
		return true
	}
}

// inPieces gives a blob changed, and without saying how long it is.
func inPieces(change func([]byte) []byte) badly {
	whole := changed("/blobs/", func(_ http.Header, b []byte) []byte { return change(b) })
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) bool {
		rec := httptest.NewRecorder()
		if !whole(rec, r, good) {
			return false
		}
		w.WriteHeader(rec.Code)
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(rec.Body.Bytes())
		return true
	}
}

// testBadRegistries pulls from and pushes to registries that misbehave: each is named
// with what it did, and leaves nothing.
func testBadRegistries(t *testing.T, s *image.Store) {
	img := sample(t)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	wrongType := changed("/manifests/", func(h http.Header, b []byte) []byte {
		h.Set("Content-Type", "text/html")
		return b
	})
	for what, c := range map[string]struct {
		bad  badly
		code model.Code
		says string
	}{
		"500 for a manifest":      {answers(http.MethodGet, "/manifests/", 500), model.Unavailable, "500"},
		"500 for a blob":          {answers(http.MethodGet, "/blobs/", 500), model.Unavailable, "500"},
		"401":                     {answers(http.MethodGet, "/manifests/", 401), model.Denied, "refuses"},
		"403 for a blob":          {answers(http.MethodGet, "/blobs/", 403), model.Denied, "refuses"},
		"404 for a blob":          {answers(http.MethodGet, "/blobs/", 404), model.NotFound, ""},
		"a page for a manifest":   {changed("/manifests/", func(h http.Header, _ []byte) []byte { h.Del("Content-Length"); return []byte("<html>") }), model.Invalid, "digest"},
		"a wrong type":            {wrongType, model.Invalid, "text/html"},
		"another digest":          {changed("/manifests/", func(h http.Header, b []byte) []byte { h.Del("Content-Length"); return append(b, ' ') }), model.Invalid, "digest"},
		"half a manifest":         {changed("/manifests/", func(_ http.Header, b []byte) []byte { return b[:len(b)/2] }), model.Unavailable, ""},
		"half a blob":             {changed("/blobs/", func(_ http.Header, b []byte) []byte { return b[:len(b)/2] }), model.Unavailable, ""},
		"a blob of another size":  {changed("/blobs/", func(h http.Header, b []byte) []byte { h.Del("Content-Length"); return append(b, ' ') }), model.Invalid, ""},
		"a blob in a private net": {sendsTo("http://10.255.255.1/"), model.Denied, "private network"},
		"half a blob, of no size": {changed("/blobs/", func(h http.Header, b []byte) []byte { h.Del("Content-Length"); return b[:len(b)/2] }), model.Invalid, "in the manifest"},
		"half a blob, in pieces":  {inPieces(func(b []byte) []byte { return b[:len(b)/2] }), model.Invalid, "does not match"},
		"other bytes, in pieces":  {inPieces(func(b []byte) []byte { return append([]byte("x"), b[1:]...) }), model.Invalid, "does not match"},
	} {
		t.Run("pull, "+what, func(t *testing.T) {
			clear(t, s)
			host := serveBadly(t, c.bad, func(host string) {
				push(t, host+"/x/one:1", func(r name.Reference) error { return remote.Write(r, img) })
			})
			_, err := s.Pull(t.Context(), host+"/x/one@"+d.String(), quiet)
			wantError(t, err, c.code, c.says)
			nothingIsLeft(t, s)
		})
	}
	clear(t, s)
	source := serveBadly(t, nil, func(host string) {
		push(t, host+"/x/one:1", func(r name.Reference) error { return remote.Write(r, img) })
	})
	here, err := s.Pull(t.Context(), source+"/x/one:1", quiet)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		bad  badly
		code model.Code
		says string
	}{
		"as it should":              {nil, "", ""},
		"500 for an upload":         {answers(http.MethodPost, "/uploads/", 500), model.Unavailable, "500"},
		"500 for a manifest":        {answers(http.MethodPut, "/manifests/", 500), model.Unavailable, "500"},
		"403":                       {answers(http.MethodPost, "/uploads/", 403), model.Denied, "refuses"},
		"takes it and has it not":   {answers(http.MethodHead, "/manifests/sha256", 404), model.Unavailable, "404"},
		"the second time it is not": {firstFails(), "", ""},
	} {
		t.Run("push, "+what, func(t *testing.T) {
			host := serveBadly(t, c.bad, nil)
			to, err := name.NewTag(host+"/y/one:1", name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Push(t.Context(), here.Digest, to, fast()...)
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, c.code, c.says)
		})
	}
}

// fast is how registries are spoken to, without the pauses.
func fast() []remote.Option {
	return append(image.Reach(authn.DefaultKeychain, image.Transport()), remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 3}))
}

// firstFails fails each upload once, for the moment.
func firstFails() badly {
	failed := false
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == http.MethodPost && !failed {
			failed = true
			http.Error(w, "wait", http.StatusServiceUnavailable)
			return true
		}
		return false
	}
}

// serveBadly serves a registry that misbehaves once it is filled.
func serveBadly(t *testing.T, bad badly, fill func(host string)) string {
	t.Helper()
	good := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	ready := fill == nil
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ready || bad == nil || !bad(w, r, good) {
			good.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	if fill != nil {
		fill(host)
		ready = true
	}
	return host
}

// TestSilentRegistry: an answer that falls silent ends with a time-out.
func TestSilentRegistry(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "some")
		w.(http.Flusher).Flush()
		<-release
	}))
	defer srv.Close()
	defer close(release)
	client := &http.Client{Transport: image.Stalling(http.DefaultTransport, 50*time.Millisecond)}
	res, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	var timeout interface{ Timeout() bool }
	if !errors.As(err, &timeout) || !timeout.Timeout() || !strings.Contains(err.Error(), "fell silent") {
		t.Errorf("it ended with %v", err)
	}
}
