package api

import "kiln/internal/model"

// Plan is what a deploy of this template and policy would do, in words and as
// values. Nothing has been done yet.
type Plan struct {
	Service  string           `json:"service"`
	Change   PlanChange       `json:"change"`
	From     int              `json:"from"` // the release in service; 0: none
	To       int              `json:"to"`   // the number that the release would get; From when nothing changes
	Image    model.Digest     `json:"image"`
	Strategy model.Strategy   `json:"strategy,omitempty"`
	Changes  []string         `json:"changes"`           // what differs: "env LOG_LEVEL: info → debug"
	Servers  []PlannedServer  `json:"servers"`           // server by server
	Steps    []string         `json:"steps"`             // what happens, in order
	Longest  model.Duration   `json:"longest,omitempty"` // acceptance to the switch, if everything takes its time
	Deadline model.Duration   `json:"deadline,omitempty"`
	Rollback RollbackOutlook  `json:"rollback"`
	Notes    []string         `json:"notes,omitempty"`    // what a person should know
	Problems []string         `json:"problems,omitempty"` // why a deploy would be refused now
	Defaults []PlannedDefault `json:"defaults,omitempty"` // what was not declared; the client adds it
}

// PlanChange says what kind of release a deploy would make.
type PlanChange string

// The kinds of change.
const (
	ChangeNone     PlanChange = "none"     // nothing; no release would be made
	ChangeCreate   PlanChange = "create"   // the service's first servers
	ChangePolicy   PlanChange = "policy"   // no server is replaced
	ChangeTemplate PlanChange = "template" // every server is replaced
)

// PlannedServer is what would become of one server.
type PlannedServer struct {
	ID     model.ServerID `json:"id,omitempty"` // empty: it does not exist yet
	Action string         `json:"action"`       // "create", "keep", "warm", "retire"
	Reason string         `json:"reason,omitempty"`
}

// RollbackOutlook says whether one could go back afterwards.
type RollbackOutlook struct {
	Possible bool   `json:"possible"`
	To       int    `json:"to,omitempty"`
	Words    string `json:"words"` // "to release 3; one switch within 10m"
}

// PlannedDefault is a value that was not declared.
type PlannedDefault struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}
