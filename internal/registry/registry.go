// Package registry serves images by the OCI distribution specification
// (https://github.com/opencontainers/distribution-spec, version 1.1): the handler
// of the distribution project, with what that lacks in front of it. These are the
// referrers API, for what is attached to an image, and bytes that are compared
// with their digest on their way out.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/distribution/reference"

	"kiln/internal/model"
)

// Config says where a registry keeps its content, and whom it serves.
type Config struct {
	// File is what an operator has configured, as ReadFile returns it; nil: nobody
	// but who may use Handler is served.
	File *File
	// Dir is where the content is, unless the file says otherwise.
	Dir string
	// Images are kiln's own; nil: there are none.
	Images Images
	// Room says why nothing more fits on the disk that Dir is on; nil: it does, or
	// nobody looks.
	Room func() error
	Log  *slog.Logger
}

// Registry is an OCI registry.
type Registry struct {
	storage      driver.StorageDriver
	own          *own // nil: there are none
	file         *File
	log          *slog.Logger
	inside       *front
	outside      *front // nil: nobody else is served
	repositories locks  // one change of what refers to a manifest at a time
	changes      changes
	alone        bool // nobody else uses the storage
	room         func() error
	secret       string // under which clients carry the state of their uploads
}

// Open returns the registry. Close ends what it does by itself.
//
// Invalid: the configuration is wrong, or the storage cannot be used.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	storage, alone := configuration.Storage{"filesystem": configuration.Parameters{"rootdirectory": cfg.Dir}}, true
	if cfg.File != nil && cfg.File.Storage != nil {
		storage, alone = cfg.File.Storage, false
	}
	kept, err := factory.Create(ctx, storage.Type(), storage.Parameters())
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot open the registry's storage %q: %w", storage.Type(), err)
	}
	logTo(cfg.Log)
	r := &Registry{storage: kept, alone: alone, room: cfg.Room, file: cfg.File, log: cfg.Log, repositories: locks{held: map[string]*lock{}}}
	r.changes.deleted, r.changes.last = true, time.Now() // perhaps: nobody remembers
	r.secret = r.secretOfUploads(ctx)
	if cfg.Images != nil {
		r.own = &own{Images: cfg.Images}
	}
	if r.inside, err = r.newFront(ctx, &configuration.Configuration{}, storage); err != nil {
		return nil, err
	}
	r.inside.push = true
	if cfg.File == nil || cfg.File.Address() == "" {
		return r, nil
	}
	public := cfg.File.Configuration
	if r.outside, err = r.newFront(ctx, &public, storage); err != nil {
		return nil, err
	}
	r.outside.push = cfg.File.Push
	return r, nil
}

// newFront makes distribution's handler, which panics where its configuration is
// wrong, and what stands in front of it.
func (r *Registry) newFront(ctx context.Context, c *configuration.Configuration, storage configuration.Storage) (f *front, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = model.Errorf(model.Invalid, "cannot open the registry: %s", fmt.Sprint(p))
		}
	}()
	c.Storage = configuration.Storage{
		storage.Type(): storage.Parameters(),
		"maintenance":  uploadPurging,
		"delete":       configuration.Parameters{"enabled": true},
		"redirect":     configuration.Parameters{"disable": true}, // what comes from elsewhere is not verified
	}
	c.Catalog.MaxEntries, c.Tags.MaxTags = pageOfNames, pageOfNames
	c.HTTP.Secret = r.secret
	// An index may come before what it names, and name what is elsewhere.
	c.Validation.Manifests.Indexes.Platforms = "none"
	return &front{registry: r, app: handlers.NewApp(ctx, c)}, nil
}

// pageOfNames is how many repositories or tags are listed at most at a time.
const pageOfNames = 1000

// Handler serves whoever reaches it, for the paths below /v2/, without asking who
// that is.
func (r *Registry) Handler() http.Handler { return r.inside }

// Public serves others, as the operator has configured it: with authentication
// where that is asked for, read-only unless it is said. nil: nobody.
func (r *Registry) Public() http.Handler {
	if r.outside == nil {
		return nil
	}
	return r.outside
}

// Close ends what the registry does by itself.
func (r *Registry) Close() error {
	err := r.inside.app.Shutdown()
	if r.outside != nil {
		err = errors.Join(err, r.outside.app.Shutdown())
	}
	return err
}

// front stands in front of distribution's handler.
type front struct {
	registry *Registry
	app      *handlers.App
	push     bool // content may be changed
}

// The paths of the specification's end points that are more than passed on.
var (
	manifestPath  = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
	blobPath      = regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`)
	referrersPath = regexp.MustCompile(`^/v2/(.+)/referrers/([^/]+)$`)
)

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch {
	case req.Method == http.MethodGet || req.Method == http.MethodHead:
		f.read(w, req)
	case f.push:
		defer f.registry.changes.begin(req.Method)()
		f.change(w, req)
	default:
		fail(w, http.StatusForbidden, "DENIED", "this registry is read-only for others than its own kiln")
	}
}

// read answers GET and HEAD.
func (f *front) read(w http.ResponseWriter, req *http.Request) {
	own, path, get := f.registry.own, req.URL.Path, req.Method == http.MethodGet
	if m := referrersPath.FindStringSubmatch(path); m != nil {
		f.serveReferrers(w, req, m[1], m[2])
		return
	}
	if m := tagsPath.FindStringSubmatch(path); m != nil && get && own.has(m[1]) {
		f.serveList(w, req, "tags", slices.Collect(maps.Keys(own.Repository(m[1]).Tags)), true, map[string]any{"name": m[1]})
		return
	}
	if path == catalogPath && get && own != nil {
		f.serveList(w, req, "repositories", own.Repositories(), false, map[string]any{})
		return
	}
	find, m := own.manifest, manifestPath.FindStringSubmatch(path)
	if m == nil {
		find, m = own.blob, blobPath.FindStringSubmatch(path)
	}
	if m != nil && own.has(m[1]) {
		if !f.mayRead(w, req, m[1]) {
			return
		}
		if p, mine := find(req.Context(), m[1], m[2]); mine {
			f.serveOwn(w, req, p)
			return
		}
	}
	if m != nil && get {
		w = f.registry.verified(w, m[2])
	}
	f.app.ServeHTTP(w, req)
}

// change answers every other method, of who may change what is here.
func (f *front) change(w http.ResponseWriter, req *http.Request) {
	path, put, remove := req.URL.Path, req.Method == http.MethodPut, req.Method == http.MethodDelete
	if f.registry.alone && f.registry.room != nil && !remove {
		if err := f.registry.room(); err != nil {
			fail(w, http.StatusInsufficientStorage, "UNKNOWN", err.Error())
			return
		}
	}
	if m := referrersPath.FindStringSubmatch(path); m != nil {
		f.serveReferrers(w, req, m[1], m[2])
	} else if m := manifestPath.FindStringSubmatch(path); m != nil && put {
		f.putManifest(w, req, m[1], m[2])
	} else if m != nil && remove {
		f.deleteManifest(w, req, m[1], m[2])
	} else if m := uploadPath.FindStringSubmatch(path); m != nil && (put || remove) {
		f.endUpload(w, req, m[1], m[2])
	} else {
		f.app.ServeHTTP(w, req)
	}
}

// validName reports whether the text is a repository's name.
func validName(name string) bool {
	named, err := reference.WithName(name)
	return err == nil && named.Name() == name
}
