package api

import (
	"context"
	"time"

	"kiln/internal/model"
)

// Storage is what kiln keeps on the disk, in bytes.
type Storage struct {
	At        time.Time  `json:"at"`        // when it was looked at
	Bytes     int64      `json:"bytes"`     // of all that is kept, the build cache not counted
	Idle      int64      `json:"idle"`      // of them: held by what serves nobody
	Removable int64      `json:"removable"` // of these: nothing holds it, the next sweep removes it
	Disk      model.Disk `json:"disk"`      // the room where it is short, if it is
}

// Survey is all that is kept on the disk, with a verdict on each.
type Survey struct {
	At      time.Time    `json:"at"`
	DryRun  bool         `json:"dry_run"`
	Objects []model.Kept `json:"objects"`
	Bytes   int64        `json:"bytes"`   // of all
	Idle    int64        `json:"idle"`    // of what serves nobody
	Freed   int64        `json:"freed"`   // of what goes, or went
	Missing []string     `json:"missing"` // what could not be looked at, and why
	Failed  []string     `json:"failed"`  // what could not be removed, and why
}

// SweepRequest asks that what nothing holds is removed now.
type SweepRequest struct {
	Author string `json:"author,omitempty"`
}

// PinRequest asks that an image is kept, or need not be any more.
type PinRequest struct {
	Pinned bool   `json:"pinned"`
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Outdated is which services stand on a base that has a newer image.
type Outdated struct {
	Services []OutdatedService `json:"services"`
}

// OutdatedService is one base of a service's release in service.
type OutdatedService struct {
	Service string       `json:"service"`
	Release int          `json:"release"`
	Base    string       `json:"base"`              // as FROM calls it
	Has     model.Digest `json:"has"`               // that the service stands on
	Newest  model.Digest `json:"newest"`            // what bears the name now
	Since   time.Time    `json:"since"`             // when that came here
	Removed bool         `json:"removed,omitempty"` // the newest one was removed: bring it again first
}

// Survey asks what would be removed, and why the rest stays.
func (c *Client) Survey(ctx context.Context) (*Survey, error) {
	return get[Survey](ctx, c, PathRetention, nil)
}

// Sweep removes what nothing holds.
func (c *Client) Sweep(ctx context.Context, in SweepRequest) (*Survey, error) {
	return post[Survey](ctx, c, PathRetention, in)
}

// Pin marks an image to be kept, or unmarks it.
func (c *Client) Pin(ctx context.Context, image string, in PinRequest) (*model.Image, error) {
	return post[model.Image](ctx, c, path(PathPin, image), in)
}

// Outdated asks which services stand on a base that has a newer image.
func (c *Client) Outdated(ctx context.Context) (*Outdated, error) {
	return get[Outdated](ctx, c, PathOutdated, nil)
}
