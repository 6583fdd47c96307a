package server

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Word signs what is said of images, and reads what others have said.
type Word interface {
	// Rejected signs what is said of the image: that it is bad, or not after all.
	Rejected(ctx context.Context, d model.Digest) error
	// Approve signs, or takes in as it was signed, that the image may serve.
	Approve(ctx context.Context, d model.Digest, by string, req api.ApproveRequest) (api.Approval, error)
	// Said is what is attached to the image and holds.
	Said(ctx context.Context, d model.Digest) (Said, error)
}

// Witness knows how long images have served.
type Witness interface {
	// Serve signs how long the image was in service here, or takes in what another
	// kiln has signed of that.
	Serve(ctx context.Context, d model.Digest, by string, req api.ServedRequest) (api.Served, error)
}

// Said is what is said of an image under signatures that hold.
type Said struct {
	reconcile.Vouched
	Approved   []api.Approval    // oldest first
	Results    []api.Statement   // of checks
	Rejections []model.Rejection // by other instances
}

// lastWord is what other instances said last against an image, or for it: when they
// said it, not when it came here; nil: nothing.
func (s Said) lastWord() *model.Rejection {
	if len(s.Rejections) == 0 {
		return nil
	}
	last := slices.MaxFunc(s.Rejections, func(a, b model.Rejection) int { return a.At.Compare(b.At) })
	return &last
}

func (s *Server) registerPromotion(h huma.API) {
	huma.Register(h, operation("reject", http.MethodPost, api.PathReject, "Say that an image is bad"), s.reject)
	huma.Register(h, operation("approve", http.MethodPost, api.PathApprove, "Say that an image may serve in an environment"), s.approve)
	huma.Register(h, operation("approvals", http.MethodGet, api.PathApprovals, "Who has approved of an image"), s.approvals)
	huma.Register(h, operation("served", http.MethodPost, api.PathServed, "Sign how long an image was in service here, or take what another kiln has signed"), s.served)
}

// vouch returns what is said of an image, and takes over what other kilns have said
// against it.
func (s *Server) vouch(ctx context.Context, d model.Digest) (reconcile.Vouched, error) {
	if _, err := s.imageHere(string(d)); err != nil {
		return reconcile.Vouched{}, nil //nolint:nilerr // whoever goes on says so
	}
	said, err := s.cfg.Word.Said(ctx, d)
	if err != nil {
		return reconcile.Vouched{}, model.Errorf(model.CodeOf(err), "cannot read what is said of image %s: %w", d.Short(), err)
	}
	if r := said.lastWord(); r != nil {
		err := s.cfg.Control.Do(ctx, "kiln "+r.From, func(st *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, error) {
			if known := st.Images[d].Rejection; known != nil && !known.At.Before(r.At) {
				return nil, nil
			}
			return reconcile.Reject(st, reconcile.RejectRequest{Image: d, Rejection: *r}, now)
		})
		if err != nil {
			return reconcile.Vouched{}, err
		}
	}
	said.Checks = results(said.Results)
	return said.Vouched, nil
}

type approveInput struct {
	Image string `path:"image"`
	Body  api.ApproveRequest
}

func (s *Server) approve(ctx context.Context, in *approveInput) (*reply[api.Approval], error) {
	img, err := s.imageOf(in.Image)
	switch {
	case err != nil:
	case !model.ValidServiceName(in.Body.Environment):
		err = model.Errorf(model.Invalid, "cannot approve image %s: %q is not the name of an environment", img.Digest.Short(), in.Body.Environment)
	case !img.RemovedAt.IsZero():
		err = model.Errorf(model.Precondition, "cannot approve image %s: its content was removed", img.Digest.Short())
	case img.Rejected():
		err = model.Errorf(model.Precondition, "cannot approve image %s: it is rejected by %s: %s", img.Digest.Short(), img.Rejection.By, img.Rejection.Reason).
			WithHint("if it is not bad after all: kiln images unreject %s", img.Digest.Short())
	}
	if err != nil {
		return nil, s.refuse(err)
	}
	said, err := s.cfg.Word.Approve(ctx, img.Digest, peer(ctx, in.Body.Author), in.Body)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.Approval]{said}, nil
}

func (s *Server) approvals(ctx context.Context, in *imageInput) (*reply[api.Approvals], error) {
	img, err := s.imageOf(in.Image)
	if err != nil {
		return nil, s.refuse(err)
	}
	said, err := s.cfg.Word.Said(ctx, img.Digest)
	if err != nil {
		return nil, s.refuse(err)
	}
	out := &reply[api.Approvals]{api.Approvals{Image: img.Digest, Approvals: []api.Approval{}}}
	out.Body.Approvals = append(out.Body.Approvals, said.Approved...)
	return out, nil
}

type servedInput struct {
	Image string `path:"image"`
	Body  api.ServedRequest
}

func (s *Server) served(ctx context.Context, in *servedInput) (*reply[api.Served], error) {
	img, err := s.imageKnown(in.Image)
	what := "say how long image " + img.Digest.Short() + " served"
	switch {
	case err != nil:
	case !model.ValidServiceName(in.Body.Environment):
		err = model.Errorf(model.Invalid, "cannot %s: %q is not the name of an environment", what, in.Body.Environment)
	case !model.ValidServiceName(in.Body.Service):
		err = model.Errorf(model.Invalid, "cannot %s: %q is not the name of a service", what, in.Body.Service)
	case in.Body.Least < 0:
		err = model.Errorf(model.Invalid, "cannot %s: at least %s is no time", what, in.Body.Least)
	case !img.RemovedAt.IsZero():
		err = model.Errorf(model.Precondition, "cannot %s: its content was removed", what).WithHint("kiln build or kiln images pull brings it back")
	case img.Rejected():
		err = model.Errorf(model.Precondition, "cannot %s: it is rejected by %s: %s", what, img.Rejection.By, img.Rejection.Reason).
			WithHint("if it is not bad after all: kiln images unreject %s", img.Digest.Short())
	}
	if err != nil {
		return nil, s.refuse(err)
	}
	said, err := s.cfg.Witness.Serve(ctx, img.Digest, peer(ctx, in.Body.Author), in.Body)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.Served]{said}, nil
}

// imageOf finds an image by its name or digest, or as what a service has in service.
func (s *Server) imageOf(text string) (found model.Image, err error) {
	name, err := url.PathUnescape(text)
	if err != nil {
		name = text
	}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		var serving []model.Digest
		for _, service := range sortedKeys(st.Services) {
			svc := st.Services[service]
			r := svc.Release(svc.InService)
			if r == nil || svc.Destroyed || service != name && r.Declared != name {
				continue
			}
			if service == name {
				serving = []model.Digest{r.Template.Image}
				break
			}
			if len(serving) == 0 || serving[0] != r.Template.Image {
				serving = append(serving, r.Template.Image)
			}
		}
		switch len(serving) {
		case 0:
			var img *model.Image
			if img, err = imageNamed(st, name); err == nil {
				found = *img
			}
		case 1:
			if img := st.Images[serving[0]]; img != nil {
				found, err = copyOf(img), nil
				return
			}
			err = model.Errorf(model.NotFound, "cannot find image %s, which serves as %s", serving[0], name)
		default:
			err = model.Errorf(model.Invalid, "cannot tell which image of %q is meant: its environments have different ones in service", name).
				WithHint("name the service of one environment, as kiln status shows it, or the image")
		}
	})
	return found, err
}
