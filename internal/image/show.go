package image

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// Detail is everything that an image says of itself.
type Detail struct {
	model.Image
	Platform string  `json:"platform"`
	Runtime  Runtime `json:"config"`
	Layers   []Layer `json:"layers"`
}

// Runtime is how an image wants to be run.
type Runtime struct {
	User       string            `json:"user,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Command    []string          `json:"command,omitempty"`
	Env        []string          `json:"env,omitempty"`
	Ports      []string          `json:"ports,omitempty"` // as declared, such as 8080/tcp
	WorkingDir string            `json:"working_dir,omitempty"`
	StopSignal string            `json:"stop_signal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Layer is one layer of an image, the lowest first.
type Layer struct {
	Digest    model.Digest `json:"digest"`
	MediaType string       `json:"media_type"`
	Size      int64        `json:"size"`                 // bytes as stored
	CreatedBy string       `json:"created_by,omitempty"` // the instruction that made it
}

// Show returns the image that what names: a digest, with or without
// "sha256:", the beginning of one (at least four digits) that is unique, or a
// name. NotFound: none. Conflict: several.
func (s *Store) Show(ctx context.Context, what string) (Detail, error) {
	ctx = s.scoped(ctx)
	pin, err := s.find(ctx, what)
	if err != nil {
		return Detail{}, err
	}
	bearers, err := s.client.ImageService().List(ctx, "target.digest=="+pin.Target.Digest.String())
	if err != nil {
		return Detail{}, unavailable("show image "+what, err)
	}
	var names []string
	for _, r := range bearers {
		if !isPin(r.Name) && !isTemporary(r.Name) {
			names = append(names, r.Name)
		}
	}
	img, err := s.describe(ctx, pin, names)
	if err != nil {
		return Detail{}, unavailable("show image "+what, err)
	}
	m, spec, err := s.config(ctx, pin.Target)
	if err != nil {
		return Detail{}, unavailable("show image "+what, err)
	}
	return Detail{
		Image:    img,
		Platform: spec.OS + "/" + spec.Architecture,
		Runtime:  runtimeOf(spec),
		Layers:   layersOf(m, spec),
	}, nil
}

// Config returns how an image wants to be run.
func (s *Store) Config(ctx context.Context, d model.Digest) (Runtime, error) {
	ctx = s.scoped(ctx)
	pin, err := s.find(ctx, string(d))
	if err != nil {
		return Runtime{}, err
	}
	_, spec, err := s.config(ctx, pin.Target)
	if err != nil {
		return Runtime{}, unavailable("read the configuration of image "+d.Short(), err)
	}
	return runtimeOf(spec), nil
}

// find returns the pin of the image that what names.
func (s *Store) find(ctx context.Context, what string) (images.Image, error) {
	service := s.client.ImageService()
	digits := strings.TrimPrefix(what, "sha256:")
	if isHex(digits) && len(digits) >= 4 {
		pins, err := service.List(ctx, "name~=^"+pinPrefix+digits)
		if err != nil {
			return images.Image{}, unavailable("find image "+what, err)
		}
		if len(pins) == 1 {
			return pins[0], nil
		}
		if len(pins) > 1 {
			return images.Image{}, model.Errorf(model.Conflict, "cannot tell which image %s is: %d begin so", what, len(pins)).
				WithHint("give more digits")
		}
	}
	absent := model.Errorf(model.NotFound, "cannot find image %s", what).WithHint("`kiln images` lists what there is")
	if digits != what || model.ValidDigest("sha256:"+what) {
		return images.Image{}, absent
	}
	full, err := Normalize(what)
	if err != nil {
		return images.Image{}, err
	}
	named, err := service.Get(ctx, full)
	if errdefs.IsNotFound(err) {
		return images.Image{}, absent
	}
	if err != nil {
		return images.Image{}, unavailable("find image "+what, err)
	}
	pin, err := service.Get(ctx, PinName(model.Digest(named.Target.Digest)))
	if errdefs.IsNotFound(err) {
		return images.Image{}, absent
	}
	if err != nil {
		return images.Image{}, unavailable("find image "+what, err)
	}
	return pin, nil
}

// config reads an image's manifest and configuration.
func (s *Store) config(ctx context.Context, desc ocispec.Descriptor) (ocispec.Manifest, specified, error) {
	m, err := s.manifest(ctx, desc)
	if err != nil {
		return m, specified{}, err
	}
	var spec specified
	err = readJSON(ctx, s.client.ContentStore(), m.Config, &spec)
	return m, spec, err
}

// specified is an image's configuration as far as kiln reads it.
type specified = ocispec.Image

func runtimeOf(spec specified) Runtime {
	return Runtime{
		User:       spec.Config.User,
		Entrypoint: spec.Config.Entrypoint,
		Command:    spec.Config.Cmd,
		Env:        spec.Config.Env,
		Ports:      slices.Sorted(maps.Keys(spec.Config.ExposedPorts)),
		WorkingDir: spec.Config.WorkingDir,
		StopSignal: spec.Config.StopSignal,
		Labels:     spec.Config.Labels,
	}
}

// layersOf pairs layers with the history entries that are not empty, where
// their numbers agree.
func layersOf(m ocispec.Manifest, spec specified) []Layer {
	var made []string
	for _, h := range spec.History {
		if !h.EmptyLayer {
			made = append(made, h.CreatedBy)
		}
	}
	layers := make([]Layer, len(m.Layers))
	for i, l := range m.Layers {
		layers[i] = Layer{Digest: model.Digest(l.Digest), MediaType: l.MediaType, Size: l.Size}
		if len(made) == len(m.Layers) {
			layers[i].CreatedBy = made[i]
		}
	}
	return layers
}

func isHex(s string) bool {
	return len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func decodeJSON(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return model.Errorf(model.Invalid, "cannot read JSON of an image: %w", err)
	}
	return nil
}
