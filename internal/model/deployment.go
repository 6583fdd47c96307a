package model

import "time"

// DeployPhase is where a deployment stands. Its transition table is in package
// reconcile, beside the decisions.
type DeployPhase string

// The phases of a deployment.
const (
	DeployQueued       DeployPhase = "queued"       // waits until the deployment before it has ended
	DeployPreparing    DeployPhase = "preparing"    // the image is made present and verified
	DeployProvisioning DeployPhase = "provisioning" // the new servers are started
	DeployChecking     DeployPhase = "checking"     // every new server must become healthy
	DeployValidating   DeployPhase = "validating"   // every new server must pass the validations
	DeploySwitching    DeployPhase = "switching"    // the table that names the new set awaits its acknowledgements
	DeployHolding      DeployPhase = "holding"      // a stage is acknowledged by every router, and watched for its time
	DeployEnded        DeployPhase = "ended"
)

// Verdict is how a deployment ended.
type Verdict string

// The verdicts.
const (
	Succeeded Verdict = "succeeded"
	Failed    Verdict = "failed"
	Aborted   Verdict = "aborted"
	Unknown   Verdict = "unknown"   // facts are missing; never a guess
	Unchanged Verdict = "unchanged" // nothing had to be done; no release was made
)

// Deployment is one attempt to make a release the one in service.
type Deployment struct {
	ID         DeploymentID `json:"id"`
	Service    string       `json:"service"`
	From       int          `json:"from"` // the release in service when it began; 0: none
	To         int          `json:"to"`
	Strategy   Strategy     `json:"strategy"`
	Phase      DeployPhase  `json:"phase"`
	WaitingFor string       `json:"waiting_for,omitempty"` // in words
	Actor      string       `json:"actor,omitempty"`
	StartedAt  time.Time    `json:"started_at"`
	Started    Instant      `json:"started"`
	Since      Instant      `json:"since"`           // when it came to this phase
	Until      Instant      `json:"until"`           // the deadline of this phase
	Deadline   Instant      `json:"deadline"`        // of the whole
	Abort      string       `json:"abort,omitempty"` // who asked for its end, and why
	Generation uint64       `json:"generation,omitempty"`

	// Stages are what the strategy comes to, decided at the start; Stage is the
	// index of the one that is worked on.
	Stages []Stage `json:"stages,omitempty"`
	Stage  int     `json:"stage,omitempty"`
	Held   int     `json:"held,omitempty"`   // the number (from 1) of the stage that is in force: every router has acknowledged it; 0: none yet
	Pause  *Pause  `json:"pause,omitempty"`  // the stage is held until somebody resumes or finishes it
	Finish string  `json:"finish,omitempty"` // who asked to pass over the stages that are left, and why

	// Scales is, for one that was queued by a scale, the release whose number of
	// servers it changes: it is started only where that one's template serves.
	Scales int `json:"scales,omitempty"`

	Switched bool `json:"switched,omitempty"` // its release came into service, perhaps after the verdict "unknown"

	Verdict  Verdict   `json:"verdict,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	EndedAt  time.Time `json:"ended_at,omitzero"`
	TookMS   int64     `json:"took_ms,omitempty"`
	Settled  bool      `json:"settled,omitempty"` // what it took out of service is drained
	Finished uint64    `json:"requests_finished,omitempty"`
	Cut      uint64    `json:"requests_cut,omitempty"`
}

// Stage is one step of a deployment: what is in rotation once every router has
// acknowledged it. The last stage has no old servers; with its
// acknowledgement the release is in service.
type Stage struct {
	New    int      `json:"new"`              // servers of the new release in rotation
	Old    int      `json:"old"`              // servers of the old release in rotation
	Away   int      `json:"away,omitempty"`   // old servers that leave the rotation before the new ones are made, where there is no room for more
	Weight int      `json:"weight,omitempty"` // canary: per cent of the requests for the new release; 0: by number of servers
	Hold   Duration `json:"hold,omitempty"`   // from the acknowledgement to the next stage
}

// Pause says that somebody holds a deployment where it is.
type Pause struct {
	By    string  `json:"by"`
	Since Instant `json:"since"`
	Until Instant `json:"until"` // then the deployment is aborted
}

// StageNow returns the stage that is worked on. A deployment without stages,
// as older journals have it, has one: the whole set of count servers.
func (d *Deployment) StageNow(count int) Stage {
	if len(d.Stages) == 0 {
		return Stage{New: count}
	}
	return d.Stages[min(d.Stage, len(d.Stages)-1)]
}

// LastStage reports whether the stage that is worked on is the last one.
func (d *Deployment) LastStage() bool { return d.Stage >= len(d.Stages)-1 }

// Committed reports whether the table that brings the release into service is
// published: a router may use it, and the way back is a rollback.
func (d *Deployment) Committed() bool { return d.Generation != 0 && d.LastStage() }
