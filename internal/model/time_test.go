package model

import (
	"testing"
	"time"
)

func TestDurationsTakeDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "1.5d": 36 * time.Hour, "0d": 0, "90d": 2160 * time.Hour,
		"10s": 10 * time.Second, "1h30m": 90 * time.Minute, "-5m": -5 * time.Minute,
	} {
		if d, err := ParseDuration(text); err != nil || d.D() != want {
			t.Errorf("%q is %v, %v", text, d.D(), err)
		}
	}
	for _, text := range []string{"", "d", "1d-5h", "-1d", "1e3d", "99999999d", "1.2.3d", "1d1", "1h2d", "Infd"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%q was read as %s", text, d)
		}
	}
}

// People read days, the journal and what is hashed have hours as ever.
func TestDurationsAreWrittenInHours(t *testing.T) {
	for hours, want := range map[int]string{24: "24h", 48: "2d", 36: "36h", 720: "30d", 49: "49h"} {
		d := Duration(time.Duration(hours) * time.Hour)
		text, err := d.MarshalText()
		if err != nil || d.String() != want {
			t.Errorf("%d hours are %q, %v", hours, d.String(), err)
		}
		if v, err := time.ParseDuration(string(text)); err != nil || v != d.D() {
			t.Errorf("%d hours are stored as %q", hours, text)
		}
	}
}
