package daemon

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"kiln/internal/api"
	"kiln/internal/engine"
	"kiln/internal/layers"
	"kiln/internal/leaks"
	"kiln/internal/model"
	"kiln/internal/registry"
	"kiln/internal/sign"
	"kiln/internal/source"
)

// sources keeps what images were made from beside them in the registry: an archive as
// a referrer, and a signed statement that names it.
type sources struct {
	d       *daemon
	mu      sync.Mutex // one that is all here is judged and kept at a time
	keeping underway   // those that are about to be
}

// Lacks implements server.Sources. It is asked at the end of every build: nothing
// large is read for it.
func (s *sources) Lacks(ctx context.Context, d model.Digest) bool {
	img := s.d.signer.image(d)
	if img.Source != "build" || len(img.Services) == 0 || !img.RemovedAt.IsZero() {
		return false
	}
	said := slices.ContainsFunc(img.Statements, func(a model.Statement) bool { return a.Type == model.SourceType })
	if !said {
		return true
	}
	for _, repository := range img.Services {
		at, err := inRegistry(repository, d)
		if err != nil {
			return false
		}
		attached, err := sign.List(ctx, at, s.d.signer.reach()...)
		if err != nil {
			return false // nothing could be kept either
		}
		if !slices.ContainsFunc(attached, func(a sign.Attachment) bool {
			return a.PredicateType == model.SourceType && s.has(ctx, repository, string(a.Bundle))
		}) {
			continue
		}
		kept, err := s.artifacts(ctx, at)
		if err != nil {
			return false
		}
		for _, a := range kept {
			if s.has(ctx, repository, a.Annotations[annotationArchive]) {
				return false
			}
		}
	}
	return true
}

// has reports whether a repository has a blob.
func (s *sources) has(ctx context.Context, repository, digest string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+registry.Host+"/v2/"+repository+"/blobs/"+digest, http.NoBody)
	if err != nil || !model.ValidDigest(digest) {
		return false
	}
	resp, err := s.d.registry.Transport().RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Keep implements server.Sources. When it returns nil the archive is here, and may be
// kept; who builds does not wait until it is, for that is disks alone. Who asks for it
// does, and what the daemon's end prevents the next build makes up for.
func (s *sources) Keep(ctx context.Context, img model.Image, head api.SourceHead, archive io.Reader) (api.Source, error) {
	head.Config.Version = 1
	src := api.Source{Image: img.Digest, Config: head.Config}
	if err := sane(img, head.Config); err != nil {
		return src, err
	}
	if made := img.MadeFor(head.Config.Service); made != nil {
		src.Commit, src.Dirty = made.Commit, made.Dirty
	}
	spooled, err := s.spool(archive)
	if err != nil {
		return src, err
	}
	s.mu.Lock()
	done := func() {
		s.mu.Unlock()
		spooled.Close()
	}
	if !s.Lacks(ctx, img.Digest) {
		done()
		return src, nil // another build was faster
	}
	if err := spooled.judge(ctx, &src, head.Allow); err != nil {
		done()
		return src, err
	}
	_, _, kept := s.keeping.begin(img.Digest)
	s.d.running.Go(func() {
		defer kept()
		defer done()
		s.d.signer.complain(img.Digest, s.attach(s.d.signer.ctx, src, spooled))
	})
	return src, nil
}

// judge finds out whether the archive is one, and may be kept.
func (a *spooled) judge(ctx context.Context, src *api.Source, allow string) error {
	var extent source.Extent
	var looks errgroup.Group
	looks.Go(func() (err error) {
		extent, err = source.Check(a.reader())
		return err
	})
	found := a.search(ctx, allow)
	src.Archive, src.Size = a.digest, a.size
	err := looks.Wait()
	src.Files, src.Bytes = extent.Files, extent.Bytes
	return cmp.Or(err, found) // what is wrong with it comes before what is in it
}

// attach puts the archive beside its image, and says so under a signature.
func (s *sources) attach(ctx context.Context, src api.Source, archive *spooled) error {
	if err := s.push(ctx, src, archive); err != nil {
		return err
	}
	predicate, err := json.Marshal(src)
	if err != nil {
		return model.Errorf(model.Internal, "%w", err)
	}
	_, err = s.d.signer.attest(ctx, src.Image, model.SourceType, predicate)
	return err
}

// sane refuses what no client sends.
func sane(img model.Image, c api.SourceConfig) error {
	if !slices.Contains(img.Services, c.Service) {
		return model.Errorf(model.Invalid, "cannot keep a source of image %s for %s: it was built for %s", img.Digest.Short(), c.Service, strings.Join(img.Services, ", "))
	}
	for _, p := range []string{c.Declaration, c.Context, c.Containerfile} {
		if !filepath.IsLocal(p) {
			return model.Errorf(model.Invalid, "cannot keep a source of image %s: its path %q leads out of it", img.Digest.Short(), p)
		}
	}
	return nil
}

// spooled is an archive in a file without a name: it is gone with the process,
// whatever becomes of that. It is a layer, of whatever type is asked for.
type spooled struct {
	file      *os.File
	size      int64
	digest    model.Digest
	mediaType types.MediaType
}

func (s *sources) spool(archive io.Reader) (*spooled, error) {
	f, err := os.CreateTemp(s.d.cfg.DataDir, "source-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot keep the source: there is no place for a moment's file: %w", err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(archive, source.MaxArchive+1))
	switch {
	case err != nil:
		err = model.Errorf(model.Unavailable, "cannot keep the source: %w", err)
	case n > source.MaxArchive:
		err = model.Errorf(model.Invalid, "cannot keep the source: packed it has more than %s", model.SizeText(source.MaxArchive))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &spooled{file: f, size: n, digest: model.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), mediaType: archiveType}, nil
}

// Close gives the file's room back.
func (a *spooled) Close() { a.file.Close() }

func (a *spooled) reader() io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(a.file, 0, a.size), 256<<10)
}

// Digest implements v1.Layer.
func (a *spooled) Digest() (v1.Hash, error) { return v1.NewHash(string(a.digest)) }

// DiffID implements v1.Layer.
func (a *spooled) DiffID() (v1.Hash, error) {
	plain, err := a.Uncompressed()
	if err != nil {
		return v1.Hash{}, err
	}
	defer plain.Close()
	h, _, err := v1.SHA256(plain)
	return h, err
}

// Compressed implements v1.Layer.
func (a *spooled) Compressed() (io.ReadCloser, error) { return io.NopCloser(a.reader()), nil }

// Uncompressed implements v1.Layer.
func (a *spooled) Uncompressed() (io.ReadCloser, error) { return layers.Unpack(a.reader()) }

// Size implements v1.Layer.
func (a *spooled) Size() (int64, error) { return a.size, nil }

// MediaType implements v1.Layer.
func (a *spooled) MediaType() (types.MediaType, error) { return a.mediaType, nil }

// search looks for what should not be in it, as in images: whoever may read the
// registry may read it.
func (a *spooled) search(ctx context.Context, list string) error {
	allow, err := leaks.ParseAllowed(api.AllowFile, []byte(list))
	if err != nil {
		return err
	}
	layer := *a
	layer.mediaType = types.MediaType("application/vnd.oci.image.layer.v1.tar+zstd")
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &layer)
	if err != nil {
		return model.Errorf(model.Invalid, "cannot look into the source: %w", err)
	}
	report, err := leaks.Search(ctx, img, nil, allow)
	if err != nil {
		return err
	}
	for _, f := range report.Findings {
		if f.Severity != leaks.Refuse {
			continue
		}
		where := strings.TrimPrefix(f.Path, "/")
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", where, f.Line)
		}
		return model.Errorf(model.Precondition, "cannot keep the source: there is in it what should not be kept: %s: %s [%s]", where, f.What, f.Rule).
			WithHint("leave it out of the build's context (.dockerignore), or allow it in %s", api.AllowFile)
	}
	if report.More > 0 {
		return model.Errorf(model.Precondition, "cannot keep the source: so much is found in it that %d findings more are not looked at", report.More).
			WithHint("leave out of the build's context (.dockerignore) what the image does not need")
	}
	return nil
}

// Copy implements server.Sources.
func (s *sources) Copy(ctx context.Context, img model.Image, begin func(api.Source) io.Writer) error {
	s.keeping.settled(ctx, img.Digest)
	attached, err := s.d.signer.attached(ctx, img)
	if err != nil {
		return err
	}
	var why error // the last one that is there cannot be had
	tried := map[model.Digest]bool{}
	for _, a := range attached {
		if a.Type != model.SourceType {
			continue
		}
		if !a.Holds {
			why = model.Errorf(model.Denied, "what says which it is does not hold: %s", a.Trouble)
			continue
		}
		var src api.Source
		if err := json.Unmarshal(a.predicate, &src); err != nil || src.Image != img.Digest || !model.ValidDigest(string(src.Archive)) {
			why = model.Errorf(model.Denied, "what says which it is cannot be understood")
			continue
		}
		if tried[src.Archive] {
			continue
		}
		tried[src.Archive] = true
		// What is damaged is found before anything of it goes out.
		why = s.d.registry.CopyBlob(ctx, src.Config.Service, src.Archive, io.Discard)
		if why == nil {
			return s.d.registry.CopyBlob(ctx, src.Config.Service, src.Archive, begin(src))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if model.CodeOf(why) == model.NotFound {
			why = model.Errorf(model.Precondition, "its source %s is not here: it was lost, or another kiln has it", src.Archive.Short())
		}
	}
	return noSource(img, why)
}

// noSource says why there is no source of an image.
func noSource(img model.Image, why error) error {
	if why != nil {
		return model.Errorf(model.CodeOf(why), "cannot check out image %s: %w", img.Digest.Short(), why).
			WithHint("where its source still is, kiln build keeps it again")
	}
	if img.Source != "build" {
		return model.Errorf(model.NotFound, "cannot check out image %s: it was not built here, and so its source is not here (%s)", img.Digest.Short(), img.Source).
			WithHint("kiln images history shows which images were built here")
	}
	return model.Errorf(model.NotFound, "cannot check out image %s: no source of it is kept", img.Digest.Short()).
		WithHint("the build has said why; an older kiln kept none. Where its source still is, kiln build keeps it")
}

// withSources is the inventory of images, whose sources go with them.
type withSources struct {
	engine.Inventory
	sources *sources
}

// Remove implements engine.Inventory.
func (w withSources) Remove(ctx context.Context, o model.Object) error {
	if err := w.Inventory.Remove(ctx, o); err != nil {
		return err
	}
	if err := w.sources.drop(ctx, model.Digest(o.ID)); err != nil {
		w.sources.d.cfg.Log.Warn("the source of an image that was removed is still there; the next start of the daemon removes it", "image", o.ID, "error", err)
	}
	return nil
}

// asManifest is a manifest as it is pushed.
type asManifest []byte

// RawManifest implements remote.Taggable.
func (m asManifest) RawManifest() ([]byte, error) { return bytes.Clone(m), nil }

// MediaType implements partial.WithMediaType.
func (m asManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
