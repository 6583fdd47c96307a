package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

// maxLocked bounds requests that carry a lock file, in bytes.
const maxLocked = 64 << 20

// Inputs knows what builds have fetched.
type Inputs interface {
	// Check reads the bytes with the digests.
	Check(ctx context.Context, digests []model.Digest) (api.InputsReport, error)
}

func (s *Server) registerInputs(h huma.API) {
	op := operation("inputs", http.MethodPost, api.PathInputs, "Whether bytes that builds have fetched are here, and whole")
	op.MaxBodyBytes = maxLocked
	huma.Register(h, op, s.inputs)
}

type inputsInput struct{ Body api.InputsRequest }

func (s *Server) inputs(ctx context.Context, in *inputsInput) (*reply[api.InputsReport], error) {
	report, err := s.cfg.Inputs.Check(ctx, in.Body.Digests)
	if err != nil {
		return nil, s.refuse(err)
	}
	return &reply[api.InputsReport]{report}, nil
}
