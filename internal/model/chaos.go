package model

import (
	"fmt"
	"time"
)

// ChaosKind is a way to disturb a server.
type ChaosKind string

// The kinds of disturbance.
const (
	ChaosKill      ChaosKind = "kill"            // SIGKILL to its first process
	ChaosTerminate ChaosKind = "terminate"       // its stop signal, and SIGKILL after the grace
	ChaosFreeze    ChaosKind = "freeze"          // its control group is frozen
	ChaosLoss      ChaosKind = "network-loss"    // packets to and from it are dropped
	ChaosLatency   ChaosKind = "network-latency" // what it sends comes ChaosDelay late
	ChaosCPU       ChaosKind = "cpu"             // a process in its control group burns what it may
	ChaosMemory    ChaosKind = "memory"          // a process in its control group fills its memory
	ChaosDiskFull  ChaosKind = "disk-full"       // its writable places are filled
)

// ChaosKinds returns all of them, in the order in which they are documented.
func ChaosKinds() []ChaosKind {
	return []ChaosKind{ChaosKill, ChaosTerminate, ChaosFreeze, ChaosLoss, ChaosLatency, ChaosCPU, ChaosMemory, ChaosDiskFull}
}

// Lasting reports whether the disturbance goes on until it is undone; the
// others are over at once.
func (k ChaosKind) Lasting() bool { return k != ChaosKill && k != ChaosTerminate }

// ChaosPolicy opts a service in to being disturbed. Its zero value: never.
type ChaosPolicy struct {
	MeanBetween Duration       `json:"mean_between,omitempty"` // elapsed time from one experiment to the next, exponentially distributed
	Hours       string         `json:"hours,omitempty"`        // "09:00-15:00"; one that ends before it begins goes over midnight; "": all day
	Days        []time.Weekday `json:"days,omitempty"`         // on which the hours begin; empty: every day
	TimeZone    string         `json:"time_zone,omitempty"`    // of the IANA database; "": UTC
	Kinds       []ChaosKind    `json:"kinds,omitempty"`        // empty: kill
	Lasts       Duration       `json:"lasts,omitempty"`        // at most, of those that last; 0: DefaultChaosLasts
}

// Minutes returns the minutes of the day at which the hours begin and end; an
// end that is not later is the next day's. False: they say nothing that is one.
func (p ChaosPolicy) Minutes() (first, last int, ok bool) {
	var h1, m1, h2, m2 int
	const hours, form = 24, len("09:00-15:00")
	n, err := fmt.Sscanf(p.Hours, "%2d:%2d-%2d:%2d", &h1, &m1, &h2, &m2)
	if err != nil || n != 4 || len(p.Hours) != form {
		return 0, 0, false
	}
	first, last = 60*h1+m1, 60*h2+m2
	ok = h1 >= 0 && m1 >= 0 && h2 >= 0 && m2 >= 0 && m1 < 60 && m2 < 60 && first < hours*60 && last <= hours*60
	return first, last, ok && first != last
}

// ChaosDelay is how late packets come: a way around the world, and back.
const ChaosDelay = 300 * time.Millisecond

// DefaultChaosLasts is how long a disturbance that lasts is kept up at most.
const DefaultChaosLasts = Duration(30 * time.Second)

// Disturbance is what is done to a server.
type Disturbance struct {
	Kind  ChaosKind `json:"kind"`
	Lasts Duration  `json:"lasts,omitempty"` // of those that last
}

// ExperimentID is x-xxxxxx, six of [a-z2-7].
type ExperimentID string

// Experiment is one disturbance and what came of it.
type Experiment struct {
	ID        ExperimentID `json:"id"`
	Service   string       `json:"service"`
	Server    ServerID     `json:"server"`
	Kind      ChaosKind    `json:"kind"`
	Lasts     Duration     `json:"lasts,omitempty"`
	By        string       `json:"by"` // "kiln": it was due; or who asked
	StartedAt time.Time    `json:"started_at"`
	Started   Instant      `json:"started"`
	Armed     Instant      `json:"armed,omitempty"`    // when the disruption budget let its server be away: a spare one stood ready where it lets none
	Applied   Instant      `json:"applied,omitempty"`  // when the disturbance was in force
	Detected  Instant      `json:"detected,omitempty"` // when kiln decided that the server is unhealthy or has ended
	Replaced  Instant      `json:"replaced,omitempty"` // when the service had its count of healthy servers again
	Failed    uint64       `json:"failed"`             // requests to the server that failed, from the start to the end
	Before    uint64       `json:"before,omitempty"`   // what the routers had counted of such when it started
	Ending    ChaosOutcome `json:"ending,omitempty"`   // what it ends with as soon as the disturbance is undone; "": it goes on
	Outcome   ChaosOutcome `json:"outcome,omitempty"`  // "": it runs
	Reason    string       `json:"reason,omitempty"`
	EndedAt   time.Time    `json:"ended_at,omitzero"`
	Ended     Instant      `json:"ended,omitempty"`
}

// ChaosOutcome is how an experiment ended.
type ChaosOutcome string

// The outcomes.
const (
	ChaosRecovered ChaosOutcome = "recovered" // it was noticed, and the service is whole again
	ChaosWithstood ChaosOutcome = "withstood" // the server stayed healthy all along
	ChaosStopped   ChaosOutcome = "stopped"   // the service's own health suffered, a deployment began, or somebody ended it
	ChaosFailed    ChaosOutcome = "failed"    // it could not be carried out, or the service did not recover in time
)

// ExperimentsKept bounds how many ended experiments of a service the fold
// remembers; the journal keeps them all.
const ExperimentsKept = 1000
