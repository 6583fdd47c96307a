package server

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

// Signer signs images, and checks what is signed.
type Signer interface {
	Key() api.Key
	// Sign signs an image that was built and is journalled, and says how it was built.
	// It does not wait for that; Check does.
	Sign(img model.Image, req api.BuildRequest, began time.Time)
	// Check reads and checks all that is attached to the image.
	Check(ctx context.Context, img model.Image) ([]api.Statement, error)
}

// Bringer brings what is attached to an image from where it was pulled from.
type Bringer interface {
	Bring(ctx context.Context, image model.Digest, ref string) error
}

func (s *Server) registerStatements(h huma.API) {
	huma.Register(h, operation("key", http.MethodGet, api.PathKey, "The key that images are signed with"), s.key)
	huma.Register(h, operation("statements", http.MethodGet, api.PathStatements, "What was said of an image under a signature"), s.statements)
}

func (s *Server) key(context.Context, *struct{}) (*reply[api.Key], error) {
	return &reply[api.Key]{s.cfg.Signer.Key()}, nil
}

type statementsInput struct {
	Image string `path:"image"`
}

func (s *Server) statements(ctx context.Context, in *statementsInput) (*reply[api.Statements], error) {
	img, err := s.imageKnown(in.Image)
	if err != nil {
		return nil, s.refuse(err)
	}
	list, err := s.cfg.Signer.Check(ctx, img)
	if err != nil {
		return nil, s.refuse(err)
	}
	own := map[string]bool{s.cfg.Signer.Key().ID: true}
	s.cfg.Control.View(func(st *model.State, _ *model.Snapshot) {
		for _, k := range st.Keys {
			own[k.ID] = own[k.ID] || k.Own
		}
	})
	return &reply[api.Statements]{api.Statements{
		Image: img.Digest, Statements: list, Passed: Passed(list),
		Signed: slices.ContainsFunc(list, func(x api.Statement) bool { return x.Holds && own[x.Key] && x.Type == model.SignatureType }),
	}}, nil
}
