// Package reconcile decides. It is pure: (state, observation, now) → events or
// actions. The shell (package control) appends the events to the journal,
// folds them, and asks again; when nothing more has to be written down, it
// carries the actions out and observes what came of them.
//
// It is level-triggered: whatever was lost in a crash, the journal's state and
// a fresh observation lead to the same decisions.
package reconcile

import (
	"time"

	"kiln/internal/model"
)

// Observation is what the shell sees of the world, all at about one instant.
type Observation struct {
	// Snapshot is the engine's, nil when it could not be observed. Then no
	// server is presumed gone.
	Snapshot *model.Snapshot
	// Routers are the live routers that answered; RoutersSilent counts those
	// that are known to live and did not.
	Routers       []model.RouterStatus
	RoutersSilent int
	// Health is the standing result of the probes. A server that is absent is
	// unknown.
	Health map[model.ServerID]model.HealthObserved
	// Outcomes are the actions that have ended since the last step.
	Outcomes []Outcome
	// Failing says of actions that are made again why they failed the last time.
	Failing map[Key]string
	// UnderWay holds the keys of the actions that have not ended.
	UnderWay map[Key]bool
	// Drift holds what the latest inspection of each server has found; a server
	// that is absent was not inspected, which says nothing. Fleet is the same of
	// what belongs to no server, nil where that was not looked at.
	Drift map[model.ServerID][]model.Finding
	Fleet *FleetObserved
	// Failed counts the requests to each server that failed, over all routers.
	Failed map[model.ServerID]uint64
	// Zones are the time zones that policies name, as the machine knows them. A
	// calendar in a zone that is absent is never open.
	Zones map[string]*time.Location
	// Disk is the room where kiln writes; nil: not known.
	Disk *model.Disk
}

// FleetObserved is what the latest inspection of the fleet has found.
type FleetObserved struct {
	Findings []model.Finding
}

// Decision is what follows. When Events is not empty, Actions is: events are
// made durable and folded first, then Step is asked again.
type Decision struct {
	Events  []model.Payload
	Actions []Action
	// Wake is when to ask again although nothing was observed; 0: not by time.
	Wake model.Instant
}

// Key identifies an action: the same key is not given again while it is under
// way.
type Key string

// Verb is what an action does.
type Verb string

// The verbs.
const (
	Prepare   Verb = "prepare"   // Image
	Provision Verb = "provision" // Server, Template
	Publish   Verb = "publish"   // Table, to every live router
	Validate  Verb = "validate"  // Server, Policy.Validations
	Inspect   Verb = "inspect"   // Server: collect evidence while it is alive, at most 10 s
	Stop      Verb = "stop"      // Server, Policy.StopSignal, Policy.StopGrace
	Record    Verb = "record"    // Server: collect, write the death record durably
	Destroy   Verb = "destroy"   // Server
	Disturb   Verb = "disturb"   // Server, Disturbance
	Calm      Verb = "calm"      // Server: undo what disturbs it
	Mend      Verb = "mend"      // make firewall and links as they should be
	Snapshot  Verb = "snapshot"  // Service, Volume, SnapshotID
)

// Action is a call to make. Actions are idempotent; one whose outcome is
// unknown is given again when an observation shows that it is still wanted.
type Action struct {
	Key      Key
	Verb     Verb
	Seq      uint64 // of the state it was decided on
	Service  string
	Server   model.ServerID
	Image    model.Digest
	Template *model.Template
	Policy   *model.Policy
	Address  string             // IP:port of the server, for Validate
	Table    *model.Table       // for Publish
	Record   *model.DeathRecord // for Record: all that is known without the evidence

	Disturbance *model.Disturbance // for Disturb
	Volume      string             // for Snapshot: its name in the service
	SnapshotID  string             // for Snapshot
	Obsolete    []string           // for Snapshot: ids of those that go when it is made
}

// Outcome is how an action ended. A context's end or an Internal error means
// that it is unknown.
type Outcome struct {
	Key    Key
	Verb   Verb
	Server model.ServerID
	Image  model.Digest
	Err    *model.Error       // nil: it succeeded
	Record *model.DeathRecord // of Record: with evidence or with what is missing
}
