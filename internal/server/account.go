package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/audit"
	"kiln/internal/model"
)

func (s *Server) registerAccount(h huma.API) {
	huma.Register(h, operation("account", http.MethodGet, api.PathAccount, "What happened, for somebody who was not there"), s.accountOf)
}

type accountInput struct {
	Service string    `query:"service" doc:"only of this service"`
	Since   time.Time `query:"since" doc:"from then on"`
}

// accountOf reads the journal from its beginning: what ran then began before.
// The chain is verified at the same time, so that the account says of what it is
// made.
func (s *Server) accountOf(ctx context.Context, in *accountInput) (*reply[audit.Account], error) {
	var head uint64
	var unknown error
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if head = st.Seq; in.Service != "" {
			_, unknown = serviceNamed(st, in.Service)
		}
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	c := audit.NewCollector(in.Service, in.Since, now.Wall)
	for after := uint64(0); after < head; {
		entries, err := s.cfg.History.Entries(ctx, after, 256)
		if err != nil {
			return nil, s.refuse(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if after = e.Event.Seq; after > head {
				break
			}
			service, text := inWords(e.Event)
			c.Add(audit.Event{Event: e.Event, Hash: e.Hash, Service: service, Text: text})
		}
	}
	verified, err := s.cfg.History.Verify(ctx)
	if err != nil {
		return nil, s.refuse(err)
	}
	chain := audit.Chain{Whole: verified.Whole, Events: verified.Events, Head: verified.Head, Signed: verified.Signed, Problems: verified.Problems}
	return &reply[audit.Account]{c.Account(chain)}, nil
}
