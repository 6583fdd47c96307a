package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"path"
	"regexp"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// uploadPath is where an upload goes on, ends, or is given up.
var uploadPath = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/([0-9a-fA-F-]{36})$`)

// uploadPurging removes what uploads that broke off have left. Until then they may
// be gone on with.
var uploadPurging = configuration.Parameters{
	"uploadpurging": map[any]any{"enabled": true, "age": "24h", "interval": "1h", "dryrun": false},
}

// repositoriesRoot is where distribution keeps what is known of repositories
// (https://distribution.github.io/distribution, registry/storage/paths.go).
const repositoriesRoot = "/docker/registry/v2/repositories"

// secretPath is where the storage has what seals the state of uploads, which clients
// carry: with the same one, uploads go on after a restart.
const secretPath = "/kiln/uploads.secret"

// secretOfUploads is a new one where none is kept; where it cannot be kept, uploads
// begin anew after a restart.
func (r *Registry) secretOfUploads(ctx context.Context) string {
	kept, err := r.storage.GetContent(ctx, secretPath)
	if err == nil && len(kept) > 0 {
		return string(kept)
	}
	secret := rand.Text() + rand.Text()
	if err == nil || errors.As(err, new(driver.PathNotFoundError)) {
		err = r.storage.PutContent(ctx, secretPath, []byte(secret))
	}
	if err != nil {
		r.log.Warn("uploads to the registry will not go on after a restart", "error", err)
	}
	return secret
}

// endUpload passes the end of an upload on, or that it is given up. What came and
// is not what its digest says, is removed at once: distribution leaves that, and
// some of what was given up.
func (f *front) endUpload(w http.ResponseWriter, req *http.Request, name, id string) {
	out := &held{ResponseWriter: w}
	f.app.ServeHTTP(out, req)
	_, err := digest.Parse(req.URL.Query().Get("digest"))
	refused := req.Method == http.MethodPut && out.status == http.StatusBadRequest && err == nil && bytes.Contains(out.body.Bytes(), []byte(`"DIGEST_INVALID"`))
	if givenUp := req.Method == http.MethodDelete && out.status == http.StatusNoContent; (refused || givenUp) && validName(name) {
		f.registry.removeUpload(context.WithoutCancel(req.Context()), name, id)
	}
	out.release()
}

func (r *Registry) removeUpload(ctx context.Context, name, id string) {
	err := r.storage.Delete(ctx, path.Join(repositoriesRoot, name, "_uploads", id))
	if err != nil && !errors.As(err, new(driver.PathNotFoundError)) {
		r.log.Warn("what is left of an upload cannot be removed", "repository", name, "upload", id, "error", err)
	}
}
