package audit

import (
	"time"

	"kiln/internal/model"
)

// Account is what happened from Since to Until. Whatever began before and
// still was there then is part of it.
type Account struct {
	Instance model.InstanceID `json:"instance"`
	Service  string           `json:"service,omitempty"` // "": all services
	Since    time.Time        `json:"since"`
	Until    time.Time        `json:"until"`
	Chain    Chain            `json:"chain"`
	Services []Service        `json:"services"`
	Machine  []Entry          `json:"machine"` // what was of no service: daemons, settings, clocks, the disk, the fleet, what was removed
}

// Chain says whether the journal is whole: every event hashed with the one
// before, and the hashes signed now and then.
type Chain struct {
	Whole    bool     `json:"whole"`
	Events   uint64   `json:"events"`
	Head     string   `json:"head"`   // the hash of the last event
	Signed   int      `json:"signed"` // heads whose signature was checked
	Problems []string `json:"problems,omitempty"`
}

// Service is the account of one.
type Service struct {
	Name        string       `json:"name"`
	Images      []Image      `json:"images"`
	Line        []Ancestor   `json:"line"` // the images that were built or served, and which goes on from which; the newest first
	Deployments []Deployment `json:"deployments"`
	Servers     []Server     `json:"servers"`
	Sessions    []Session    `json:"sessions"`    // hotfixes and shells
	Drifts      []Drift      `json:"drifts"`      // servers that were not their template any more
	Experiments []Experiment `json:"experiments"` // chaos
	Recycled    []Recycled   `json:"recycled"`    // servers that were to be replaced by identical ones
	Other       []Entry      `json:"other"`       // what else was decided about it
}

// Entry is an event in words.
type Entry struct {
	Seq  uint64    `json:"seq"`
	Hash string    `json:"hash"`
	At   time.Time `json:"at"`
	By   string    `json:"by,omitempty"`
	Text string    `json:"text"`
}

// Image is one that was in service, and when.
type Image struct {
	Digest   model.Digest   `json:"digest"`
	Commit   string         `json:"commit,omitempty"` // of its source
	Dirty    bool           `json:"dirty,omitempty"`  // the source differed from the commit
	Author   string         `json:"author,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Parents  []model.Parent `json:"parents,omitempty"` // the images it was built on
	Release  int            `json:"release"`
	Rollback int            `json:"rollback_of,omitempty"`
	From     time.Time      `json:"from"`
	To       time.Time      `json:"to,omitzero"` // zero: it still is
	Servers  int            `json:"servers"`     // that ran it in this time
}

// Deployment is one, with what its checks said.
type Deployment struct {
	ID       model.DeploymentID `json:"id"`
	Seq      uint64             `json:"seq"`
	Hash     string             `json:"hash"`
	From     int                `json:"from"`
	To       int                `json:"to"`
	Image    model.Digest       `json:"image"`
	Strategy model.Strategy     `json:"strategy"`
	By       string             `json:"by,omitempty"`
	Reason   string             `json:"reason,omitempty"` // of the release
	At       time.Time          `json:"at"`
	EndedAt  time.Time          `json:"ended_at,omitzero"`
	Verdict  model.Verdict      `json:"verdict,omitempty"`
	Why      string             `json:"why,omitempty"` // of the verdict
	Checks   []Check            `json:"checks"`
	Finished uint64             `json:"requests_finished"`
	Cut      uint64             `json:"requests_cut"`
	Others   []string           `json:"others,omitempty"` // who aborted, paused, resumed, finished it

	begun bool // it does not wait in the queue
}

// Check is one that the servers of a deployment had to pass.
type Check struct {
	Name   string   `json:"name"`
	Passed int      `json:"passed"` // servers
	Failed []string `json:"failed,omitempty"`
}

// Server is one that ran.
type Server struct {
	ID        model.ServerID `json:"id"`
	Release   int            `json:"release"`
	Image     model.Digest   `json:"image"`
	Cause     string         `json:"cause"`
	CreatedAt time.Time      `json:"created_at"`
	ServedAt  time.Time      `json:"served_at,omitzero"` // when it first came into service
	LeftAt    time.Time      `json:"left_at,omitzero"`   // when it last left service
	EndedAt   time.Time      `json:"ended_at,omitzero"`
	Why       string         `json:"why,omitempty"` // it ended
	Exit      string         `json:"exit,omitempty"`
	Evidence  string         `json:"evidence,omitempty"` // digest of what it left
	Missing   []string       `json:"missing,omitempty"`
}

// Session is a terminal that somebody had in a server.
type Session struct {
	model.Session
	Seq        uint64      `json:"seq"`
	Hash       string      `json:"hash"`
	Until      time.Time   `json:"until"` // its server was to be gone by then
	Extensions []Extension `json:"extensions,omitempty"`
	NoOpened   hidden      `json:"opened,omitempty"`
}

// Extension is more time that a session was given.
type Extension struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"`
}

// hidden keeps a field of the same name of what is embedded out of JSON: it is
// of the machine's elapsed time, which says nothing elsewhere.
type hidden = *struct{}

// Drift is a server that was not its template any more.
type Drift struct {
	Entry
	Server   model.ServerID      `json:"server"`
	Findings []model.Finding     `json:"findings"`
	More     int                 `json:"more,omitempty"`
	Response model.DriftResponse `json:"response"`
	Done     string              `json:"done"`
}

// Experiment is a disturbance on purpose.
type Experiment struct {
	model.Experiment
	Seq            uint64         `json:"seq"`
	Hash           string         `json:"hash"`
	DetectedAfter  model.Duration `json:"detected_after,omitempty"`  // it was in force
	RecoveredAfter model.Duration `json:"recovered_after,omitempty"` // until the service was whole again

	NoStarted  hidden `json:"started,omitempty"`
	NoArmed    hidden `json:"armed,omitempty"`
	NoApplied  hidden `json:"applied,omitempty"`
	NoDetected hidden `json:"detected,omitempty"`
	NoReplaced hidden `json:"replaced,omitempty"`
	NoEnded    hidden `json:"ended,omitempty"`
}

// Recycled is a server that was to be replaced by an identical one.
type Recycled struct {
	Entry
	Server model.ServerID     `json:"server"`
	Cause  model.CondemnCause `json:"cause"`
	Reason string             `json:"reason"`
	GoneAt time.Time          `json:"gone_at,omitzero"`
}
