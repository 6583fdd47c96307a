package server

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

// Contents says what is inside images.
type Contents interface {
	Diff(ctx context.Context, a, b model.Digest) (*api.ImageDiff, error)
	// Compare says where two images differ at all.
	Compare(ctx context.Context, a, b model.Digest) (*api.Discrepancies, error)
	// Bill returns the list of what is in an image in a form, and its media type.
	Bill(ctx context.Context, img model.Image, form string) (kind string, text []byte, err error)
}

func (s *Server) registerContents(h huma.API) {
	huma.Register(h, operation("image-diff", http.MethodGet, api.PathDiff, "How one image differs from another"), s.imageDiff)
	s.mux.HandleFunc("GET "+api.PathBill, s.bill)
}

type diffInput struct {
	From string `query:"from" required:"true"`
	To   string `query:"to" required:"true"`
}

func (s *Server) imageDiff(ctx context.Context, in *diffInput) (*reply[api.ImageDiff], error) {
	a, err := s.imageHere(in.From)
	if err != nil {
		return nil, s.refuse(err)
	}
	b, err := s.imageHere(in.To)
	if err != nil {
		return nil, s.refuse(err)
	}
	diff, err := s.cfg.Contents.Diff(ctx, a.Digest, b.Digest)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.ImageDiff]{*diff}, nil
}

func (s *Server) bill(w http.ResponseWriter, r *http.Request) {
	form := r.URL.Query().Get("form")
	img, err := s.imageHere(r.PathValue("image"))
	if err == nil && form != api.SPDX && form != api.CycloneDX {
		err = model.Errorf(model.Invalid, "there is no form %q of a list of what is in an image", form).WithHint("there are: %s, %s", api.SPDX, api.CycloneDX)
	}
	var kind string
	var text []byte
	if err == nil {
		kind, text, err = s.cfg.Contents.Bill(r.Context(), img, form)
	}
	if err != nil {
		s.refuseRaw(w, err)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(text) // the client may be gone
}

// imageHere finds an image whose content is here, as clients name it.
func (s *Server) imageHere(name string) (model.Image, error) {
	img, err := s.imageKnown(name)
	if err == nil && !img.RemovedAt.IsZero() {
		err = model.Errorf(model.Precondition, "cannot look into image %s: it was removed on %s, for nothing held it any more",
			img.Digest.Short(), img.RemovedAt.Format("2006-01-02 15:04:05"))
	}
	return img, err
}

// imageKnown finds an image, as clients name it in a path.
func (s *Server) imageKnown(name string) (img model.Image, err error) {
	if plain, bad := url.PathUnescape(name); bad == nil {
		name = plain
	}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		var found *model.Image
		if found, err = imageNamed(st, name); err == nil {
			img = copyOf(found)
		}
	})
	return img, err
}
