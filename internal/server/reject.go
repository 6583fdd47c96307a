package server

import (
	"context"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

type rejectInput struct {
	Image string `path:"image"`
	Body  api.RejectRequest
}

func (s *Server) reject(ctx context.Context, in *rejectInput) (*reply[api.Rejected], error) {
	img, err := s.imageKnown(in.Image)
	if err != nil {
		return nil, s.refuse(err)
	}
	by := peer(ctx, in.Body.Author)
	err = s.cfg.Control.Do(ctx, by, func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		return reconcile.Reject(st, reconcile.RejectRequest{
			Image: img.Digest, Rejection: model.Rejection{Lifted: in.Body.Lifted, By: by, Reason: in.Body.Reason},
		}, now)
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[api.Rejected]{api.Rejected{Image: img.Digest, Running: []api.Running{}}}
	// The word is in force; that others hear of it as well may have to wait.
	if err := s.cfg.Word.Rejected(context.WithoutCancel(ctx), img.Digest); err != nil {
		out.Body.Trouble = err.Error()
	}
	out.Body.Signed = out.Body.Trouble == ""
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		known := copyOf(st.Images[img.Digest])
		out.Body.Rejected, out.Body.Rejection = known.Rejected(), known.Rejection
		out.Body.Running = running(st, img.Digest)
	})
	return out, nil
}

// running lists the servers that run an image.
func running(st *model.State, image model.Digest) []api.Running {
	list := []api.Running{}
	for _, name := range sortedKeys(st.Services) {
		svc := st.Services[name]
		for _, id := range sortedKeys(svc.Servers) {
			srv := svc.Servers[id]
			if r := svc.Release(srv.Release); r != nil && r.Template.Image == image && srv.Phase.Alive() {
				list = append(list, api.Running{Service: name, Release: srv.Release, Server: id, InService: srv.Phase == model.PhaseServing})
			}
		}
	}
	return list
}

// markRejected says of a service what runs in it that is rejected.
func markRejected(st *model.State, v *api.ServiceStatus) {
	if img := st.Images[v.Image]; img.Rejected() {
		v.Rejected = because("image "+v.Image.Short()+" is rejected by "+img.Rejection.By, img.Rejection.Reason)
	}
	for i := range v.Servers {
		v.Servers[i].Rejected = st.Images[v.Servers[i].Image].Rejected()
	}
}
