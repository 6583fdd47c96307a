package model

import (
	"strconv"
	"time"
)

// Snapshot is everything an engine sees at one instant that bears the
// instance's mark. It is complete: what is absent from it does not exist.
type Snapshot struct {
	Servers  []Observed `json:"servers"`
	Orphans  []string   `json:"orphans,omitempty"` // remains of no known form, in words
	Images   []Digest   `json:"images,omitempty"`  // present and whole
	Capacity Capacity   `json:"capacity"`
}

// Server returns the observed server with the id, or nil if it is absent.
func (s *Snapshot) Server(id ServerID) *Observed {
	for i := range s.Servers {
		if s.Servers[i].ID == id {
			return &s.Servers[i]
		}
	}
	return nil
}

// Capacity is what is left for further servers.
type Capacity struct {
	MemoryTotal int64 `json:"memory_total"` // bytes
	MemoryFree  int64 `json:"memory_free"`  // bytes that could be given to servers now
	Addresses   int   `json:"addresses"`    // free addresses
}

// RunState is what an engine sees of a server's main process.
type RunState string

// The run states.
const (
	Starting RunState = "starting" // accepted; the process does not run yet
	Running  RunState = "running"
	Exited   RunState = "exited" // ended; its remains are kept
)

// Observed is one server as the engine sees it.
type Observed struct {
	ID           ServerID  `json:"id"`
	Epoch        uint64    `json:"epoch"` // of the last mutation
	TemplateHash string    `json:"template_hash"`
	State        RunState  `json:"state"`
	Address      string    `json:"address,omitempty"` // IP without port
	StartedAt    time.Time `json:"started_at,omitzero"`
	Exit         *Exit     `json:"exit,omitempty"` // set when Exited
}

// Exit is how a server's main process ended.
type Exit struct {
	Known  bool      `json:"known"` // false: it ended while nobody could see how
	Code   int       `json:"code"`  // exit status; 128+n for signal n
	Signal string    `json:"signal,omitempty"`
	OOM    bool      `json:"oom,omitempty"` // ended because its memory limit was reached
	At     time.Time `json:"at,omitzero"`
}

// String says it as a person would.
func (e *Exit) String() string {
	switch {
	case e == nil || !e.Known:
		return "ended, status unknown"
	case e.OOM:
		return "killed: out of memory (its limit was reached)"
	case e.Signal != "":
		return "ended by " + e.Signal
	default:
		return "exit status " + strconv.Itoa(e.Code)
	}
}

// HealthStatus is what the probes say of a server.
type HealthStatus string

// The health statuses. Unknown takes nobody out of service.
const (
	HealthUnknown HealthStatus = "unknown"
	Healthy       HealthStatus = "healthy"
	Unhealthy     HealthStatus = "unhealthy"
)

// HealthObserved is the standing result of the probes of one server.
type HealthObserved struct {
	Status HealthStatus `json:"status"`
	At     Instant      `json:"at"`               // when the last probe that counts ended
	Detail string       `json:"detail,omitempty"` // the last probe: address, status, first bytes
}
