// Package reconcile decides. It is pure: (state, observation, now) → events or
// actions. The shell (package control) appends the events to the journal,
// folds them, and asks again; when nothing more has to be written down, it
// carries the actions out and observes what came of them.
//
// It is level-triggered: whatever was lost in a crash, the journal's state and
// a fresh observation lead to the same decisions.
package reconcile

import "kiln/internal/model"

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
	// UnderWay holds the keys of the actions that have not ended.
	UnderWay map[Key]bool
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
