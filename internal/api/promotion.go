package api

import (
	"context"

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
