package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is how large a manifest may be: what the specification asks
// registries to take at least.
const maxManifest = 4 << 20 // bytes

// maxLayers is how many layers an image may have that is pushed beside kiln's own.
const maxLayers = 1000

// maxEntry is how large an entry of a list of referrers may be; what is larger is
// listed without its annotations, which the manifest has.
const maxEntry = 32 << 10 // bytes

// referrersRoot is where the storage has a descriptor of each manifest that refers
// to another: referrersRoot/REPOSITORY/_subjects/sha256/SUBJECT/sha256/MANIFEST.
// One object for each, so that nobody has to rewrite a list.
const referrersRoot = "/kiln/referrers/v1"

func subjectPath(name string, subject digest.Digest) string {
	return path.Join(referrersRoot, name, "_subjects", string(subject.Algorithm()), subject.Encoded())
}

func referrerPath(name string, subject, manifest digest.Digest) string {
	return path.Join(subjectPath(name, subject), string(manifest.Algorithm()), manifest.Encoded())
}

// manifest is what matters here of an image's or an index's manifest.
type manifest struct {
	Version      int                  `json:"schemaVersion"`
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// flaw says why it cannot be a manifest, or nil: distribution takes some of that for
// a failure of its own.
func (m manifest) flaw() error {
	if m.Version != 2 {
		return fmt.Errorf("its schemaVersion is %d, and has to be 2", m.Version)
	}
	named := slices.Concat(m.Layers, m.Manifests)
	for _, d := range []*ocispec.Descriptor{m.Config, m.Subject} {
		if d != nil {
			named = append(named, *d)
		}
	}
	for _, d := range named {
		if d.Digest.Validate() != nil {
			return fmt.Errorf("it names %q, which is no digest", d.Digest)
		}
		if d.Size < 0 {
			return fmt.Errorf("it says that %s has %d bytes", d.Digest, d.Size)
		}
	}
	return nil
}

// descriptor describes the manifest as an entry of a list of referrers.
func (m manifest) descriptor(raw []byte, mediaType string) ocispec.Descriptor {
	d := ocispec.Descriptor{
		MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
	if d.MediaType == "" {
		d.MediaType = mediaType
	}
	if d.ArtifactType == "" && m.Config != nil {
		d.ArtifactType = m.Config.MediaType
	}
	return d
}

// putManifest stores a manifest, and notes what it refers to before the client is
// told that it is stored.
func (f *front) putManifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	raw, err := io.ReadAll(io.LimitReader(req.Body, maxManifest+1))
	if err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "the manifest did not come whole: "+err.Error())
		return
	}
	if len(raw) > maxManifest {
		fail(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", fmt.Sprintf("a manifest has at most %d bytes", maxManifest))
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(raw))
	var m manifest
	if err = json.Unmarshal(raw, &m); err == nil {
		err = m.flaw()
	}
	if err != nil {
		if f.mayWrite(w, req, name, ref) {
			fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "this is no manifest: "+err.Error())
		}
		return
	}
	if f.registry.own.has(name) {
		switch {
		case !f.mayWrite(w, req, name, ref):
			return
		case len(m.Layers) > maxLayers:
			fail(w, http.StatusBadRequest, "MANIFEST_INVALID", fmt.Sprintf("an image has at most %d layers", maxLayers))
			return
		case f.guarded(w, req, name, ref):
			return
		}
		if err := f.bring(req, name, m); err != nil {
			f.registry.log.Error("a layer of kiln's own cannot be copied for a pushed image", "repository", name, "error", err)
			fail(w, http.StatusInternalServerError, "UNKNOWN", "a layer that is here could not be copied: "+err.Error())
			return
		}
	}
	if m.Subject == nil || !validName(name) {
		f.app.ServeHTTP(w, req) // it refers to nothing, or is refused there
		return
	}
	defer f.registry.repositories.take(name)()
	out := &held{ResponseWriter: w}
	f.app.ServeHTTP(out, req)
	if out.status == http.StatusCreated {
		d := m.descriptor(raw, req.Header.Get("Content-Type"))
		if err := f.registry.addReferrer(req.Context(), name, m.Subject.Digest, d); err != nil {
			f.registry.log.Error("what refers to a manifest cannot be noted", "repository", name, "manifest", string(d.Digest), "error", err)
			fail(w, http.StatusInternalServerError, "UNKNOWN", "the manifest is stored; what it refers to could not be noted: push it again")
			return
		}
		w.Header().Set("OCI-Subject", string(m.Subject.Digest))
	}
	out.release()
}

func (r *Registry) addReferrer(ctx context.Context, name string, subject digest.Digest, d ocispec.Descriptor) error {
	text, err := json.Marshal(d)
	if len(text) > maxEntry {
		d.Annotations = nil
		text, err = json.Marshal(d)
	}
	if err != nil {
		return err
	}
	return r.storage.PutContent(ctx, referrerPath(name, subject, d.Digest), text)
}

// deleteManifest deletes a manifest, and what was noted of it.
func (f *front) deleteManifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	if f.registry.own.has(name) && (!f.mayWrite(w, req, name, ref) || f.guarded(w, req, name, ref)) {
		return
	}
	d, err := digest.Parse(ref)
	if err != nil || !validName(name) { // of a tag nothing was noted
		f.app.ServeHTTP(w, req)
		return
	}
	defer f.registry.repositories.take(name)()
	subject := f.subjectOf(req, name, d)
	out := &held{ResponseWriter: w}
	f.app.ServeHTTP(out, req)
	if out.status == http.StatusAccepted && subject != "" {
		err := f.registry.storage.Delete(req.Context(), referrerPath(name, subject, d))
		if err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
			f.registry.log.Warn("a manifest was deleted and is still listed as a referrer", "repository", name, "manifest", ref, "error", err)
		}
	}
	out.release()
}

// subjectOf returns what a stored manifest refers to, as the client that asks may
// read it; "": nothing.
func (f *front) subjectOf(req *http.Request, name string, d digest.Digest) digest.Digest {
	out := f.ask(req, http.MethodGet, "/v2/"+name+"/manifests/"+string(d))
	var m manifest
	if out.status != http.StatusOK || json.Unmarshal(out.body.Bytes(), &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return ""
	}
	return m.Subject.Digest
}

// serveReferrers answers what refers to a manifest, which need not be there.
func (f *front) serveReferrers(w http.ResponseWriter, req *http.Request, name, ref string) {
	subject, err := digest.Parse(ref)
	switch {
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "referrers can only be asked for")
		return
	case !validName(name):
		fail(w, http.StatusBadRequest, "NAME_INVALID", "this is no name of a repository")
		return
	case err != nil:
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "this is no digest: "+err.Error())
		return
	}
	// Who may not pull here may not ask this either.
	if out := f.ask(req, http.MethodHead, "/v2/"+name+"/manifests/"+ref); out.status != http.StatusOK && out.status != http.StatusNotFound {
		out.copyTo(w)
		return
	}
	list, err := f.registry.referrers(req.Context(), name, subject)
	if err != nil {
		f.registry.log.Error("referrers cannot be listed", "repository", name, "subject", ref, "error", err)
		fail(w, http.StatusInternalServerError, "UNKNOWN", "the referrers cannot be read")
		return
	}
	if kind := req.URL.Query().Get("artifactType"); kind != "" {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != kind })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	text, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	if req.Method == http.MethodGet {
		_, _ = w.Write(text) // the client may be gone
	}
}

// referrers lists what refers to the subject, by digest.
func (r *Registry) referrers(ctx context.Context, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	list := []ocispec.Descriptor{}
	algorithms, err := r.list(ctx, subjectPath(name, subject))
	if err != nil {
		return nil, err
	}
	for _, algorithm := range algorithms {
		entries, err := r.list(ctx, algorithm)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			text, err := r.storage.GetContent(ctx, entry)
			if errors.As(err, new(driver.PathNotFoundError)) {
				continue // deleted meanwhile
			}
			if err != nil {
				return nil, err
			}
			var d ocispec.Descriptor
			if err := json.Unmarshal(text, &d); err != nil {
				return nil, fmt.Errorf("%s: %w", entry, err)
			}
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return list, nil
}

func (r *Registry) list(ctx context.Context, path string) ([]string, error) {
	entries, err := r.storage.List(ctx, path)
	if errors.As(err, new(driver.PathNotFoundError)) {
		return nil, nil
	}
	return entries, err
}
