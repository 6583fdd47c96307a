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
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if head = st.Seq; in.Service != "" {
			_, unknown = serviceNamed(st, in.Service)
		}
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	account, err := AccountOf(in.Service, in.Since, s.cfg.Clock.Now().Wall, func(each func(Entry)) (api.AuditReport, error) {
		unread := s.entries(ctx, head, each)
		report, err := s.cfg.History.Verify(ctx)
		if err == nil && report.Whole {
			err = unread
		}
		return report, err
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[audit.Account]{account}, nil
}

// imageHistory reads the journal from its beginning, which knows what was removed,
// and when each release served.
func (s *Server) imageHistory(ctx context.Context, in *serviceInput) (*reply[audit.History], error) {
	var head uint64
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) { head = st.Seq })
	line := audit.NewLineage()
	if err := s.entries(ctx, head, func(e Entry) { line.Add(e.Event) }); err != nil {
		return nil, s.refuse(err)
	}
	history := line.History(in.Service)
	if len(history.Images) == 0 {
		var err error
		s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) { _, err = serviceNamed(st, in.Service) })
		if err != nil {
			return nil, s.refuse(err)
		}
	}
	return &reply[audit.History]{history}, nil
}

// entries passes on the events up to the head.
func (s *Server) entries(ctx context.Context, head uint64, each func(Entry)) error {
	for after := uint64(0); after < head; {
		entries, err := s.cfg.History.Entries(ctx, after, 256)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			if after = e.Event.Seq; after > head {
				break
			}
			each(e)
		}
	}
	return nil
}

// AccountOf makes the account of what happened since then to a service, or to
// all ("") until now. read passes on the events and says how whole their journal
// is.
func AccountOf(service string, since, now time.Time, read func(each func(Entry)) (api.AuditReport, error)) (audit.Account, error) {
	c := audit.NewCollector(service, since, now)
	report, err := read(func(e Entry) {
		of, text := inWords(e.Event)
		c.Add(audit.Event{Event: e.Event, Hash: e.Hash, Service: of, Text: text})
	})
	if err != nil {
		return audit.Account{}, err
	}
	return c.Account(audit.Chain{Whole: report.Whole, Events: report.Events, Head: report.Head, Signed: report.Signed, Problems: report.Problems}), nil
}
