// Package image keeps images: it imports, pulls, inspects and removes them.
//
// Images live in containerd's content store, in the instance's namespace. Each
// image that kiln knows is a manifest for this machine's platform and has one
// record named by its digest (PinName), which keeps its content from being
// collected and by which the engine finds it, and one record for each human
// name, by which the builder's FROM finds it.
package image

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// Snapshotter is what images are unpacked with.
const Snapshotter = "overlayfs"

// leaseTerm is how long content may lie unreferenced when the process that was
// about to reference it has died.
const leaseTerm = time.Hour

// Config says where images are.
type Config struct {
	Instance model.InstanceID
	RunDir   string         // holds containerd.sock
	DataDir  string         // holds containerd's own
	Keys     authn.Keychain // credentials of registries; nil: those of the user that runs it
	Log      *slog.Logger
}

// Store is the images of an instance. Its methods may be called at once.
type Store struct {
	client    *client.Client
	blobs     string // where containerd has the files
	log       *slog.Logger
	keys      authn.Keychain
	transport http.RoundTripper // to registries
}

// Namespace returns the containerd namespace of the instance.
func Namespace(id model.InstanceID) string { return "kiln-" + string(id) }

// SocketPath returns containerd's socket in the run directory.
func SocketPath(runDir string) string { return filepath.Join(runDir, "containerd.sock") }

// Open connects to the instance's containerd.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	c, err := client.New(SocketPath(cfg.RunDir), client.WithDefaultNamespace(Namespace(cfg.Instance)))
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot reach containerd: %w", err)
	}
	s := &Store{
		client: c, blobs: filepath.Join(cfg.DataDir, "containerd", "io.containerd.content.v1.content", "blobs"),
		log: cfg.Log, keys: cfg.Keys, transport: Transport(),
	}
	if s.keys == nil {
		s.keys = authn.DefaultKeychain
	}
	if _, err := c.Version(s.scoped(ctx)); err != nil {
		_ = c.Close()
		return nil, model.Errorf(model.Unavailable, "cannot reach containerd: %w", err)
	}
	return s, nil
}

// Close releases the connection.
func (s *Store) Close() error { return s.client.Close() }

// scoped returns ctx with the instance's namespace.
func (s *Store) scoped(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.client.DefaultNamespace())
}

// List returns all images, the newest first.
func (s *Store) List(ctx context.Context) ([]model.Image, error) {
	ctx = s.scoped(ctx)
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, unavailable("list images", err)
	}
	names := map[model.Digest][]string{}
	for _, r := range records {
		if !isPin(r.Name) && !isTemporary(r.Name) {
			d := model.Digest(r.Target.Digest)
			names[d] = append(names[d], r.Name)
		}
	}
	var all []model.Image
	for _, r := range records {
		if !isPin(r.Name) {
			continue
		}
		img, err := s.describe(ctx, r, names[model.Digest(r.Target.Digest)])
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b model.Image) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.Digest, b.Digest))
	})
	return all, nil
}

// describe returns what the store knows of an image.
func (s *Store) describe(ctx context.Context, pin images.Image, names []string) (model.Image, error) {
	m, err := s.manifest(ctx, pin.Target)
	if err != nil {
		return model.Image{}, err
	}
	slices.Sort(names)
	return model.Image{
		Digest:    model.Digest(pin.Target.Digest),
		Names:     names,
		CreatedAt: pin.CreatedAt.UTC(),
		Source:    pin.Labels[sourceLabel],
		Size:      sizeOf(pin.Target, m),
	}, nil
}

// manifest reads the manifest that desc names.
func (s *Store) manifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	err := readJSON(ctx, s.client.ContentStore(), desc, &m)
	return m, err
}

func sizeOf(desc ocispec.Descriptor, m ocispec.Manifest) int64 {
	size := desc.Size + m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return size
}

// Delete removes an image and all its names, and gives its space back unless
// other images or the build cache share it. NotFound: there is no such image.
func (s *Store) Delete(ctx context.Context, d model.Digest) error {
	ctx = s.scoped(ctx)
	service := s.client.ImageService()
	records, err := service.List(ctx, "target.digest=="+string(d))
	if err != nil {
		return unavailable("delete image "+d.Short(), err)
	}
	if len(records) == 0 {
		return model.Errorf(model.NotFound, "cannot delete image %s: there is none", d)
	}
	// The pin goes last: after a crash the image is still listed and can be
	// deleted again.
	slices.SortFunc(records, func(a, b images.Image) int {
		switch {
		case isPin(a.Name) == isPin(b.Name):
			return cmp.Compare(a.Name, b.Name)
		case isPin(a.Name):
			return 1
		default:
			return -1
		}
	})
	for _, r := range records {
		var opts []images.DeleteOpt
		if isPin(r.Name) {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := service.Delete(ctx, r.Name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return unavailable("delete image "+d.Short(), err)
		}
	}
	return nil
}

// Unname removes a human name from whatever image bears it; the image stays.
func (s *Store) Unname(ctx context.Context, name string) error {
	full, err := Normalize(name)
	if err != nil {
		return err
	}
	err = s.client.ImageService().Delete(s.scoped(ctx), full)
	if errdefs.IsNotFound(err) {
		return model.Errorf(model.NotFound, "cannot remove the name %s: no image has it", full)
	}
	if err != nil {
		return unavailable("remove the name "+full, err)
	}
	return nil
}

// maxJSON is how large a manifest or a configuration may be: registries take a few
// megabytes.
const maxJSON = 16 << 20 // bytes

// readJSON reads a blob of the content store, verified, into v.
func readJSON(ctx context.Context, store content.Store, desc ocispec.Descriptor, v any) error {
	info, err := store.Info(ctx, desc.Digest)
	if err != nil {
		return err
	}
	if info.Size > maxJSON {
		return model.Errorf(model.Invalid, "cannot read %s of an image: it has %d bytes, and a manifest or a configuration has at most %d", desc.Digest, info.Size, maxJSON)
	}
	b, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		return err
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return model.Errorf(model.Internal, "cannot read %s from the image store: it was changed to %s", desc.Digest, got)
	}
	return decodeJSON(b, v)
}

// unavailable says that containerd did not do what it was asked for.
func unavailable(what string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := model.Errorf(model.Unavailable, "cannot %s: %w", what, err)
	if hint := model.Exhausted(err); hint != "" {
		return e.WithHint("%s", hint)
	}
	return e
}
