package model

import (
	"math"
	"strconv"
	"strings"
	"time"
)

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

// clockJump is how far the wall clock and the elapsed time may part between two
// looks. Both are slewed alike; only a clock that is set makes them part.
const clockJump = time.Minute

// ClockJump returns how far the wall clock went another way than the elapsed
// time since the last event: forward, or back where it is negative; 0: it did
// not.
func (s *State) ClockJump(wall time.Time, elapsed Instant) time.Duration {
	if s.Wall.IsZero() || s.Elapsed == 0 {
		return 0
	}
	by := wall.Sub(s.Wall) - elapsed.Sub(s.Elapsed)
	if by.Abs() < clockJump {
		return 0
	}
	return by
}

// Duration is a time.Duration that travels as text ("1m30s") in JSON.
type Duration time.Duration

// D returns d as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// day is 24 hours: durations are elapsed time and know no calendar.
const day = 24 * time.Hour

// String formats d as time.Duration does, without empty units ("10m", not
// "10m0s"), and two whole days or more in days.
func (d Duration) String() string {
	if days := d.D() / day; days >= 2 && d.D()%day == 0 {
		return strconv.Itoa(int(days)) + "d"
	}
	return d.hours()
}

// hours formats d in units that time.ParseDuration knows.
func (d Duration) hours() string {
	s := time.Duration(d).String()
	if len(s) > 3 && s[len(s)-3:] == "m0s" {
		s = s[:len(s)-2]
	}
	if len(s) > 3 && s[len(s)-3:] == "h0m" {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText implements encoding.TextMarshaler. What is written is part of
// hashes and of the journal's format, so it has no days.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.hours()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	*d = v
	return err
}

// ParseDuration reads what time.ParseDuration does, and days before it: "90d",
// "1d12h".
func ParseDuration(text string) (Duration, error) {
	number, rest, found := strings.Cut(text, "d")
	if !found || number == "" || strings.Trim(number, "0123456789.") != "" {
		d, err := time.ParseDuration(text)
		return Duration(d), err
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n > float64(math.MaxInt64/2/int64(day)) {
		return 0, Errorf(Invalid, "%q is longer than a duration can be", text)
	}
	d := time.Duration(n * float64(day))
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil {
			return 0, err
		}
		if more < 0 || more > math.MaxInt64-d {
			return 0, Errorf(Invalid, "%q is not a duration", text)
		}
		d += more
	}
	return Duration(d), nil
}
