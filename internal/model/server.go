package model

import (
	"slices"
	"time"
)

// BootBeforeRestore stands for the boot of a server that the journal knew when
// it was restored: whether it still runs is not known, and no fault if not.
const BootBeforeRestore = "before the journal was restored"

// ServerPhase is where a server stands in its life. Servers only move forward:
// CanBecome is the transition table.
type ServerPhase string

// The phases, in the order of a life.
const (
	PhaseCreated   ServerPhase = "created"   // decided; being provisioned
	PhaseRunning   ServerPhase = "running"   // its process runs; health checks and validations are under way
	PhaseReady     ServerPhase = "ready"     // passed every check; gets no traffic yet
	PhaseServing   ServerPhase = "serving"   // belongs to the set in service
	PhaseWarm      ServerPhase = "warm"      // was in service; waits out of rotation, still probed
	PhaseDraining  ServerPhase = "draining"  // gets nothing new; what is in flight may end
	PhaseParked    ServerPhase = "parked"    // failed; kept without traffic for inspection
	PhaseStopping  ServerPhase = "stopping"  // evidence is collected, then its process is ended
	PhaseEnded     ServerPhase = "ended"     // its process has ended; its remains are there
	PhaseRecorded  ServerPhase = "recorded"  // its death record is durable, or it is journalled why not
	PhaseDestroyed ServerPhase = "destroyed" // nothing of it is left
)

// serverMoves is the transition table of a server.
var serverMoves = map[ServerPhase][]ServerPhase{
	PhaseCreated:  {PhaseRunning, PhaseParked, PhaseStopping, PhaseEnded},
	PhaseRunning:  {PhaseReady, PhaseParked, PhaseStopping, PhaseEnded},
	PhaseReady:    {PhaseServing, PhaseDraining, PhaseParked, PhaseStopping, PhaseEnded},
	PhaseServing:  {PhaseWarm, PhaseDraining, PhaseEnded},
	PhaseWarm:     {PhaseServing, PhaseDraining, PhaseEnded},
	PhaseDraining: {PhaseParked, PhaseStopping, PhaseEnded}, // parked: for a session out of rotation
	PhaseParked:   {PhaseStopping, PhaseEnded},
	PhaseStopping: {PhaseEnded},
	PhaseEnded:    {PhaseRecorded},
	PhaseRecorded: {PhaseDestroyed},
}

// CanBecome reports whether a server in phase p may move to next.
func (p ServerPhase) CanBecome(next ServerPhase) bool {
	return slices.Contains(serverMoves[p], next)
}

// Alive reports whether a server in this phase has, or will have, a process.
func (p ServerPhase) Alive() bool {
	switch p {
	case PhaseEnded, PhaseRecorded, PhaseDestroyed:
		return false
	default:
		return true
	}
}

// Server is what the journal knows of one server.
type Server struct {
	ID           ServerID     `json:"id"`
	Service      string       `json:"service"`
	Release      int          `json:"release"` // the one it was made for, or last served for
	TemplateHash string       `json:"template_hash"`
	Cause        string       `json:"cause"` // why it was made, in words
	Phase        ServerPhase  `json:"phase"`
	Reason       string       `json:"reason,omitempty"` // for the present phase, in words
	CreatedAt    time.Time    `json:"created_at"`
	Created      Instant      `json:"created"`
	Since        Instant      `json:"since"`           // when it came to this phase
	Until        Instant      `json:"until,omitempty"` // when this phase must be over
	StartedAt    time.Time    `json:"started_at,omitzero"`
	RanSince     Instant      `json:"ran_since,omitempty"` // when its process was first seen running
	BootID       string       `json:"boot_id,omitempty"`   // of the boot in which it started
	Checks       string       `json:"checks,omitempty"`    // ChecksHash of the policy whose checks it has passed
	Address      string       `json:"address,omitempty"`   // IP:port once it runs; IP alone for a server without a port
	Health       HealthStatus `json:"health"`              // as last decided
	HealthSince  Instant      `json:"health_since"`
	HealthDetail string       `json:"health_detail,omitempty"`
	Lost         Instant      `json:"lost,omitempty"` // when it last counted as a loss of its service (Service.Losses)
	WasParked    bool         `json:"was_parked,omitempty"`
	Exit         *Exit        `json:"exit,omitempty"`
	Inspected    bool         `json:"inspected,omitempty"`    // evidence was collected while it was alive, as far as it could be had
	DrainSince   Instant      `json:"drain_since,omitempty"`  // when every live router had acknowledged a table without it; its drain deadlines count from here
	DrainGen     uint64       `json:"drain_gen,omitempty"`    // first table generation without it
	DrainFlight  int          `json:"drain_flight,omitempty"` // what was in flight to it when it was retired
	DrainCut     uint64       `json:"drain_cut,omitempty"`    // the routers' count of cut requests then
	Drained      bool         `json:"drained,omitempty"`      // nothing is in flight to it any more
	Finished     uint64       `json:"finished,omitempty"`     // requests that ended by themselves while it drained
	Cut          uint64       `json:"cut,omitempty"`          // requests that were cut
	Retired      DeploymentID `json:"retired,omitempty"`      // the deployment that took it out of service
	Record       *DeathRecord `json:"record,omitempty"`
	Condemned    *Condemned   `json:"condemned,omitempty"` // it is to be replaced, though it may be healthy
	Taint        *Taint       `json:"taint,omitempty"`     // somebody had a terminal in it
	Drift        *Drift       `json:"drift,omitempty"`     // it is not its template any more
	Aside        Instant      `json:"aside,omitempty"`     // it waits out of rotation for its session, until then, instead of being stopped
}

// DeathRecord is what the journal keeps of an ended server; the evidence
// itself is an archive, named by its digest.
type DeathRecord struct {
	Server   ServerID  `json:"server"`
	Service  string    `json:"service"`
	Release  int       `json:"release"`
	Image    Digest    `json:"image"`
	Reason   string    `json:"reason"` // why it ended, in words
	Exit     *Exit     `json:"exit,omitempty"`
	EndedAt  time.Time `json:"ended_at"`
	Evidence string    `json:"evidence,omitempty"` // sha256 digest of the archive; "" when it could not be had
	Missing  []string  `json:"missing,omitempty"`  // what could not be had, in words
}
