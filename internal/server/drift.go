package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

// Verifier compares a server with its template now, byte for byte.
type Verifier interface {
	Verify(ctx context.Context, id model.ServerID) ([]model.Finding, error)
}

func (s *Server) registerDrift(h huma.API) {
	huma.Register(h, operation("drift", http.MethodGet, api.PathDrift, "What is not as its template says"), s.drift)
	huma.Register(h, operation("verify-server", http.MethodPost, api.PathVerifyServer, "Compare a server with its template, byte for byte"), s.verifyServer)
}

type driftInput struct {
	Service string `query:"service" doc:"only of this service"`
}

// drifted is how many of the latest events are looked through for servers that
// drifted and are gone, and how many of these are told of.
const (
	driftEvents = 5000
	driftGone   = 50
)

func (s *Server) drift(ctx context.Context, in *driftInput) (*reply[api.Drift], error) {
	out := &reply[api.Drift]{api.Drift{Servers: []api.ServerDrift{}, Fleet: []api.DriftFound{}, Halted: []api.DriftHalted{}}}
	var unknown error
	var head uint64
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		head = st.Seq
		if in.Service != "" {
			if _, unknown = serviceNamed(st, in.Service); unknown != nil {
				return
			}
		}
		standingDrift(&out.Body, st, in.Service, now)
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	after := uint64(0)
	if head > driftEvents {
		after = head - driftEvents
	}
	entries, err := s.cfg.History.Entries(ctx, after, driftEvents)
	if err != nil {
		return nil, s.refuse(err)
	}
	pastDrift(&out.Body, entries, in.Service)
	return out, nil
}

// standingDrift adds what is known of the servers that are there, and of the
// fleet.
func standingDrift(out *api.Drift, st *model.State, service string, now model.Now) {
	for _, name := range sortedKeys(st.Services) {
		svc := st.Services[name]
		if service != "" && name != service {
			continue
		}
		if r := svc.Recurrence; r != nil && r.Halted {
			out.Halted = append(out.Halted, api.DriftHalted{Service: name, Reason: r.Reason})
		}
		for _, id := range sortedKeys(svc.Servers) {
			srv := svc.Servers[id]
			if srv.Drift == nil {
				continue
			}
			d := api.ServerDrift{
				Server: id, Service: name, Release: srv.Release, Phase: srv.Phase, Since: wall(srv.Drift.Since, now),
				Response: srv.Drift.Response, Done: srv.Drift.Done, Findings: []api.DriftFound{}, More: srv.Drift.More,
			}
			out.Drifted = out.Drifted || srv.Drifts()
			for _, f := range srv.Drift.Findings {
				d.Findings = append(d.Findings, api.DriftFound{Finding: f, Stands: true})
			}
			out.Servers = append(out.Servers, d)
		}
	}
	if service != "" {
		return
	}
	for _, f := range st.Fleet {
		out.Drifted = true
		out.Fleet = append(out.Fleet, api.DriftFound{Finding: f, Stands: true})
	}
}

// pastDrift adds what the journal says of servers that are gone, of what is not
// to be seen any more, and of what was done about the fleet.
func pastDrift(out *api.Drift, entries []Entry, service string) {
	there := map[model.ServerID]int{}
	for i, d := range out.Servers {
		there[d.Server] = i
	}
	var gone []api.ServerDrift
	for _, e := range slices.Backward(entries) {
		switch p := e.Event.Data.(type) {
		case model.ServerDrifted:
			if service != "" && p.ID.Service() != service {
				continue
			}
			if i, stands := there[p.ID]; stands {
				addPast(&out.Servers[i], p)
				continue
			}
			i := slices.IndexFunc(gone, func(d api.ServerDrift) bool { return d.Server == p.ID })
			if i < 0 {
				if len(gone) >= driftGone {
					continue
				}
				gone = append(gone, api.ServerDrift{Server: p.ID, Service: p.ID.Service(), Phase: "gone", Response: p.Response, Done: p.Done, Findings: []api.DriftFound{}})
				i = len(gone) - 1
			}
			gone[i].Since = e.Event.At.UTC().Truncate(time.Millisecond)
			gone[i].More += p.More
			addPast(&gone[i], p)
		case model.FleetDrifted:
			for _, f := range p.Findings {
				i := slices.IndexFunc(out.Fleet, func(have api.DriftFound) bool { return have.Key() == f.Key() })
				switch {
				case i >= 0 && out.Fleet[i].Done == "":
					out.Fleet[i].Done = p.Done
				case i < 0 && service == "" && len(out.Fleet) < driftGone:
					out.Fleet = append(out.Fleet, api.DriftFound{Finding: f, Done: p.Done})
				}
			}
		}
	}
	out.Servers = append(out.Servers, gone...)
	for i := range out.Servers {
		slices.SortStableFunc(out.Servers[i].Findings, func(a, b api.DriftFound) int {
			return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Where, b.Where))
		})
	}
}

// addPast adds findings that are not to be seen any more.
func addPast(d *api.ServerDrift, p model.ServerDrifted) {
	for _, f := range p.Findings {
		if !slices.ContainsFunc(d.Findings, func(have api.DriftFound) bool { return have.Key() == f.Key() }) {
			d.Findings = append(d.Findings, api.DriftFound{Finding: f})
		}
	}
}

func (s *Server) verifyServer(ctx context.Context, in *serverInput) (*reply[api.Verification], error) {
	var image model.Digest
	var refused error
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		srv := st.Server(in.Server)
		switch {
		case srv == nil:
			refused = model.Errorf(model.NotFound, "cannot verify %q: there is no such server", in.Server).WithHint("kiln servers lists them")
		case !srv.Phase.Alive():
			refused = model.Errorf(model.Precondition, "cannot verify %s: it does not run, it is %s", in.Server, srv.Phase).WithHint("kiln servers lists those that do")
		default:
			image = serverView(st.Services[in.Server.Service()], srv, s.cfg.Clock.Now()).Image
		}
	})
	if refused != nil {
		return nil, s.refuse(refused)
	}
	began := time.Now()
	found, err := s.cfg.Verifier.Verify(ctx, in.Server)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.Verification]{api.Verification{
		Server: in.Server, Service: in.Server.Service(), Image: image, Same: len(found) == 0,
		Findings: slices.Concat([]model.Finding{}, found), TookMS: time.Since(began).Milliseconds(),
	}}, nil
}
