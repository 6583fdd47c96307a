package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

func (s *Server) registerChaos(h huma.API) {
	huma.Register(h, operation("chaos-run", http.MethodPost, api.PathChaosRun, "Disturb a server on purpose"), s.runChaos)
	huma.Register(h, operation("chaos-stop", http.MethodPost, api.PathChaosStop, "End the experiment that runs"), s.stopChaos)
	huma.Register(h, operation("chaos-report", http.MethodGet, api.PathChaos, "What experiments have shown"), s.chaosReport)
	huma.Register(h, operation("chaos-experiment", http.MethodGet, api.PathChaosReport, "One experiment"), s.experiment)
}

type chaosRunInput struct {
	Service string `path:"service"`
	Body    api.ChaosRequest
}

func (s *Server) runChaos(ctx context.Context, in *chaosRunInput) (*reply[api.ChaosAccepted], error) {
	obs := s.cfg.Observer.Observed()
	return s.chaosCommand(ctx, in.Service, in.Body.Author, func(st *model.State, now model.Now) ([]model.Payload, model.ExperimentID, error) {
		return reconcile.RunChaos(st, reconcile.ChaosRequest{
			Service: in.Service, Server: in.Body.Server, Kind: in.Body.Kind, Lasts: in.Body.Lasts, By: actor(in.Body.Author),
		}, obs, now)
	})
}

type chaosStopInput struct {
	Service string `path:"service"`
	Body    api.ChaosStopRequest
}

func (s *Server) stopChaos(ctx context.Context, in *chaosStopInput) (*reply[api.ChaosAccepted], error) {
	return s.chaosCommand(ctx, in.Service, in.Body.Author, func(st *model.State, _ model.Now) ([]model.Payload, model.ExperimentID, error) {
		return reconcile.StopChaos(st, in.Service, actor(in.Body.Author))
	})
}

func (s *Server) chaosCommand(ctx context.Context, service, author string,
	command func(*model.State, model.Now) ([]model.Payload, model.ExperimentID, error),
) (*reply[api.ChaosAccepted], error) {
	var id model.ExperimentID
	err := s.cfg.Control.Do(ctx, actor(author), func(st *model.State, _ *model.Snapshot, now model.Now) (events []model.Payload, err error) {
		events, id, err = command(st, now)
		return events, err
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[api.ChaosAccepted]{api.ChaosAccepted{Service: service}}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, x := range experimentsOf(st, service) {
			if x.ID == id {
				out.Body.Experiment = experimentView(x)
			}
		}
	})
	return out, nil
}

type chaosInput struct {
	Service string `query:"service"`
}

func (s *Server) chaosReport(_ context.Context, in *chaosInput) (*reply[api.ChaosReport], error) {
	out := &reply[api.ChaosReport]{api.ChaosReport{At: time.Now().UTC(), Experiments: []api.Experiment{}}}
	var unknown error
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if in.Service != "" {
			_, unknown = serviceNamed(st, in.Service)
		}
		for _, x := range experimentsOf(st, in.Service) {
			out.Body.Experiments = append(out.Body.Experiments, experimentView(x))
		}
	})
	if unknown != nil {
		return nil, s.refuse(unknown)
	}
	return out, nil
}

type experimentInput struct {
	Experiment model.ExperimentID `path:"experiment"`
}

func (s *Server) experiment(_ context.Context, in *experimentInput) (*reply[api.Experiment], error) {
	var found *reply[api.Experiment]
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, x := range experimentsOf(st, "") {
			if x.ID == in.Experiment {
				found = &reply[api.Experiment]{experimentView(x)}
			}
		}
	})
	if found == nil {
		return nil, s.refuse(model.Errorf(model.NotFound, "cannot find experiment %q", in.Experiment).WithHint("kiln chaos report lists them"))
	}
	return found, nil
}

// experimentsOf returns those of a service ("": of all), the oldest first.
func experimentsOf(st *model.State, service string) []*model.Experiment {
	var list []*model.Experiment
	for _, name := range sortedKeys(st.Services) {
		if service != "" && name != service {
			continue
		}
		svc := st.Services[name]
		list = append(list, svc.Experiments...)
		if svc.Experiment != nil {
			list = append(list, svc.Experiment)
		}
	}
	slices.SortStableFunc(list, func(a, b *model.Experiment) int { return cmp.Compare(a.Started, b.Started) })
	return list
}

func experimentView(x *model.Experiment) api.Experiment {
	v := api.Experiment{
		ID: x.ID, Service: x.Service, Server: x.Server, Kind: x.Kind, Lasts: x.Lasts, By: x.By, StartedAt: x.StartedAt.UTC(),
		Failed: x.Failed, Outcome: x.Outcome, Reason: x.Reason,
	}
	if x.Ended != 0 {
		at := x.EndedAt.UTC()
		v.EndedAt = &at
	}
	if x.Applied != 0 {
		at := x.StartedAt.Add(x.Applied.Sub(x.Started)).UTC()
		v.AppliedAt = &at
	}
	after := func(at model.Instant) *model.Duration {
		if at == 0 || x.Applied == 0 {
			return nil
		}
		d := model.Duration(at.Sub(x.Applied).Round(time.Millisecond))
		return &d
	}
	v.DetectedAfter, v.RecoveredAfter = after(x.Detected), after(x.Replaced)
	return v
}

// chaosInWords says what an event of an experiment means.
func chaosInWords(p model.Payload) (service, text string) {
	switch p := p.(type) {
	case model.ExperimentStarted:
		x := p.Experiment
		text = fmt.Sprintf("experiment %s: %s is disturbed (%s", x.ID, x.Server, x.Kind)
		if x.Lasts > 0 {
			text += ", for " + x.Lasts.String()
		}
		return x.Service, text + ")"
	case model.ExperimentAdvanced:
		switch {
		case p.Ending != "":
			text = fmt.Sprintf("is being ended (%s): %s", p.Ending, p.Reason)
		case p.Armed != 0:
			text = "may begin: the disruption budget lets the server be away"
		case p.Replaced != 0:
			text = "all servers are healthy again"
		case p.Detected != 0:
			text = "it was noticed"
		default:
			text = "the disturbance is in force"
		}
		return p.Service, fmt.Sprintf("experiment %s: %s", p.ID, text)
	case model.ExperimentEnded:
		return p.Service, fmt.Sprintf("experiment %s ended (%s): %s; %d %s failed", p.ID, p.Outcome, p.Reason, p.Failed, plural(int(p.Failed), "request"))
	default:
		return "", ""
	}
}
