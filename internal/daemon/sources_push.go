package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kiln/internal/api"
	"kiln/internal/model"
)

// How an artifact with a source is made up (docs/history.md).
const (
	artifactType types.MediaType = "application/vnd.kiln.context.v1"
	configType   types.MediaType = "application/vnd.kiln.context.config.v1+json"
	archiveType  types.MediaType = "application/vnd.kiln.context.v1.tar+zstd"
	// annotationArchive has the archive's digest, for who only lists what is attached.
	annotationArchive = "vnd.kiln.context.archive"
	annotationCreated = "org.opencontainers.image.created"
)

// push attaches an archive to the image in the repository of the service that it was
// built for.
func (s *sources) push(ctx context.Context, src api.Source, archive *spooled) error {
	at, err := inRegistry(src.Config.Service, src.Image)
	if err != nil {
		return err
	}
	cannot := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return model.Errorf(model.Unavailable, "cannot keep the source of image %s in the registry: %w", src.Image.Short(), err)
	}
	subject, err := remote.Head(at, s.with(ctx)...)
	if err != nil {
		return cannot(err)
	}
	text, err := json.Marshal(src.Config)
	if err != nil {
		return cannot(err)
	}
	config := static.NewLayer(text, configType)
	raw, err := artifactOf(*subject, config, archive, src)
	if err != nil {
		return cannot(err)
	}
	pusher, err := remote.NewPusher(s.with(ctx)...)
	if err != nil {
		return cannot(err)
	}
	for _, part := range []v1.Layer{config, archive} {
		if err := pusher.Upload(ctx, at.Context(), part); err != nil {
			return cannot(err)
		}
	}
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return cannot(err)
	}
	if err := pusher.Put(ctx, at.Context().Digest(h.String()), asManifest(raw)); err != nil {
		return cannot(err)
	}
	return nil
}

func (s *sources) with(ctx context.Context) []remote.Option {
	return append(s.d.signer.reach(), remote.WithContext(ctx), remote.WithUserAgent("kiln"))
}

func artifactOf(subject v1.Descriptor, config, archive v1.Layer, src api.Source) ([]byte, error) {
	c, err := partial.Descriptor(config)
	if err != nil {
		return nil, err
	}
	a, err := partial.Descriptor(archive)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: string(artifactType),
		Config: *c, Layers: []v1.Descriptor{*a},
		Subject:     &v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest},
		Annotations: map[string]string{annotationArchive: string(src.Archive), annotationCreated: time.Now().UTC().Format(time.RFC3339)},
	})
}

// artifacts lists the sources that are attached to an image.
func (s *sources) artifacts(ctx context.Context, at name.Digest) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(at, append(s.with(ctx), remote.WithFilter("artifactType", string(artifactType)))...)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(m.Manifests), func(d v1.Descriptor) bool { return d.ArtifactType != string(artifactType) }), nil
}

// drop removes the sources of an image from the registry, which gives their room back
// at a quiet time.
func (s *sources) drop(ctx context.Context, d model.Digest) error {
	for _, repository := range s.d.signer.image(d).Services {
		at, err := inRegistry(repository, d)
		if err != nil {
			return err
		}
		kept, err := s.artifacts(ctx, at)
		if err != nil {
			return err
		}
		for _, a := range kept {
			if err := remote.Delete(at.Context().Digest(a.Digest.String()), s.with(ctx)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropOld removes what a daemon before has not got to.
func (s *sources) dropOld(ctx context.Context) {
	var todo []model.Digest
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		for d, img := range st.Images {
			if !img.RemovedAt.IsZero() && slices.ContainsFunc(img.Statements, func(a model.Statement) bool { return a.Type == model.SourceType }) {
				todo = append(todo, d)
			}
		}
	})
	slices.Sort(todo)
	for _, d := range todo {
		if err := s.drop(ctx, d); err != nil && ctx.Err() == nil {
			s.d.cfg.Log.Warn("the source of an image that was removed cannot be removed", "image", string(d), "error", err)
		}
	}
}
