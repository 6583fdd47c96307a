package daemon

import (
	"context"
	"io"

	"kiln/internal/api"
	"kiln/internal/image"
	"kiln/internal/model"
)

// images shows the image store to the API.
type images struct{ store *image.Store }

// Import implements server.Images.
func (i images) Import(ctx context.Context, r io.Reader, name string) (model.Image, error) {
	return i.store.Import(ctx, r, name, func(image.Progress) {})
}

// Pull implements server.Images.
func (i images) Pull(ctx context.Context, ref string) (model.Image, error) {
	return i.store.Pull(ctx, ref, func(image.Progress) {})
}

// Show implements server.Images.
func (i images) Show(ctx context.Context, digest model.Digest) (api.Image, error) {
	d, err := i.store.Show(ctx, string(digest))
	if err != nil {
		return api.Image{}, err
	}
	out := api.Image{
		Image: d.Image, User: d.Runtime.User, Entrypoint: d.Runtime.Entrypoint, Command: d.Runtime.Command,
		Env: d.Runtime.Env, WorkDir: d.Runtime.WorkingDir, Ports: d.Runtime.Ports, StopSignal: d.Runtime.StopSignal,
		Labels: d.Runtime.Labels, Layers: []api.Layer{},
	}
	for _, l := range d.Layers {
		out.Layers = append(out.Layers, api.Layer{Digest: l.Digest, Size: l.Size, MediaType: l.MediaType})
	}
	return out, nil
}
