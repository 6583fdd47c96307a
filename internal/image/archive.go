package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// containerdName is where docker and containerd put an image's full name.
const containerdName = "io.containerd.image.name"

// ingestArchive stores the image of an OCI layout or docker archive.
func (s *Store) ingestArchive(ctx context.Context, to *ingest, r io.Reader, name string) (ocispec.Descriptor, []string, error) {
	var none ocispec.Descriptor
	index, err := archive.ImportIndex(ctx, to, r)
	if err != nil {
		return none, nil, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // a compressed stream has a checksum at its end
		return none, nil, err
	}
	var top ocispec.Index
	if err := readJSON(ctx, s.client.ContentStore(), index, &top); err != nil {
		return none, nil, err
	}
	entry, own, err := choose(top.Manifests, name)
	if err != nil {
		return none, nil, err
	}
	desc, err := s.platformManifest(ctx, entry)
	if err != nil {
		return none, nil, err
	}
	if err := s.labelChildren(ctx, desc); err != nil {
		return none, nil, err
	}
	switch {
	case name != "":
		return desc, []string{name}, nil
	case own != "":
		return desc, []string{own}, nil
	}
	return desc, nil, nil
}

// choose returns the one image of an archive, or the one that bears the name,
// and the name it bears.
func choose(entries []ocispec.Descriptor, name string) (ocispec.Descriptor, string, error) {
	var candidates []ocispec.Descriptor
	var names []string
	for _, e := range entries {
		if e.Annotations[images.AnnotationManifestSubject] != "" || e.Annotations["vnd.docker.reference.type"] != "" {
			continue // an attestation, not an image
		}
		candidates = append(candidates, e)
		names = append(names, nameOf(e))
	}
	if i := slices.Index(names, name); name != "" && i >= 0 {
		return candidates[i], name, nil
	}
	digests := map[string]bool{}
	for _, c := range candidates {
		digests[c.Digest.String()] = true
	}
	switch len(digests) {
	case 0:
		return ocispec.Descriptor{}, "", model.Errorf(model.Invalid, "cannot import the image: the archive holds none")
	case 1:
		return candidates[0], names[0], nil
	}
	if allPlatforms(candidates) && len(slices.Compact(slices.Clone(names))) == 1 {
		return pickPlatform(candidates)
	}
	return ocispec.Descriptor{}, "", model.Errorf(model.Invalid, "cannot import the image: the archive holds %d: %s", len(digests), strings.Join(names, ", ")).
		WithHint("save one image to an archive, or give the name of one of them with --name")
}

// nameOf returns the full name of an archive's entry, or "".
func nameOf(e ocispec.Descriptor) string {
	for _, key := range []string{containerdName, ocispec.AnnotationRefName} {
		// A layout's reference name may be a bare tag, which is no name.
		if v := e.Annotations[key]; strings.ContainsAny(v, "/:") {
			if full, err := Normalize(v); err == nil {
				return full
			}
		}
	}
	return ""
}

func allPlatforms(entries []ocispec.Descriptor) bool {
	return !slices.ContainsFunc(entries, func(e ocispec.Descriptor) bool { return e.Platform == nil })
}

func pickPlatform(entries []ocispec.Descriptor) (ocispec.Descriptor, string, error) {
	var offered []string
	var best *ocispec.Descriptor
	match := platforms.Default()
	for _, e := range entries {
		offered = append(offered, platforms.Format(*e.Platform))
		if match.Match(*e.Platform) && (best == nil || match.Less(*e.Platform, *best.Platform)) {
			best = &e
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, "", wrongPlatform(offered)
	}
	return *best, nameOf(*best), nil
}

func wrongPlatform(offered []string) error {
	return model.Errorf(model.Invalid, "cannot use the image: it is for %s, and this machine is %s",
		strings.Join(offered, ", "), platforms.Format(platforms.DefaultSpec()))
}

// maxIndexes is how many indexes may lead to a manifest, one through the other.
const maxIndexes = 8

// platformManifest returns the manifest for this machine that desc, a manifest
// or an index, leads to.
func (s *Store) platformManifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	return s.leadTo(ctx, desc, maxIndexes)
}

func (s *Store) leadTo(ctx context.Context, desc ocispec.Descriptor, hops int) (ocispec.Descriptor, error) {
	store := s.client.ContentStore()
	switch {
	case hops < 0:
		return desc, model.Errorf(model.Invalid, "cannot use the image: more than %d indexes lead to one another, and to no manifest", maxIndexes)
	case images.IsManifestType(desc.MediaType):
		_, spec, err := s.config(ctx, desc)
		if err != nil {
			return desc, missing(err)
		}
		if p := spec.Platform; !platforms.Default().Match(platforms.Normalize(p)) {
			return desc, wrongPlatform([]string{platforms.Format(p)})
		}
		return desc, nil
	case images.IsIndexType(desc.MediaType):
		var index ocispec.Index
		if err := readJSON(ctx, store, desc, &index); err != nil {
			return desc, missing(err)
		}
		entry, _, err := choose(index.Manifests, "")
		if err != nil {
			return desc, err
		}
		return s.leadTo(ctx, entry, hops-1)
	}
	return desc, model.Errorf(model.Invalid, "cannot use the image: %s is of the unknown kind %q", desc.Digest, desc.MediaType)
}

// labelChildren makes a manifest keep its configuration and layers, and checks
// that they are there.
func (s *Store) labelChildren(ctx context.Context, desc ocispec.Descriptor) error {
	store := s.client.ContentStore()
	m, err := s.manifest(ctx, desc)
	if err != nil {
		return missing(err)
	}
	for _, child := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		info, err := store.Info(ctx, child.Digest)
		if errdefs.IsNotFound(err) && len(child.URLs) > 0 {
			return model.Errorf(model.Invalid, "cannot use the image: its layer %s is not in it, and is to be had elsewhere (%s)", child.Digest, child.URLs[0]).
				WithHint("kiln gets layers only from where the image is; save the image with its foreign layers")
		}
		if err != nil {
			return missing(err)
		}
		if info.Size != child.Size {
			return model.Errorf(model.Invalid, "cannot use the image: %s has %d bytes, and its manifest says %d", child.Digest, info.Size, child.Size)
		}
	}
	keep := manifestLabels(m.Config, m.Layers)
	var fields []string
	for k := range keep {
		fields = append(fields, "labels."+k)
	}
	if _, err := store.Update(ctx, content.Info{Digest: desc.Digest, Labels: keep}, fields...); err != nil {
		return &storeError{err}
	}
	return nil
}

// missing says that content which a manifest names is not in the archive. What
// was filed under a wrong digest is stored under its true one, and so missing.
func missing(err error) error {
	if errdefs.IsNotFound(err) {
		return model.Errorf(model.Invalid, "cannot use the image: a part of it is missing or does not match its digest: %w", err)
	}
	return err
}

// manifestLabels are the references that containerd's collector follows.
func manifestLabels(config ocispec.Descriptor, layers []ocispec.Descriptor) map[string]string {
	l := map[string]string{"containerd.io/gc.ref.content.config": config.Digest.String()}
	for i, layer := range layers {
		l[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = layer.Digest.String()
	}
	return l
}

// unpack makes the image's layers ready to be used as a root filesystem.
func (s *Store) unpack(ctx context.Context, desc ocispec.Descriptor) error {
	img := client.NewImage(s.client, images.Image{Name: desc.Digest.String(), Target: desc})
	return unpackError(ctx, img.Unpack(ctx, Snapshotter))
}

// unpackLayer unpacks a layer onto those below it; what they unpack to is said by
// the chain.
func (s *Store) unpackLayer(ctx context.Context, layer rootfs.Layer, chain []digest.Digest) error {
	unpacked, err := rootfs.ApplyLayer(ctx, layer, chain, s.client.SnapshotService(Snapshotter), s.client.DiffService())
	if err != nil || !unpacked {
		return unpackError(ctx, err)
	}
	said := content.Info{Digest: layer.Blob.Digest, Labels: map[string]string{labels.LabelUncompressed: layer.Diff.Digest.String()}}
	_, err = s.client.ContentStore().Update(ctx, said, "labels."+labels.LabelUncompressed)
	return unpackError(ctx, err)
}

func unpackError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errdefs.IsUnavailable(err), model.Exhausted(err) != "":
		return unavailable("unpack the image", err)
	}
	return model.Errorf(model.Invalid, "cannot unpack the image: %w", err)
}
