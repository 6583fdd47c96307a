package api

import (
	"context"
	"net/url"
	"time"

	"kiln/internal/model"
)

// The paths of chaos.
const (
	PathChaos       = "/v1/chaos"                         // GET ?service= → ChaosReport
	PathChaosRun    = "/v1/services/{service}/chaos/run"  // POST ChaosRequest → ChaosAccepted
	PathChaosStop   = "/v1/services/{service}/chaos/stop" // POST ChaosStopRequest → ChaosAccepted
	PathChaosReport = "/v1/chaos/{experiment}"            // GET → Experiment
)

// ChaosRequest asks that a server be disturbed now.
type ChaosRequest struct {
	Server model.ServerID  `json:"server,omitempty"` // "": any that serves
	Kind   model.ChaosKind `json:"kind"`
	Lasts  model.Duration  `json:"lasts,omitempty"` // 0: as the policy says
	Author string          `json:"author,omitempty"`
}

// ChaosStopRequest ends the experiment that runs.
type ChaosStopRequest struct {
	Author string `json:"author,omitempty"`
}

// ChaosAccepted says that the command is durable.
type ChaosAccepted struct {
	Service    string     `json:"service"`
	Experiment Experiment `json:"experiment"`
}

// ChaosReport is every experiment that is remembered, the oldest first; the
// journal has them all.
type ChaosReport struct {
	At          time.Time    `json:"at"`
	Experiments []Experiment `json:"experiments"`
}

// Experiment is one disturbance and what came of it. Times count from when the
// disturbance was in force.
type Experiment struct {
	ID             model.ExperimentID `json:"id"`
	Service        string             `json:"service"`
	Server         model.ServerID     `json:"server"`
	Kind           model.ChaosKind    `json:"kind"`
	Lasts          model.Duration     `json:"lasts,omitempty"`
	By             string             `json:"by"` // "kiln": it was due
	StartedAt      time.Time          `json:"started_at"`
	AppliedAt      *time.Time         `json:"applied_at,omitempty"` // when it was in force: where the budget lets no server be away, a spare one came before
	EndedAt        *time.Time         `json:"ended_at,omitempty"`
	DetectedAfter  *model.Duration    `json:"detected_after,omitempty"`  // until kiln had decided that the server is unhealthy or has ended
	RecoveredAfter *model.Duration    `json:"recovered_after,omitempty"` // until the service had all its servers again, healthy
	Failed         uint64             `json:"failed"`                    // requests to the server that failed, from start to end
	Outcome        model.ChaosOutcome `json:"outcome"`                   // "": it runs
	Reason         string             `json:"reason,omitempty"`
}

// RunChaos disturbs a server.
func (c *Client) RunChaos(ctx context.Context, service string, in ChaosRequest) (*ChaosAccepted, error) {
	return post[ChaosAccepted](ctx, c, path(PathChaosRun, service), in)
}

// StopChaos ends the experiment that runs.
func (c *Client) StopChaos(ctx context.Context, service string, in ChaosStopRequest) (*ChaosAccepted, error) {
	return post[ChaosAccepted](ctx, c, path(PathChaosStop, service), in)
}

// ChaosReport asks for the experiments of a service; "": of all.
func (c *Client) ChaosReport(ctx context.Context, service string) (*ChaosReport, error) {
	query := url.Values{}
	if service != "" {
		query.Set("service", service)
	}
	return get[ChaosReport](ctx, c, PathChaos, query)
}

// Experiment asks for one.
func (c *Client) Experiment(ctx context.Context, id model.ExperimentID) (*Experiment, error) {
	return get[Experiment](ctx, c, path(PathChaosReport, string(id)), nil)
}
