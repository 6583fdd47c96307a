package api

import (
	"context"

	"kiln/internal/model"
)

// LockFile is where what images are made from is declared, beside kiln.hcl.
const LockFile = "kiln.lock"

// Lock is what a build knows of the lock file.
type Lock struct {
	File   string   `json:"file"`             // its path, for messages
	Text   string   `json:"text,omitempty"`   // "": there is none yet
	Sealed bool     `json:"sealed,omitempty"` // build from it alone, without a network
	Update bool     `json:"update,omitempty"` // fetch anew
	Only   []string `json:"only,omitempty"`   // with Update: what matches one of these; none: everything
}

// InputsRequest names bytes.
type InputsRequest struct {
	Digests []model.Digest `json:"digests"`
}

// InputsReport says what is wrong with bytes that builds have fetched.
type InputsReport struct {
	Absent  []model.Digest `json:"absent"`  // not here
	Damaged []model.Digest `json:"damaged"` // here, and not what their digest says
}

// Inputs asks whether bytes that builds have fetched are here, and whole.
func (c *Client) Inputs(ctx context.Context, in InputsRequest) (*InputsReport, error) {
	return post[InputsReport](ctx, c, PathInputs, in)
}
