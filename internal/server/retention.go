package server

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/control"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Retention says what is kept, and removes what nothing holds.
type Retention interface {
	Survey(ctx context.Context) control.Survey
	Sweep(ctx context.Context, actor string) (control.Survey, error)
	Last() control.Survey
}

// Admission adds images: never while one is being removed. here reports whether
// the content is there.
type Admission interface {
	Admit(ctx context.Context, actor string, command control.Command, here func() bool) error
}

func (s *Server) registerRetention(h huma.API) {
	huma.Register(h, operation("retention", http.MethodGet, api.PathRetention, "What is kept, and what would be removed"), s.survey)
	huma.Register(h, operation("sweep", http.MethodPost, api.PathRetention, "Remove what nothing holds"), s.sweep)
	huma.Register(h, operation("pin", http.MethodPost, api.PathPin, "Keep an image, whatever retention says"), s.pin)
	huma.Register(h, operation("outdated", http.MethodGet, api.PathOutdated, "Which services stand on a base that has a newer image"), s.outdated)
}

func (s *Server) survey(ctx context.Context, _ *struct{}) (*reply[api.Survey], error) {
	out := surveyView(s.cfg.Retention.Survey(ctx))
	out.DryRun = true
	return &reply[api.Survey]{out}, nil
}

type sweepInput struct{ Body api.SweepRequest }

func (s *Server) sweep(ctx context.Context, in *sweepInput) (*reply[api.Survey], error) {
	swept, err := s.cfg.Retention.Sweep(context.WithoutCancel(ctx), actor(in.Body.Author))
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.Survey]{surveyView(swept)}, nil
}

func surveyView(in control.Survey) api.Survey {
	out := api.Survey{At: in.At, Objects: in.Kept, Missing: in.Missing, Failed: in.Failed}
	for _, list := range []*[]string{&out.Missing, &out.Failed} {
		if *list == nil {
			*list = []string{}
		}
	}
	if out.Objects == nil {
		out.Objects = []model.Kept{}
	}
	out.Bytes, out.Idle, out.Freed = sumOf(in.Kept)
	return out
}

// sumOf adds up all bytes, those of what serves nobody, those of what goes.
func sumOf(kept []model.Kept) (all, idle, goes int64) {
	for _, k := range kept {
		all += k.Bytes
		if !k.Serves {
			idle += k.Bytes
		}
		if !k.Keep {
			goes += k.Bytes
		}
	}
	return all, idle, goes
}

// storage is what status says of the disk, nil while nothing was looked at.
func (s *Server) storage(st *model.State) *api.Storage {
	last := s.cfg.Retention.Last()
	if last.At.IsZero() {
		return nil
	}
	out := &api.Storage{At: last.At}
	out.Bytes, out.Idle, out.Removable = sumOf(last.Kept)
	if st.Disk != nil {
		out.Disk = *st.Disk
	} else {
		out.Disk.State = model.DiskWell
	}
	return out
}

type pinInput struct {
	Image string `path:"image"`
	Body  api.PinRequest
}

func (s *Server) pin(ctx context.Context, in *pinInput) (*reply[model.Image], error) {
	name, err := url.PathUnescape(in.Image)
	if err != nil {
		name = in.Image
	}
	var digest model.Digest
	err = s.cfg.Control.Do(ctx, actor(in.Body.Author), func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		img, err := imageNamed(st, name)
		if err != nil {
			return nil, err
		}
		digest = img.Digest
		return reconcile.Pin(st, reconcile.PinRequest{Image: img.Digest, Pinned: in.Body.Pinned, By: actor(in.Body.Author), Reason: in.Body.Reason})
	})
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[model.Image]{}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) { out.Body = copyOf(st.Images[digest]) })
	return out, nil
}

func (s *Server) outdated(context.Context, *struct{}) (*reply[api.Outdated], error) {
	out := &reply[api.Outdated]{api.Outdated{Services: []api.OutdatedService{}}}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, o := range reconcile.Outdated(st) {
			out.Body.Services = append(out.Body.Services, api.OutdatedService{
				Service: o.Service, Release: o.Release, Base: o.Base, Has: o.Has, Newest: o.Newest.Digest, Since: o.Newest.CreatedAt,
				Removed: !o.Newest.RemovedAt.IsZero(),
			})
		}
	})
	return out, nil
}

// fits refuses what would leave too little room on the disk. need is asked with
// the state; a disk that cannot be looked at refuses nothing.
func (s *Server) fits(what string, need func(*model.State, *model.Snapshot) int64) error {
	rooms, err := s.cfg.Rooms.Rooms()
	if err != nil {
		s.cfg.Log.Warn("cannot look at the disk", "error", err)
		return nil
	}
	bytes := int64(0)
	s.cfg.Control.View(func(st *model.State, snap *model.Snapshot) { bytes = need(st, snap) })
	return reconcile.FitsDisk(rooms, what, bytes)
}

// nothing is the need of what is not known beforehand.
func nothing(*model.State, *model.Snapshot) int64 { return 0 }
