package model

import "time"

// Upkeep is the part of a policy that says what becomes of servers that serve:
// when they are replaced though they are healthy, who may open a shell in one,
// and what is kept of those that are gone. The zero value of each part is the
// default, so that releases of kilns that knew none of it keep their meaning.
type Upkeep struct {
	Drift     DriftPolicy     `json:"drift,omitzero"`
	Lifetime  Lifetime        `json:"lifetime,omitzero"`
	Chaos     ChaosPolicy     `json:"chaos,omitzero"`
	Retention RetentionPolicy `json:"retention,omitzero"`
	Shell     ShellRule       `json:"shell,omitempty"`
	Park      Duration        `json:"park,omitempty"` // how long a server that failed to become healthy is kept for inspection; 0: DefaultPark; negative: not at all
}

// The defaults of Upkeep.
const (
	DefaultPark          = Duration(15 * time.Minute)
	DefaultDriftInterval = Duration(30 * time.Second)
	DefaultKeepReleases  = 5
	DefaultKeepFor       = Duration(30 * 24 * time.Hour)
)

// DriftResponse says what is done about a server that is not its template any
// more.
type DriftResponse string

// The responses to drift.
const (
	DriftReplace DriftResponse = "replace" // the default
	DriftAlert   DriftResponse = "alert"   // it is written down and told, and nothing else
)

// DriftPolicy says how closely servers are compared with their template.
type DriftPolicy struct {
	Response DriftResponse `json:"response,omitempty"` // "": replace
	Interval Duration      `json:"interval,omitempty"` // of what no event tells; 0: DefaultDriftInterval
}

// Lifetime bounds the age of servers: each is replaced by an identical one
// before it is MaxAge old. Its own bound lies in [MaxAge × (1 − Jitter), MaxAge],
// by its id, so that servers made together do not end together.
type Lifetime struct {
	MaxAge Duration `json:"max_age,omitempty"` // 0: servers may live for ever
	Jitter int      `json:"jitter,omitempty"`  // per cent of MaxAge, 0 to 90
}

// ShellRule says whether shells and hotfixes may be opened in servers.
type ShellRule string

// The shell rules.
const (
	ShellAllow ShellRule = "allow" // the default; whoever opens one taints the server
	ShellDeny  ShellRule = "deny"
)

// RetentionPolicy bounds what is kept of a service's past: a release whose
// template was in service stays possible to roll back to while it is one of
// the newest Releases such, or younger than For. The larger of the two wins.
type RetentionPolicy struct {
	Releases int      `json:"releases,omitempty"` // 0: DefaultKeepReleases
	For      Duration `json:"for,omitempty"`      // since it left service, elapsed time; 0: DefaultKeepFor
}

// ParkFor returns how long a failed server is kept; 0: not at all.
func (u Upkeep) ParkFor() time.Duration {
	if u.Park == 0 {
		return DefaultPark.D()
	}
	return max(0, u.Park.D())
}

// WithDefaults returns the policy with what is unset filled in.
func (d DriftPolicy) WithDefaults() DriftPolicy {
	if d.Response == "" {
		d.Response = DriftReplace
	}
	if d.Interval == 0 {
		d.Interval = DefaultDriftInterval
	}
	return d
}

// WithDefaults returns the policy with what is unset filled in.
func (r RetentionPolicy) WithDefaults() RetentionPolicy {
	if r.Releases == 0 {
		r.Releases = DefaultKeepReleases
	}
	if r.For == 0 {
		r.For = DefaultKeepFor
	}
	return r
}

// Condemned says that a server in service is to be replaced by an identical
// one, start-first and within the disruption budget.
type Condemned struct {
	Cause  CondemnCause `json:"cause"`
	Reason string       `json:"reason"` // in words
	Since  Instant      `json:"since"`  // when that was decided
	From   Instant      `json:"from"`   // not before
	Until  Instant      `json:"until"`  // it shall be gone by then; 0: as soon as the budget allows
	Late   bool         `json:"late,omitempty"`
}

// CondemnCause is why a server is to be replaced.
type CondemnCause string

// The causes.
const (
	CondemnedByDrift    CondemnCause = "drift"    // it is not its template any more
	CondemnedBySession  CondemnCause = "session"  // a hotfix or a shell has tainted it
	CondemnedByLifetime CondemnCause = "lifetime" // it has reached its age
	CondemnedByRequest  CondemnCause = "request"  // somebody asked for it
)
