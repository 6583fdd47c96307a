package server

import (
	"context"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/engine"
	"kiln/internal/model"
)

type deploymentInput struct {
	Deployment model.DeploymentID `path:"deployment"`
}

// found is a deployment with what belongs to it, as of one look at the state.
type found struct {
	progress api.Progress
	failed   []*model.Server // of the deployment's release, when it failed
	release  *model.Release
	seq      uint64
}

// findDeployment looks at a deployment. Its progress is level-based: whoever
// lost the stream asks again and misses nothing that still holds.
func (s *Server) findDeployment(id model.DeploymentID) (found, error) {
	var out found
	err := error(model.Errorf(model.NotFound, "cannot find deployment %q", id).WithHint("kiln events lists them"))
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		out.seq = st.Seq
		for _, name := range sortedKeys(st.Services) {
			svc := st.Services[name]
			d := svc.DeploymentByID(id)
			if d == nil {
				continue
			}
			err = nil
			out.release = svc.Release(d.To)
			out.progress = api.Progress{
				At: now.Wall, Phase: d.Phase, WaitingFor: d.WaitingFor, Release: d.To, Servers: serviceView(svc, now).Servers,
				Result: resultView(svc, d), Done: d.Verdict != "" && (d.Settled || d.Verdict != model.Succeeded),
			}
			if staging := stagingView(d, now); len(staging.Stages) > 1 {
				out.progress.Staging = &staging
			}
			if d.Verdict == model.Failed {
				out.failed = parkedOf(svc, d.To)
			}
		}
	})
	return out, err
}

// parkedOf returns copies of the parked servers of the release.
func parkedOf(svc *model.Service, release int) []*model.Server {
	var out []*model.Server
	for _, id := range sortedKeys(svc.Servers) {
		if srv := *svc.Servers[id]; srv.WasParked && srv.Release == release {
			out = append(out, &srv)
		}
	}
	return out
}

func (s *Server) deployment(ctx context.Context, in *deploymentInput) (*reply[api.Progress], error) {
	f, err := s.findDeployment(in.Deployment)
	if err != nil {
		return nil, s.refuse(err)
	}
	f.progress.Failure = s.failure(ctx, f)
	return &reply[api.Progress]{f.progress}, nil
}

// watch streams a deployment's progress: the events in words as they come, and
// where it stands after each. It ends after a line that is Done.
func (s *Server) watch(_ context.Context, in *deploymentInput) (*huma.StreamResponse, error) {
	first, err := s.findDeployment(in.Deployment)
	if err != nil {
		return nil, s.refuse(err)
	}
	return stream(func(hctx huma.Context, out *ndjson) error {
		ctx := hctx.Context()
		for after := first.seq; ; {
			changed := s.cfg.Control.Changed()
			f, err := s.findDeployment(in.Deployment)
			if err != nil {
				return err
			}
			after, err = s.sendEvents(ctx, out, f, after)
			if err != nil {
				return err
			}
			if f.progress.Done {
				f.progress.Failure = s.failure(ctx, f)
			}
			if err := out.send(f.progress); err != nil || f.progress.Done {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			}
		}
	}), nil
}

// sendEvents sends the events of the deployment's service since after, in
// words, up to the look at the state that f is.
func (s *Server) sendEvents(ctx context.Context, out *ndjson, f found, after uint64) (uint64, error) {
	for after < f.seq {
		entries, err := s.cfg.History.Entries(ctx, after, int(min(f.seq-after, 256)))
		if err != nil || len(entries) == 0 {
			return f.seq, err
		}
		for _, e := range entries {
			after = e.Event.Seq
			service, text := inWords(e.Event)
			// While it waits, what happens to the service is another's doing.
			waits := f.progress.Phase == model.DeployQueued
			if f.release == nil || service != f.release.Service || waits || standing(e.Event.Data) {
				continue
			}
			line := api.Progress{At: e.Event.At, Phase: f.progress.Phase, WaitingFor: f.progress.WaitingFor, Release: f.progress.Release, Staging: f.progress.Staging, Message: text}
			if err := out.send(line); err != nil {
				return after, err
			}
		}
	}
	return after, nil
}

// standing reports whether the event says where the deployment stands: that
// follows as a line of its own.
func standing(p model.Payload) bool {
	switch p.(type) {
	case model.DeploymentAdvanced, model.DeploymentEnded, model.DeploymentSettled:
		return true
	default:
		return false
	}
}

// failure gathers what helps to understand the first server that did not
// become fit for traffic: it is parked, so it can still be asked.
func (s *Server) failure(ctx context.Context, f found) *api.Failure {
	if len(f.failed) == 0 {
		return nil
	}
	srv := f.failed[0]
	out := &api.Failure{Server: srv.ID, Reason: srv.Reason, Probe: srv.HealthDetail, Port: f.release.Template.Port}
	if srv.Exit != nil {
		out.Exit = srv.Exit.String()
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	evidence, err := s.cfg.Engine.Collect(ctx, engine.Ref{Epoch: s.cfg.Version.Epoch, ID: srv.ID})
	if err != nil {
		return out
	}
	for _, l := range evidence.Log[max(0, len(evidence.Log)-20):] {
		out.Log = append(out.Log, l.Text)
	}
	for _, l := range evidence.Listening {
		out.Listening = append(out.Listening, l.Network+" "+l.Address)
	}
	out.Hint = failureHint(srv, f.release.Template, evidence)
	return out
}

// failureHint says what to try first.
func failureHint(srv *model.Server, t model.Template, e *engine.Evidence) string {
	if hint := writeHint(e); hint != "" {
		return hint
	}
	if srv.Exit != nil && len(e.Log) == 0 {
		return "it wrote nothing before it ended"
	}
	if srv.Exit != nil {
		return fmt.Sprintf("its log says why: kiln logs %s", srv.ID)
	}
	if t.Port == 0 {
		return ""
	}
	declared, loopback := false, ""
	for _, l := range e.Listening {
		host, port := splitPort(l.Address)
		if l.Network != "tcp" || port != t.Port {
			continue
		}
		if isLoopback(host) {
			loopback = l.Address
			continue
		}
		declared = true
	}
	switch {
	case declared:
		return ""
	case loopback != "":
		return fmt.Sprintf("it listens on %s only, which nobody outside the server can reach: let it listen on 0.0.0.0:%d", loopback, t.Port)
	case len(e.Listening) == 0:
		return fmt.Sprintf("it listens on no port at all, while port = %d is declared", t.Port)
	default:
		return fmt.Sprintf("it does not listen on the declared port %d: set port to the one it uses, or let it use the declared one", t.Port)
	}
}
