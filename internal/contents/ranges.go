package contents

import (
	"encoding/json"
	"slices"
)

// specifics is what databases and distributions add to entries.
type specifics struct {
	Severity word // GitHub's
	Urgency  word // Debian's
}

// UnmarshalJSON implements json.Unmarshaler. What has another form is no error: the
// format leaves to databases what they put there.
func (s *specifics) UnmarshalJSON(b []byte) error {
	var plain struct{ Severity, Urgency word }
	if json.Unmarshal(b, &plain) == nil {
		*s = specifics(plain)
	}
	return nil
}

// word is a string, or nothing.
type word string

// UnmarshalJSON implements json.Unmarshaler.
func (w *word) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*w = word(s)
	}
	return nil
}

// versionRange is a range of versions: of OSV's, "affected[].ranges[]".
type versionRange struct {
	Type   string  `json:"type"`
	Events []event `json:"events"`
}

// event is where a range begins or ends. One of its fields is set.
type event struct {
	Introduced   string `json:"introduced"` // from here on
	Fixed        string `json:"fixed"`      // before this
	LastAffected string `json:"last_affected"`
	Limit        string `json:"limit"`
}

func (e event) version() string {
	for _, v := range []string{e.Introduced, e.Fixed, e.LastAffected} {
		if v != "" {
			return v
		}
	}
	return e.Limit
}

// includes reports whether a version is affected, and by which it is mended. The
// algorithm is the format's own (https://ossf.github.io/osv-schema/#evaluation).
func (f *affected) includes(version, system string) (in bool, fixed string, err error) {
	listed := slices.Contains(f.Versions, version)
	for _, r := range f.Ranges {
		order := system
		switch r.Type {
		case "SEMVER":
			order = "Go" // whose versions are semantic
		case "ECOSYSTEM":
		default:
			continue // commits, which packages do not tell
		}
		hit, next, bad := r.includes(version, order)
		if bad != nil {
			err = bad
			continue
		}
		if hit || listed {
			fixed = earlier(order, fixed, next)
		}
		in = in || hit
	}
	return in || listed, fixed, err
}

// includes reports whether a version is in the range, and the first later one in which
// it is mended.
func (r versionRange) includes(version, order string) (in bool, fixed string, err error) {
	events, err := r.sorted(order)
	if err != nil {
		return false, "", err
	}
	limited, below := false, false
	for _, e := range events {
		after, err := reaches(order, version, e.version())
		if err != nil {
			return false, "", err
		}
		switch {
		case e.Introduced != "":
			in = in || after >= 0
		case e.Fixed != "" && after >= 0:
			in = false
		case e.Fixed != "":
			if fixed == "" {
				fixed = e.Fixed
			}
		case e.LastAffected != "" && after > 0:
			in = false
		case e.Limit != "":
			limited, below = true, below || e.Limit == "*" || after < 0
		}
	}
	return in && (!limited || below), fixed, nil
}

// reaches compares a version with an event's, of which "0" comes before all.
func reaches(order, version, of string) (int, error) {
	switch of {
	case "0":
		return 1, nil
	case "*":
		return -1, nil
	}
	return compare(order, version, of)
}

// sorted returns the events in the order of their versions.
func (r versionRange) sorted(order string) ([]event, error) {
	var bad error
	events := slices.Clone(r.Events)
	slices.SortStableFunc(events, func(a, b event) int {
		v, w := a.version(), b.version()
		switch {
		case v == w:
			return 0
		case v == "0" || w == "*":
			return -1
		case w == "0" || v == "*":
			return 1
		}
		c, err := compare(order, v, w)
		if err != nil {
			bad = err
		}
		return c
	})
	return events, bad
}
