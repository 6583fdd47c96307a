package server

import (
	"context"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

type recycleInput struct {
	Body api.RecycleRequest
}

// recycle condemns servers. What has the name of a service is one.
func (s *Server) recycle(ctx context.Context, in *recycleInput) (*reply[api.Recycling], error) {
	out := &reply[api.Recycling]{}
	err := s.cfg.Control.Do(ctx, actor(in.Body.Author), func(st *model.State, _ *model.Snapshot, now model.Now) (events []model.Payload, err error) {
		req := reconcile.RecycleRequest{Service: in.Body.Target, By: actor(in.Body.Author), Reason: in.Body.Reason}
		if svc := st.Services[in.Body.Target]; (svc == nil || svc.Destroyed) && model.ValidServerID(in.Body.Target) {
			req.Server = model.ServerID(in.Body.Target)
			req.Service = req.Server.Service()
		}
		out.Body.Service = req.Service
		events, out.Body.Servers, err = reconcile.Recycle(st, req, now)
		return events, err
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	return out, nil
}

// condemnedView says when and why a server is replaced; nil: it is not.
func condemnedView(srv *model.Server, now model.Now) *api.Condemned {
	c := srv.Condemned
	if c == nil {
		return nil
	}
	v := &api.Condemned{Cause: c.Cause, Reason: c.Reason, From: wall(c.From, now), Late: c.Late}
	if c.Until != 0 {
		until := wall(c.Until, now)
		v.Until = &until
	}
	return v
}
