package image

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"

	"kiln/internal/model"
)

// Built is an image that the builder's BuildKit has made.
type Built struct {
	Temporary string         // the name it bears
	Name      string         // what FROM may call it; may be empty
	Bases     []model.Digest // whose layers it may have
	Epoch     time.Time      // no time in it is later
}

// Adopt makes what BuildKit has made depend on its content alone, records it
// under its digest and its name, and removes the temporary name.
func (s *Store) Adopt(ctx context.Context, b Built) (model.Image, error) {
	var names []string
	if b.Name != "" {
		full, err := Normalize(b.Name)
		if err != nil {
			return model.Image{}, err
		}
		names = append(names, full)
	}
	var img model.Image
	err := s.leased(ctx, func(ctx context.Context, to *ingest) error {
		service := s.client.ImageService()
		record, err := service.Get(ctx, b.Temporary)
		if err != nil {
			return unavailable("record the image that was built", err)
		}
		desc, err := s.settle(ctx, to, record.Target, b.Bases, b.Epoch)
		if err != nil {
			return err
		}
		if err := s.pin(ctx, desc, "build", names...); err != nil {
			return err
		}
		if err := service.Delete(ctx, b.Temporary); err != nil && !errdefs.IsNotFound(err) {
			return unavailable("record the image that was built", err)
		}
		d, err := s.Show(ctx, desc.Digest.String())
		img = d.Image
		return err
	})
	return img, err
}

// serverLabel marks the containers that are servers.
const serverLabel = "kiln.server"

// Sweep removes what builds of a killed builder left: their containers, whose
// processes would go on, and their unfinished images. No build may be running.
func (s *Store) Sweep(ctx context.Context) error {
	ctx = s.scoped(ctx)
	containers, err := s.client.Containers(ctx)
	if err != nil {
		return unavailable("look for remnants of builds", err)
	}
	for _, c := range containers {
		l, err := c.Labels(ctx)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return unavailable("look for remnants of builds", err)
		}
		if l[serverLabel] != "" {
			continue
		}
		if err := s.discard(ctx, c); err != nil {
			return unavailable("remove the remnant "+c.ID()+" of a build", err)
		}
		s.log.Info("removed the remnant of a build", "container", c.ID())
	}
	records, err := s.client.ImageService().List(ctx, "name~=^"+temporaryPrefix)
	if err != nil {
		return unavailable("look for remnants of builds", err)
	}
	for _, r := range records {
		if err := s.client.ImageService().Delete(ctx, r.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
			return unavailable("remove the remnant "+r.Name+" of a build", err)
		}
	}
	return nil
}

// HasContainer reports whether there is a container of this id.
func (s *Store) HasContainer(ctx context.Context, id string) (bool, error) {
	_, err := s.client.ContainerService().Get(s.scoped(ctx), id)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, unavailable("look for container "+id, err)
	}
	return true, nil
}

// taskPatience is how long a container without a task may be one whose task is
// just being made.
const taskPatience = 2 * time.Second

// discard kills a container's task, if there is one, and removes both.
func (s *Store) discard(ctx context.Context, c client.Container) error {
	task, err := c.Task(ctx, nil)
	for deadline := time.Now().Add(taskPatience); errdefs.IsNotFound(err) && time.Now().Before(deadline); {
		time.Sleep(taskPatience / 40)
		task, err = c.Task(ctx, nil)
	}
	if err == nil {
		if _, err := task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	} else if !errdefs.IsNotFound(err) {
		return err
	}
	if err := c.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
