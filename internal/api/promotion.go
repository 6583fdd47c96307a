package api

import (
	"context"
	"encoding/json"
	"time"

	"kiln/internal/model"
)

// RejectRequest says that an image is bad, or (Lifted) is not bad after all. Who
// says so is who asks, as the socket knows it.
type RejectRequest struct {
	Lifted bool   `json:"lifted,omitempty"`
	Reason string `json:"reason,omitempty"`
	Author string `json:"author,omitempty"` // where the socket does not know who asks
}

// Rejected is what is said of an image, and what runs of it.
type Rejected struct {
	Image     model.Digest     `json:"image"`
	Rejected  bool             `json:"rejected"`
	Rejection *model.Rejection `json:"rejection"`
	Running   []Running        `json:"running"`           // servers that run it, by service
	Signed    bool             `json:"signed"`            // the word is attached to the image, signed
	Trouble   string           `json:"trouble,omitempty"` // why it is not
}

// Running is a server that runs an image.
type Running struct {
	Service   string         `json:"service"`
	Release   int            `json:"release"`
	Server    model.ServerID `json:"server"`
	InService bool           `json:"in_service"`
}

// Reject says that an image is bad, or is not bad after all.
func (c *Client) Reject(ctx context.Context, image string, in RejectRequest) (*Rejected, error) {
	return post[Rejected](ctx, c, path(PathReject, image), in)
}

// ApproveRequest says that an image may serve in an environment. Who says so is who
// asks, as the socket knows it, or whose key has signed Bundle.
type ApproveRequest struct {
	Environment string `json:"environment"`
	Reason      string `json:"reason,omitempty"`
	Author      string `json:"author,omitempty"` // where the socket does not know who asks
	// Bundle is the approval as the approver has signed it; null: the kiln signs that
	// it was said.
	Bundle json.RawMessage `json:"bundle,omitempty"`
}

// Approval is somebody's word that an image may serve in an environment.
type Approval struct {
	Image       model.Digest `json:"image"`
	Environment string       `json:"environment"`
	By          string       `json:"by"`
	Reason      string       `json:"reason,omitempty"`
	At          time.Time    `json:"at"`
	Key         string       `json:"key"` // the id of the key that it is signed with
}

// Approvals are all that are attached to an image and hold, oldest first.
type Approvals struct {
	Image     model.Digest `json:"image"`
	Approvals []Approval   `json:"approvals"`
}

// ApprovalPredicate is what a statement of model.ApprovalType says.
type ApprovalPredicate struct {
	Environment string           `json:"environment"`
	By          string           `json:"by"`
	Reason      string           `json:"reason,omitempty"`
	At          time.Time        `json:"at"`
	Instance    model.InstanceID `json:"instance,omitempty"`
}

// Approve says that an image may serve in an environment.
func (c *Client) Approve(ctx context.Context, image string, in ApproveRequest) (*Approval, error) {
	return post[Approval](ctx, c, path(PathApprove, image), in)
}

// Approvals asks who has approved of an image.
func (c *Client) Approvals(ctx context.Context, image string) (*Approvals, error) {
	return get[Approvals](ctx, c, path(PathApprovals, image), nil)
}

// ServedRequest asks a kiln to sign how long an image was in service on it, or (with
// Bundle) to take what another kiln has signed.
type ServedRequest struct {
	Environment string `json:"environment"`
	Service     string `json:"service"`          // as it is called there: shop-staging
	Author      string `json:"author,omitempty"` // where the socket does not know who asks
	// Least is how long it has to have been: less is refused, and nothing is signed.
	// With it, a statement that was made before and says as much is given again.
	Least model.Duration `json:"least,omitempty"`
	// Bundle is what the kiln where it served has signed; null: this is that kiln.
	Bundle json.RawMessage `json:"bundle,omitempty"`
}

// Served is a kiln's signed word of how long an image was in service on it.
type Served struct {
	Image       model.Digest     `json:"image"`
	Environment string           `json:"environment"`
	Service     string           `json:"service"`
	For         model.Duration   `json:"for"` // its releases there together, in whole seconds
	At          time.Time        `json:"at"`  // when that was so
	Instance    model.InstanceID `json:"instance"`
	Key         string           `json:"key"`    // the id of the key that it is signed with
	Bundle      json.RawMessage  `json:"bundle"` // the statement, for the kiln that wants to know
}

// Served asks a kiln to sign how long an image was in service on it, or to take what
// another has signed.
func (c *Client) Served(ctx context.Context, image string, in ServedRequest) (*Served, error) {
	return post[Served](ctx, c, path(PathServed, image), in)
}
