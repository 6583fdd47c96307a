package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// Images are the images that are shown beside what was pushed: kiln's own. They
// are read from where kiln keeps them, so that they are there once, and go when
// kiln removes them. Nobody can change them here.
type Images interface {
	// Repositories returns the names of those that have one, in order.
	Repositories() []string
	// Repository returns the images of one; the zero value: it has none.
	Repository(name string) Repository
	// Parts returns the parts of an image, its manifest first. NotFound: it is not
	// here.
	Parts(ctx context.Context, d model.Digest) ([]Part, error)
	// Open opens a part. NotFound: it is not here any more. Who asked closes it.
	Open(ctx context.Context, p Part) (Content, error)
}

// Repository is the images of one name.
type Repository struct {
	Images []model.Digest          // all of them
	Tags   map[string]model.Digest // what they are called
}

// Part is a part of an image: its manifest, its configuration, or a layer.
type Part struct {
	Digest    model.Digest
	MediaType string
	Size      int64 // bytes
}

// Content is the bytes of a part.
type Content interface {
	io.ReaderAt
	io.Closer
}

// partsKept is how many images' parts are remembered: they never change.
const partsKept = 4096

// own is kiln's images as the front asks for them.
type own struct {
	Images
	mu    sync.Mutex
	known map[model.Digest][]Part
}

// has reports whether the repository has any of them.
func (o *own) has(name string) bool {
	return o != nil && validName(name) && len(o.Repository(name).Images) > 0
}

// manifest finds the manifest that a tag or a digest of the repository names.
func (o *own) manifest(ctx context.Context, name, ref string) (Part, bool) {
	if o == nil {
		return Part{}, false
	}
	images := o.Repository(name)
	d, tagged := images.Tags[ref]
	if !tagged {
		d = model.Digest(ref)
		if !slices.Contains(images.Images, d) {
			return Part{}, false
		}
	}
	parts, err := o.parts(ctx, d)
	if err != nil {
		return Part{}, false
	}
	return parts[0], true
}

// blob finds a part of one of the repository's images.
func (o *own) blob(ctx context.Context, name, ref string) (Part, bool) {
	if o == nil {
		return Part{}, false
	}
	for _, d := range o.Repository(name).Images {
		parts, err := o.parts(ctx, d)
		if err != nil {
			continue // it is being removed
		}
		if i := slices.IndexFunc(parts, func(p Part) bool { return string(p.Digest) == ref }); i >= 0 {
			return parts[i], true
		}
	}
	return Part{}, false
}

func (o *own) parts(ctx context.Context, d model.Digest) ([]Part, error) {
	o.mu.Lock()
	parts, known := o.known[d]
	o.mu.Unlock()
	if known {
		return parts, nil
	}
	parts, err := o.Parts(ctx, d)
	if err != nil || len(parts) == 0 {
		return nil, cmp.Or[error](err, model.Errorf(model.NotFound, "image %s has no parts", d))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = map[model.Digest][]Part{}
	}
	for old := range o.known {
		if len(o.known) < partsKept {
			break
		}
		delete(o.known, old)
	}
	o.known[d] = parts
	return parts, nil
}

// serveOwn answers with a part of one of kiln's own images, to who may read here.
func (f *front) serveOwn(w http.ResponseWriter, req *http.Request, p Part) {
	content, err := f.registry.own.Open(req.Context(), p)
	if err != nil {
		if model.CodeOf(err) == model.NotFound {
			fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "kiln does not have it any more: "+string(p.Digest))
			return
		}
		f.registry.log.Error("an image cannot be read", "digest", string(p.Digest), "error", err)
		fail(w, http.StatusInternalServerError, "UNKNOWN", "it cannot be read")
		return
	}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Type", p.MediaType)
	h.Set("Docker-Content-Digest", string(p.Digest))
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("Etag", strconv.Quote(string(p.Digest)))
	if req.Method == http.MethodGet {
		w = f.registry.verified(w, string(p.Digest))
	}
	http.ServeContent(w, req, "", time.Time{}, io.NewSectionReader(content, 0, p.Size))
}

// mayRead asks distribution, which knows whom the operator lets read, whether the
// client may do so in the repository. What it answers otherwise is passed on.
func (f *front) mayRead(w http.ResponseWriter, req *http.Request, name string) bool {
	if f == f.registry.inside {
		return true
	}
	out := f.ask(req, http.MethodHead, "/v2/"+name+"/blobs/"+string(digest.FromString("")))
	if out.status == http.StatusOK || out.status == http.StatusNotFound {
		return true
	}
	out.copyTo(w)
	return false
}

// mayWrite asks likewise whether the client may push to the repository: what is no
// manifest is refused as such to who may.
func (f *front) mayWrite(w http.ResponseWriter, req *http.Request, name, ref string) bool {
	if f == f.registry.inside {
		return true
	}
	out := f.send(req, http.MethodPut, "/v2/"+name+"/manifests/"+ref, strings.NewReader(""), 0)
	if out.status == http.StatusUnauthorized || out.status == http.StatusForbidden {
		out.copyTo(w)
		return false
	}
	return true
}

// bring copies what a manifest names, and only kiln has, to where distribution
// looks for it: a client that was told that a layer is here does not send it.
func (f *front) bring(req *http.Request, name string, m manifest) error {
	if !f.registry.own.has(name) {
		return nil
	}
	for _, d := range m.parts() {
		if err := req.Context().Err(); err != nil {
			return err
		}
		path := "/v2/" + name + "/blobs/" + string(d)
		if f.ask(req, http.MethodHead, path).status == http.StatusOK {
			continue
		}
		p, found := f.registry.own.blob(req.Context(), name, string(d))
		if !found {
			continue // distribution refuses the manifest
		}
		if err := f.copyPart(req, name, p); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	return nil
}

// copyPart uploads a part in the name of the client, at once.
func (f *front) copyPart(of *http.Request, name string, p Part) error {
	content, err := f.registry.own.Open(of.Context(), p)
	if err != nil {
		return err
	}
	defer content.Close()
	out := f.send(of, http.MethodPost, "/v2/"+name+"/blobs/uploads/", nil, 0)
	at, err := url.Parse(out.header.Get("Location"))
	if out.status != http.StatusAccepted || err != nil {
		return fmt.Errorf("it cannot be taken in: %s", out.body.String())
	}
	query := at.Query()
	query.Set("digest", string(p.Digest))
	out = f.send(of, http.MethodPut, at.Path+"?"+query.Encode(), io.NewSectionReader(content, 0, p.Size), p.Size)
	if out.status != http.StatusCreated {
		return fmt.Errorf("it cannot be taken in: %s", out.body.String())
	}
	return nil
}

// The paths of lists.
var tagsPath = regexp.MustCompile(`^/v2/(.+)/tags/list$`)

const catalogPath = "/v2/_catalog"

// serveList answers with a list in which kiln's own names are, too; there: even
// where distribution has nothing. Pages are as
// the specification says: n names after last, in lexical order.
func (f *front) serveList(w http.ResponseWriter, req *http.Request, key string, mine []string, there bool, head map[string]any) {
	listed := slices.Clone(mine)
	for path := req.URL.Path + "?n=" + strconv.Itoa(pageOfNames); path != ""; {
		out := f.ask(req, http.MethodGet, path)
		if out.status == http.StatusNotFound && there {
			break
		}
		var page map[string]json.RawMessage
		var names []string
		if out.status != http.StatusOK || json.Unmarshal(out.body.Bytes(), &page) != nil || json.Unmarshal(page[key], &names) != nil {
			out.copyTo(w)
			return
		}
		listed = append(listed, names...)
		path = ""
		if out.header.Get("Link") != "" && len(names) > 0 {
			path = req.URL.Path + "?n=" + strconv.Itoa(pageOfNames) + "&last=" + url.QueryEscape(names[len(names)-1])
		}
	}
	slices.Sort(listed)
	listed = slices.Compact(listed)
	query := req.URL.Query()
	if last := query.Get("last"); last != "" {
		listed = slices.DeleteFunc(listed, func(name string) bool { return name <= last })
	}
	n := pageOfNames
	if text := query.Get("n"); text != "" {
		wanted, err := strconv.Atoi(text)
		if err != nil || wanted < 0 {
			fail(w, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is not a number of names: "+text)
			return
		}
		n = min(wanted, pageOfNames)
	}
	if n > 0 && len(listed) > n {
		listed = listed[:n]
		w.Header().Set("Link", fmt.Sprintf(`<%s?n=%d&last=%s>; rel="next"`, req.URL.Path, n, url.QueryEscape(listed[n-1])))
	}
	answer := maps.Clone(head)
	answer[key] = append([]string{}, listed[:min(n, len(listed))]...) // a list, if an empty one
	text, err := json.Marshal(answer)
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // the client may be gone
}

// guarded refuses what would change one of kiln's own images or their tags, and
// reports whether it did.
func (f *front) guarded(w http.ResponseWriter, req *http.Request, name, ref string) bool {
	if _, mine := f.registry.own.manifest(req.Context(), name, ref); !mine {
		return false
	}
	if _, err := digest.Parse(ref); err == nil && req.Method == http.MethodPut {
		return false // the same bytes
	}
	fail(w, http.StatusForbidden, "DENIED", fmt.Sprintf("%s of %s is one of this kiln's own images: it is not changed from outside", ref, name))
	return true
}

// parts are the digests of what a manifest is made of.
func (m manifest) parts() []digest.Digest {
	var list []digest.Digest
	for _, d := range append([]ocispec.Descriptor{}, m.Layers...) {
		list = append(list, d.Digest)
	}
	if m.Config != nil {
		list = append(list, m.Config.Digest)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(d digest.Digest) bool { return d.Validate() != nil || strings.ContainsAny(string(d), "/?#") })
}
