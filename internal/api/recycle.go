package api

import (
	"context"
	"time"

	"kiln/internal/model"
)

// RecycleRequest asks that servers be replaced by identical ones.
type RecycleRequest struct {
	Target string `json:"target"` // a service: all of its servers in service; or one server
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Recycling says which servers are being replaced, one after the other.
type Recycling struct {
	Service string           `json:"service"`
	Servers []model.ServerID `json:"servers"`
}

// Condemned says that a server is to be replaced by an identical one.
type Condemned struct {
	Cause  model.CondemnCause `json:"cause"`
	Reason string             `json:"reason"`
	From   time.Time          `json:"from"`           // not before
	Until  *time.Time         `json:"until"`          // it shall be gone by then; null: as soon as the budget allows
	Late   bool               `json:"late,omitempty"` // its time was up, and it had to stay
}

// Recycle has servers replaced.
func (c *Client) Recycle(ctx context.Context, in RecycleRequest) (*Recycling, error) {
	return post[Recycling](ctx, c, PathRecycle, in)
}
