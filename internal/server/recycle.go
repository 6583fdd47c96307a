package server

import (
	"context"
	"fmt"
	"strings"

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

// upkeepInWords says the events about servers that are to be replaced, and
// about what was found to be changed.
func upkeepInWords(p model.Payload) (service, text string) {
	switch p := p.(type) {
	case model.ServerCondemned:
		return p.ID.Service(), string(p.ID) + " is to be replaced: " + p.Reason
	case model.ServerOverdue:
		return p.ID.Service(), string(p.ID) + " is still in service though its time is up: " + p.Reason
	case model.ServerDrifted:
		return p.ID.Service(), because(string(p.ID)+" is not its template any more: "+findingsInWords(p.Findings, p.More), p.Done)
	case model.ServerUndrifted:
		return p.ID.Service(), "of what was found in " + string(p.ID) + " some is not to be seen any more"
	case model.DriftRecurred:
		return p.Service, p.Reason
	case model.FleetDrifted:
		return "", because("what belongs to no server was changed: "+findingsInWords(p.Findings, p.More), p.Done)
	case model.FleetMended:
		return "", "of what was found beside the servers some is not to be seen any more"
	case model.ClockJumped:
		return "", "the wall clock went another way than the time that passed, by " + p.By.String()
	default:
		return "", string(p.Kind())
	}
}

func findingsInWords(list []model.Finding, more int) string {
	var words []string
	for i, f := range list {
		if i == 3 {
			more += len(list) - i
			break
		}
		words = append(words, f.What+" "+f.Where)
	}
	text := strings.Join(words, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
