package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

func (s *Server) registerViews(h huma.API) {
	huma.Register(h, operation("version", http.MethodGet, api.PathVersion, "Who answers"),
		func(context.Context, *struct{}) (*reply[api.Version], error) {
			return &reply[api.Version]{s.cfg.Version}, nil
		})
	huma.Register(h, operation("status", http.MethodGet, api.PathStatus, "What runs"), s.status)
	huma.Register(h, operation("releases", http.MethodGet, api.PathReleases, "A service's history"), s.releases)
	huma.Register(h, operation("verify", http.MethodGet, api.PathVerify, "Recompute the journal's chain"),
		func(ctx context.Context, _ *struct{}) (*reply[api.AuditReport], error) {
			report, err := s.cfg.History.Verify(ctx)
			if err != nil {
				return nil, s.refuse(err)
			}
			return &reply[api.AuditReport]{report}, nil
		})
	huma.Register(h, operation("death-record", http.MethodGet, api.PathDeath, "Why and how a server ended"), s.deathRecord)
}

func operation(id, method, path, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary}
}

type statusInput struct {
	Service []string `query:"service,explode" doc:"only these services"`
}

func (s *Server) status(_ context.Context, in *statusInput) (*reply[api.Status], error) {
	out := &reply[api.Status]{}
	var unknown error
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, name := range in.Service {
			if _, err := serviceNamed(st, name); err != nil {
				unknown = err
			}
		}
		out.Body = statusView(st, now, in.Service)
		out.Body.Storage = s.storage(st)
	})
	addTroubles(&out.Body, s.cfg.Control.Troubles())
	if s.cfg.Troubles != nil {
		out.Body.Troubles = s.cfg.Troubles()
	}
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	return out, nil
}

type serviceInput struct {
	Service string `path:"service"`
}

func (s *Server) releases(_ context.Context, in *serviceInput) (*reply[api.Releases], error) {
	out := &reply[api.Releases]{}
	var failed error
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		svc, err := serviceNamed(st, in.Service)
		if err != nil {
			failed = err
			return
		}
		out.Body = releasesView(st, svc)
	})
	if failed != nil {
		return nil, s.refuse(failed)
	}
	return out, nil
}

type serverInput struct {
	Server model.ServerID `path:"server"`
}

func (s *Server) deathRecord(ctx context.Context, in *serverInput) (*reply[api.DeathRecord], error) {
	var found *model.DeathRecord
	alive := false
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		alive = st.Server(in.Server) != nil
		if svc := st.Services[in.Server.Service()]; svc != nil {
			for _, r := range svc.Dead {
				if r.Server == in.Server {
					found = r
				}
			}
		}
	})
	switch {
	case found == nil && alive:
		return nil, s.refuse(model.Errorf(model.Precondition, "cannot show the death record of %s: it has not ended yet", in.Server).
			WithHint("kiln logs %s shows what it writes", in.Server))
	case found == nil: // the state remembers the newest only
		if found = s.archivedRecord(ctx, in.Server); found == nil {
			return nil, s.refuse(model.Errorf(model.NotFound, "cannot find a death record of %q", in.Server).
				WithHint("kiln events lists every server that ended"))
		}
	}
	out := &reply[api.DeathRecord]{api.DeathRecord{DeathRecord: *found}}
	if found.Evidence != "" {
		files, err := s.cfg.Evidence.Read(ctx, found.Evidence)
		if err != nil {
			out.Body.Missing = append(out.Body.Missing, "evidence: "+err.Error())
		}
		out.Body.Files = files
	}
	return out, nil
}
