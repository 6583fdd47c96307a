package server

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

func (s *Server) registerCommands(h huma.API) {
	huma.Register(h, large(operation("deploy", http.MethodPost, api.PathDeploy, "Make a release the one in service")), s.deploy)
	huma.Register(h, large(operation("plan", http.MethodPost, api.PathPlan, "Say what a deploy would do")), s.plan)
	huma.Register(h, operation("rollback", http.MethodPost, api.PathRollback, "Go back to a release"), s.rollback)
	huma.Register(h, operation("scale", http.MethodPost, api.PathScale, "Change the number of servers"), s.scale)
	huma.Register(h, operation("abort", http.MethodPost, api.PathAbort, "End the running deployment"), s.abort)
	huma.Register(h, operation("pause", http.MethodPost, api.PathPause, "Hold the running deployment at its stage"), s.stage(reconcile.Pause))
	huma.Register(h, operation("resume", http.MethodPost, api.PathResume, "Go on with a paused deployment"), s.stage(reconcile.Resume))
	huma.Register(h, operation("finish", http.MethodPost, api.PathFinish, "Pass over the stages that are left"), s.stage(reconcile.Finish))
	s.registerChaos(h)
	huma.Register(h, operation("recycle", http.MethodPost, api.PathRecycle, "Replace servers by identical ones"), s.recycle)
	huma.Register(h, operation("destroy", http.MethodPost, api.PathDestroy, "End a service with all its servers"), s.destroy)
}

// actor is who a command is journalled for.
func actor(name string) string { return cmp.Or(name, "someone") }

type deployInput struct {
	Service string `path:"service"`
	Body    api.DeployRequest
}

func (in *deployInput) request(snap *model.Snapshot) reconcile.DeployRequest {
	return reconcile.DeployRequest{
		Service: in.Service, Template: in.Body.Template, Policy: in.Body.Policy,
		Author: in.Body.Author, Reason: in.Body.Reason, Provenance: in.Body.Provenance,
		Actor: actor(in.Body.Author), Capacity: capacity(snap), Mode: reconcile.DeployMode(in.Body.Mode),
		Environment: in.Body.Environment, Declared: in.Body.Declared, Promoted: in.Body.Promoted,
	}
}

// capacity is what is free, nil while the engine has not been observed yet.
func capacity(snap *model.Snapshot) *model.Capacity {
	if snap == nil {
		return nil
	}
	return &snap.Capacity
}

func (s *Server) deploy(ctx context.Context, in *deployInput) (*reply[api.DeployAccepted], error) {
	err := s.fits("deploy "+in.Service, func(st *model.State, snap *model.Snapshot) int64 {
		return reconcile.DeployNeed(st, snap, in.Body.Template.Image)
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	template, release, err := s.cfg.Values.Settle(ctx, in.Body, true)
	if err != nil {
		return nil, s.refuse(err)
	}
	defer release()
	in.Body.Template = template
	vouched, err := s.vouch(ctx, in.Body.Template.Image)
	if err != nil {
		return nil, s.refuse(err)
	}
	return s.judged(ctx, in.Service, in.Body.Author, nil, func(st *model.State, snap *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		if st.Images[in.Body.Template.Image] == nil {
			return nil, reconcile.DeployResult{}, model.Errorf(model.NotFound, "cannot deploy %s: no image %s is here", in.Service, in.Body.Template.Image).
				WithHint("kiln images lists what is here")
		}
		req := in.request(snap)
		req.Vouched = vouched
		return reconcile.Deploy(st, req, now)
	})
}

// releasing is a command that may begin a deployment.
type releasing func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, reconcile.DeployResult, error)

// deployed carries out a command that may begin a deployment.
func (s *Server) deployed(ctx context.Context, service, author string,
	command releasing,
) (*reply[api.DeployAccepted], error) {
	var result reconcile.DeployResult
	err := s.cfg.Control.Do(ctx, actor(author), func(st *model.State, snap *model.Snapshot, now model.Now) (events []model.Payload, err error) {
		events, result, err = command(st, snap, now)
		return events, err
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	var image model.Digest
	from := ""
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		if r := st.Services[service].Release(result.Release); r != nil {
			image, from = r.Template.Image, promotedFrom(r)
		}
	})
	out := &reply[api.DeployAccepted]{api.DeployAccepted{
		Service: service, Release: result.Release, Image: image, Verdict: result.Verdict, Queued: result.Queued, From: from,
	}}
	if result.Verdict == model.Unchanged {
		out.Body.Message = "nothing changes: release " + strconv.Itoa(result.Release) + " is what is declared"
	}
	if result.Deployment != "" {
		out.Body.Deployment = &result.Deployment
	}
	return out, nil
}

func (s *Server) plan(ctx context.Context, in *deployInput) (*reply[reconcile.Plan], error) {
	out := &reply[reconcile.Plan]{}
	template, _, err := s.cfg.Values.Settle(ctx, in.Body, false)
	if err != nil {
		return nil, s.refuse(err)
	}
	in.Body.Template = template
	vouched, err := s.vouch(ctx, in.Body.Template.Image)
	if err != nil {
		return nil, s.refuse(err)
	}
	now := s.cfg.Clock.Now()
	s.cfg.Control.View(func(st *model.State, snap *model.Snapshot) {
		req := in.request(snap)
		req.Vouched = vouched
		out.Body = reconcile.PlanDeploy(st, snap, req, now)
	})
	out.Body.Volumes = s.volumesLack(ctx, in.Body.Template)
	if err := s.planChecks(ctx, in, &out.Body); err != nil {
		return nil, s.refuse(err)
	}
	return out, nil
}

type rollbackInput struct {
	Service string `path:"service"`
	Body    api.RollbackRequest
}

func (s *Server) rollback(ctx context.Context, in *rollbackInput) (*reply[api.DeployAccepted], error) {
	if err := s.whole(ctx, in.Service, in.Body.To); err != nil {
		return nil, s.refuse(err)
	}
	if in.Body.Despite && strings.TrimSpace(in.Body.Reason) == "" {
		return nil, s.refuse(model.Errorf(model.Invalid, "cannot roll %s back despite its policy without a reason", in.Service).WithHint("-m says why"))
	}
	var despite func([]string)
	if in.Body.Despite {
		despite = func(failed []string) { in.Body.Reason += " (despite " + strings.Join(failed, ", ") + ")" }
	}
	return s.judged(ctx, in.Service, in.Body.Author, despite, func(st *model.State, snap *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		if _, err := serviceNamed(st, in.Service); err != nil {
			return nil, reconcile.DeployResult{}, err
		}
		return reconcile.Rollback(st, reconcile.RollbackRequest{
			Service: in.Service, To: in.Body.To, Author: in.Body.Author, Reason: in.Body.Reason,
			Actor: actor(in.Body.Author), Capacity: capacity(snap), Mode: reconcile.DeployMode(in.Body.Mode),
		}, now)
	})
}

type scaleInput struct {
	Service string `path:"service"`
	Body    api.ScaleRequest
}

func (s *Server) scale(ctx context.Context, in *scaleInput) (*reply[api.DeployAccepted], error) {
	return s.deployed(ctx, in.Service, in.Body.Author, func(st *model.State, snap *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		if _, err := serviceNamed(st, in.Service); err != nil {
			return nil, reconcile.DeployResult{}, err
		}
		return reconcile.Scale(st, reconcile.ScaleRequest{
			Service: in.Service, Servers: in.Body.Servers, Author: in.Body.Author, Reason: in.Body.Reason,
			Actor: actor(in.Body.Author), Capacity: capacity(snap), Mode: reconcile.DeployMode(in.Body.Mode),
		}, now)
	})
}

type abortInput struct {
	Service string `path:"service"`
	Body    api.AbortRequest
}

func (s *Server) abort(ctx context.Context, in *abortInput) (*reply[api.Accepted], error) {
	out := &reply[api.Accepted]{api.Accepted{Service: in.Service}}
	err := s.cfg.Control.Do(ctx, actor(in.Body.Author), func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		svc, err := serviceNamed(st, in.Service)
		if err != nil {
			return nil, err
		}
		out.Body.Deployment = in.Body.Deployment
		if svc.Deployment != nil && in.Body.Deployment == "" {
			out.Body.Deployment = svc.Deployment.ID
		}
		return reconcile.Abort(st, reconcile.AbortRequest{
			Service: in.Service, Deployment: in.Body.Deployment, Actor: actor(in.Body.Author), Reason: in.Body.Reason,
		}, now)
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	return out, nil
}

type stageInput struct {
	Service string `path:"service"`
	Body    api.StageRequest
}

// stage carries out a command about the running deployment's stages, and says
// how it stands since.
func (s *Server) stage(command func(*model.State, reconcile.StageRequest, model.Now) ([]model.Payload, error)) func(context.Context, *stageInput) (*reply[api.StageAccepted], error) {
	return func(ctx context.Context, in *stageInput) (*reply[api.StageAccepted], error) {
		var id model.DeploymentID
		err := s.cfg.Control.Do(ctx, actor(in.Body.Author), func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
			svc, err := serviceNamed(st, in.Service)
			if err != nil {
				return nil, err
			}
			if svc.Deployment != nil {
				id = svc.Deployment.ID
			}
			return command(st, reconcile.StageRequest{
				Service: in.Service, Deployment: in.Body.Deployment, Actor: actor(in.Body.Author), Reason: in.Body.Reason, For: in.Body.For,
			}, now)
		})
		if err != nil {
			return nil, s.refuse(err)
		}
		out := &reply[api.StageAccepted]{api.StageAccepted{Service: in.Service}}
		now := s.cfg.Clock.Now()
		s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
			if d := st.Services[in.Service].DeploymentByID(id); d != nil {
				out.Body.Deployment = deploymentView(d, now)
			}
		})
		return out, nil
	}
}

type destroyInput struct {
	Service string `path:"service"`
	Body    api.DestroyRequest
}

func (s *Server) destroy(ctx context.Context, in *destroyInput) (*reply[api.Accepted], error) {
	err := s.cfg.Control.Do(ctx, actor(in.Body.Author), func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
		if _, err := serviceNamed(st, in.Service); err != nil {
			return nil, err
		}
		return reconcile.DestroyService(st, in.Service)
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.Accepted]{api.Accepted{Service: in.Service}}, nil
}
