package api

import (
	"context"
	"time"

	"kiln/internal/model"
)

// Key is the key that this kiln signs with, its public half.
type Key struct {
	ID        string `json:"id"` // SHA-256 of its PKIX form, in hexadecimal
	Algorithm string `json:"algorithm"`
	PEM       string `json:"pem"` // PKIX
}

// Statements is what was said of an image under a signature.
type Statements struct {
	Image  model.Digest `json:"image"`
	Signed bool         `json:"signed"` // this kiln has signed its digest, and that holds
	// Passed are the names of the checks that it has passed, by the statements that hold
	// and are of keys that are trusted: of each name what was said last counts.
	Passed     []string    `json:"passed,omitempty"`
	Statements []Statement `json:"statements"` // by repository and manifest
}

// Statement is a signed statement as it is attached to an image in the registry,
// checked now.
type Statement struct {
	Repository string       `json:"repository"`
	Manifest   model.Digest `json:"manifest"` // of the artifact
	Bundle     model.Digest `json:"bundle,omitempty"`
	Type       string       `json:"type,omitempty"` // a URI; as an annotation has it where it does not hold
	Key        string       `json:"key,omitempty"`  // the id of the key that has signed it
	KeyName    string       `json:"key_name,omitempty"`
	Holds      bool         `json:"holds"`
	At         *time.Time   `json:"at,omitempty"`      // when this kiln made it, or first accepted it
	Trouble    string       `json:"trouble,omitempty"` // why it does not hold
	// Passed and Failed are the checks that a statement of their results names.
	Passed []string `json:"passed,omitempty"`
	Failed []string `json:"failed,omitempty"`
}

// Key asks for the key that the daemon signs with.
func (c *Client) Key(ctx context.Context) (*Key, error) { return get[Key](ctx, c, PathKey, nil) }

// Statements has what is attached to an image checked.
func (c *Client) Statements(ctx context.Context, image string) (*Statements, error) {
	return get[Statements](ctx, c, path(PathStatements, image), nil)
}
