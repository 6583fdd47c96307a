package model

import (
	"strings"
	"time"
)

// Detector names what sees a drift.
type Detector string

// The detectors.
const (
	DetectFiles     Detector = "files"         // the server's upper layer, and the layers below it on the host
	DetectProcesses Detector = "processes"     // what runs in its control group or namespaces
	DetectConfig    Detector = "configuration" // mounts, environment, capabilities, limits, namespaces, addresses, seccomp
	DetectFleet     Detector = "fleet"         // what belongs to no server: tasks, snapshots, firewall, links
)

// Finding is one thing that is not as the template says. It is an observation;
// that it was seen is journalled once.
type Finding struct {
	Server   ServerID  `json:"server,omitempty"` // "": of the fleet
	Detector Detector  `json:"detector"`
	What     string    `json:"what"`              // "file added", "foreign process", "capability added", …
	Where    string    `json:"where"`             // path, pid and executable, name of the setting, link, …
	Detail   string    `json:"detail,omitempty"`  // wanted and seen
	How      string    `json:"how"`               // how it was seen: "inotify of the upper layer", "digest of the layer", …
	At       time.Time `json:"at"`                // when it was first seen
	Session  string    `json:"session,omitempty"` // of kiln's own that explains it: a hotfix, not drift
}

// Key identifies the finding among those of its server: the same thing seen
// again is no news.
func (f Finding) Key() string {
	return string(f.Server) + "\x00" + string(f.Detector) + "\x00" + f.What + "\x00" + f.Where
}

// Mendable reports whether kiln can make it as it should be by itself, without
// touching a server: its firewall and its links. What begins with one of these
// words is such a finding.
func (f Finding) Mendable() bool {
	return f.Server == "" && (strings.HasPrefix(f.What, "firewall") || strings.HasPrefix(f.What, "link"))
}

// Inspections are the standing findings of the latest inspections.
type Inspections struct {
	Servers map[ServerID][]Finding // a server that is absent was not inspected, which says nothing
	Fleet   []Finding              // of what belongs to no server
	FleetAt Instant                // when that was looked at; 0: not yet
}

// FindingsKept bounds how many findings of a server the journal names; of the
// rest it keeps the number.
const FindingsKept = 20

// Drift is what is known of a server's drift.
type Drift struct {
	Since    Instant       `json:"since"`
	Findings []Finding     `json:"findings"`       // the first FindingsKept, oldest first
	More     int           `json:"more,omitempty"` // findings that are not named
	Noted    int           `json:"noted"`          // findings that were ever named: at FindingsKept no more are, so that what comes and goes fills no journal
	Response DriftResponse `json:"response"`       // what was decided
	Done     string        `json:"done"`           // the same in words: "it is being replaced", "…"
}

// Drifts reports whether something stands that the server's template does not
// have, or the server is replaced for what once stood.
func (srv *Server) Drifts() bool {
	d, c := srv.Drift, srv.Condemned
	return d != nil && (len(d.Findings)+d.More > 0 || c != nil && c.Cause == CondemnedByDrift)
}

// DriftRecurrence counts servers of one template that drifted soon after they
// had been made: what makes them drift is in the image's own start-up, and
// replacing them again and again does not help.
type DriftRecurrence struct {
	TemplateHash string  `json:"template_hash"`
	Count        int     `json:"count"`
	Halted       bool    `json:"halted,omitempty"` // no more replacements for drift until another template is in service
	Reason       string  `json:"reason,omitempty"`
	Since        Instant `json:"since"`
}
