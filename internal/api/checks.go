package api

import (
	"context"
	"net/url"

	"kiln/internal/model"
)

// CheckRequest asks whether an image, that of the template, is what the policy
// asks for.
type CheckRequest struct {
	Template model.Template `json:"template"`
	Policy   model.Policy   `json:"policy"`
	Author   string         `json:"author,omitempty"`
}

// ImageChecks is what an image was found to be.
type ImageChecks struct {
	Image   model.Digest `json:"image"`
	Service string       `json:"service"`
	Passed  bool         `json:"passed"` // every check
	Checks  []ImageCheck `json:"checks"`
}

// ImageCheck is one thing that was asked of an image.
type ImageCheck struct {
	Name   string `json:"name"` // policy/RULE or image/VALIDATION
	Passed bool   `json:"passed"`
	// Pending: it was not asked yet; it is before a deploy is accepted.
	Pending bool   `json:"pending,omitempty"`
	Detail  string `json:"detail"` // in one line
	// Findings are what is not as it should be, at most 20.
	Findings []CheckFinding `json:"findings,omitempty"`
	More     int            `json:"more,omitempty"`  // findings past those
	Notes    []string       `json:"notes,omitempty"` // what somebody should know, and nothing fails for
}

// CheckFinding is one thing that is not as it should be.
type CheckFinding struct {
	What string `json:"what"` // where, and what was seen
	Hint string `json:"hint,omitempty"`
}

// Check asks whether an image is what a declared service's policy asks for.
func (c *Client) Check(ctx context.Context, service string, in CheckRequest) (*ImageChecks, error) {
	return post[ImageChecks](ctx, c, path(PathCheck, service), in)
}

// ImageChecks asks whether an image is what the newest release of a service asks
// for; without a service, the one that the image is of.
func (c *Client) ImageChecks(ctx context.Context, image, service string) (*ImageChecks, error) {
	return get[ImageChecks](ctx, c, path(PathChecks, image), url.Values{"service": {service}})
}
