package daemon

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"

	"kiln/internal/control"
	"kiln/internal/image"
	"kiln/internal/model"
	"kiln/internal/registry"
)

// shelf shows kiln's own images to the registry. A service's repository has the
// images that were built for it or that it had a release of, each release's under
// its number; an image with a name is in that name's repository, too.
type shelf struct {
	control *control.Control
	store   *image.Store
}

var _ registry.Images = shelf{}

// Repositories implements registry.Images.
func (s shelf) Repositories() []string {
	var names []string
	s.control.View(func(st *model.State, _ *model.Snapshot) {
		for _, img := range st.Images {
			if !img.RemovedAt.IsZero() {
				continue
			}
			names = append(names, img.Services...)
			for _, name := range img.Names {
				if repository, _ := split(name); repository != "" {
					names = append(names, repository)
				}
			}
		}
		for name, svc := range st.Services {
			if slices.ContainsFunc(svc.Releases, func(r *model.Release) bool { return isHere(st, r.Template.Image) }) {
				names = append(names, name)
			}
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// Holding returns the repositories that have an image.
func (s shelf) Holding(d model.Digest) []string {
	var names []string
	s.control.View(func(st *model.State, _ *model.Snapshot) {
		if !isHere(st, d) {
			return
		}
		names = append(names, st.Images[d].Services...)
		for _, full := range st.Images[d].Names {
			if repository, _ := split(full); repository != "" {
				names = append(names, repository)
			}
		}
		for name, svc := range st.Services {
			if slices.ContainsFunc(svc.Releases, func(r *model.Release) bool { return r.Template.Image == d }) {
				names = append(names, name)
			}
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// Repository implements registry.Images.
func (s shelf) Repository(name string) registry.Repository {
	r := registry.Repository{Tags: map[string]model.Digest{}}
	s.control.View(func(st *model.State, _ *model.Snapshot) {
		add := func(d model.Digest, tag string) {
			if !slices.Contains(r.Images, d) {
				r.Images = append(r.Images, d)
			}
			if tag != "" {
				r.Tags[tag] = d
			}
		}
		for d, img := range st.Images {
			if !img.RemovedAt.IsZero() {
				continue
			}
			if slices.Contains(img.Services, name) {
				add(d, "")
			}
			for _, full := range img.Names {
				if repository, tag := split(full); repository == name {
					add(d, tag)
				}
			}
		}
		if svc := st.Services[name]; svc != nil {
			for _, release := range svc.Releases {
				if d := release.Template.Image; isHere(st, d) {
					add(d, strconv.Itoa(release.Number))
				}
			}
		}
	})
	return r
}

func isHere(st *model.State, d model.Digest) bool {
	img := st.Images[d]
	return img != nil && img.RemovedAt.IsZero()
}

// split returns the repository and the tag of an image's name, as people write
// them: base/debian and 12. A registry's port is left out.
func split(full string) (repository, tag string) {
	ref, err := reference.ParseDockerRef(full)
	if err != nil {
		return "", ""
	}
	if tagged, ok := ref.(reference.Tagged); ok {
		tag = tagged.Tag() // else it is named by its digest
	}
	repository = reference.FamiliarName(ref)
	if host, path, found := strings.Cut(repository, "/"); found {
		host, _, _ = strings.Cut(host, ":")
		repository = host + "/" + path
	}
	if _, err := reference.WithName(repository); err != nil {
		return "", ""
	}
	return repository, tag
}

// Parts implements registry.Images.
func (s shelf) Parts(ctx context.Context, d model.Digest) ([]registry.Part, error) {
	blobs, err := s.store.Blobs(ctx, d)
	if err != nil {
		return nil, err
	}
	parts := make([]registry.Part, len(blobs))
	for i, b := range blobs {
		parts[i] = registry.Part(b)
	}
	return parts, nil
}

// Open implements registry.Images.
func (s shelf) Open(ctx context.Context, p registry.Part) (registry.Content, error) {
	return s.store.ReadBlob(ctx, image.Blob(p))
}
