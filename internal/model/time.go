package model

import "time"

// Instant is a point in kiln's elapsed time: nanoseconds that the instance's
// machine has been running, suspended time included (CLOCK_BOOTTIME), carried
// on over reboots by the journal. Deadlines, lifetimes and ages are Instants;
// the wall clock decides none of them. Zero means "never" or "unset".
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the elapsed time from o to i.
func (i Instant) Sub(o Instant) time.Duration { return time.Duration(i - o) }

// Reached reports whether the deadline i is set and has come.
func (i Instant) Reached(now Now) bool { return i != 0 && now.Elapsed >= i }

// Now is what the shell knows of the time when it asks for a decision.
type Now struct {
	Elapsed Instant   // for deadlines, lifetimes and ages
	Wall    time.Time // for people and calendars, UTC
	BootID  string    // changes with each boot of the machine
}

// Duration is a time.Duration that travels as text ("1m30s") in JSON.
type Duration time.Duration

// D returns d as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String formats d as time.Duration does, without empty units: "10m", not "10m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if len(s) > 3 && s[len(s)-3:] == "m0s" {
		s = s[:len(s)-2]
	}
	if len(s) > 3 && s[len(s)-3:] == "h0m" {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}
