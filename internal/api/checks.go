package api

import (
	"context"
	"io"
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
	Log      []string       `json:"log,omitempty"`   // the last lines that the disposable server wrote, where it did not pass
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

// MaxList is the most that a list of vulnerabilities has.
const MaxList = 1 << 30 // bytes

// List is a list of vulnerabilities that the daemon keeps for policies.
type List struct {
	Name    string       `json:"name,omitempty"`
	Digest  model.Digest `json:"digest"`
	Size    int64        `json:"size,omitempty"`    // bytes
	Entries int          `json:"entries,omitempty"` // that it has
}

// List asks whether a list is here; NotFound: it is not.
func (c *Client) List(ctx context.Context, d model.Digest) (*List, error) {
	return get[List](ctx, c, PathLists, url.Values{"digest": {string(d)}})
}

// SendList brings a list: a file of the OSV format, or a zip archive of such. The
// name is what messages call it.
func (c *Client) SendList(ctx context.Context, name string, list io.Reader) (*List, error) {
	return answer[List](ctx, c, call{target: PathLists, query: url.Values{"name": {name}}, body: list, kind: "application/octet-stream"})
}
