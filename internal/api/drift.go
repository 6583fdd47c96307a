package api

import (
	"context"
	"net/url"
	"time"

	"kiln/internal/model"
)

// The paths of drift.
const (
	PathDrift        = "/v1/drift"                   // GET ?service= → Drift
	PathVerifyServer = "/v1/servers/{server}/verify" // POST → Verification
)

// Drift is what is not as its template says, and what was done about it.
type Drift struct {
	// Drifted says that something of it stands: a server that is there is not
	// its template, or the fleet is not as it should be.
	Drifted bool          `json:"drifted"`
	Servers []ServerDrift `json:"servers"` // those that are there first, then those that were replaced; newest first
	Fleet   []DriftFound  `json:"fleet"`   // what belongs to no server
	// Halted are the services of which no more servers are replaced for drift,
	// and why: it comes back with each replacement.
	Halted []DriftHalted `json:"halted"`
}

// ServerDrift is the drift of one server.
type ServerDrift struct {
	Server   model.ServerID      `json:"server"`
	Service  string              `json:"service"`
	Release  int                 `json:"release,omitempty"`
	Phase    model.ServerPhase   `json:"phase"` // "gone": it was replaced
	Since    time.Time           `json:"since"`
	Response model.DriftResponse `json:"response"`
	Done     string              `json:"done"` // in words
	Findings []DriftFound        `json:"findings"`
	More     int                 `json:"more,omitempty"` // findings that are not named
}

// DriftFound is one thing that was found.
type DriftFound struct {
	model.Finding
	Stands bool   `json:"stands"`         // it is still to be seen
	Done   string `json:"done,omitempty"` // of the fleet's
}

// DriftHalted says that replacing does not help.
type DriftHalted struct {
	Service string `json:"service"`
	Reason  string `json:"reason"`
}

// Verification is a server compared with its template now, byte for byte.
type Verification struct {
	Server   model.ServerID  `json:"server"`
	Service  string          `json:"service"`
	Image    model.Digest    `json:"image"`
	Same     bool            `json:"same"` // it is its template
	Findings []model.Finding `json:"findings"`
	TookMS   int64           `json:"took_ms"`
}

// Drift asks what is not as its template says; without a service, everywhere.
func (c *Client) Drift(ctx context.Context, service string) (*Drift, error) {
	query := url.Values{}
	if service != "" {
		query.Set("service", service)
	}
	return get[Drift](ctx, c, PathDrift, query)
}

// VerifyServer compares a server with its template, byte for byte.
func (c *Client) VerifyServer(ctx context.Context, id model.ServerID) (*Verification, error) {
	return post[Verification](ctx, c, path(PathVerifyServer, string(id)), struct{}{})
}
