package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3/manifest/manifestlist"
	"github.com/distribution/distribution/v3/manifest/schema2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// held keeps an answer back until it is released.
type held struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (h *held) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

// Write implements http.ResponseWriter.
func (h *held) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(p)
}

// release sends the answer.
func (h *held) release() {
	h.WriteHeader(http.StatusOK)
	h.ResponseWriter.WriteHeader(h.status)
	_, _ = h.ResponseWriter.Write(h.body.Bytes()) // the client may be gone
}

// reply is the answer to a request that the registry makes of itself.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// ask makes a request in the name of the one that is being answered: with its
// credentials.
func (f *front) ask(of *http.Request, method, path string) *reply {
	return f.send(of, method, path, nil, 0)
}

// send is ask with a body of so many bytes, and perhaps with a query.
func (f *front) send(of *http.Request, method, path string, body io.Reader, size int64) *reply {
	req := of.Clone(of.Context())
	req.Method, req.Body, req.ContentLength = method, http.NoBody, size
	if body != nil {
		req.Body = io.NopCloser(body)
		req.Header.Set("Content-Length", strconv.FormatInt(size, 10))
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	req.RequestURI = path
	path, query, _ := strings.Cut(path, "?")
	req.URL.Path, req.URL.RawPath, req.URL.RawQuery = path, "", query
	req.Form, req.PostForm = nil, nil
	req.Header.Del("Range")
	req.Header.Del("If-None-Match")
	req.Header["Accept"] = manifestTypes
	out := &reply{header: http.Header{}}
	f.app.ServeHTTP(out, req)
	return out
}

// manifestTypes are all that a manifest may be: distribution does not take */* for
// them.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, schema2.MediaTypeManifest, manifestlist.MediaTypeManifestList,
}

// Header implements http.ResponseWriter.
func (r *reply) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *reply) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

// Write implements http.ResponseWriter.
func (r *reply) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

func (r *reply) copyTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.header)
	r.WriteHeader(http.StatusOK)
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body.Bytes()) // the client may be gone
}

// fail answers with an error of the specification's form.
func fail(w http.ResponseWriter, status int, code, message string) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Del("Content-Length")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]problem{"errors": {{code, message}}}) // the client may be gone
}
