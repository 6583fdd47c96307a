package contents

import (
	"slices"
	"strings"

	cvss20 "github.com/pandatix/go-cvss/20"
	cvss30 "github.com/pandatix/go-cvss/30"
	cvss31 "github.com/pandatix/go-cvss/31"
	cvss40 "github.com/pandatix/go-cvss/40"
)

// Severity is how bad a vulnerability is, as a list gives it.
type Severity struct {
	Type  string `json:"type"`  // the method, such as CVSS_V3
	Score string `json:"score"` // in the method's form
}

// Level is how bad a vulnerability is, in one word.
type Level string

// The levels, which are CVSS's (https://www.first.org/cvss/v4.0/specification-document,
// section 6).
const (
	LevelUnknown  Level = ""
	LevelNone     Level = "none"
	LevelLow      Level = "low"
	LevelMedium   Level = "medium"
	LevelHigh     Level = "high"
	LevelCritical Level = "critical"
)

var levels = []Level{LevelUnknown, LevelNone, LevelLow, LevelMedium, LevelHigh, LevelCritical}

// AtLeast reports whether a level is known and at least as bad as another.
func (l Level) AtLeast(other Level) bool {
	return l != LevelUnknown && slices.Index(levels, l) >= slices.Index(levels, other)
}

// levelOf returns the level that a list says in its own words, first; else the worst
// of those that follow from the methods.
func levelOf(said []word, by []Severity) Level {
	for _, w := range said {
		if l := levelNamed(string(w)); l != LevelUnknown {
			return l
		}
	}
	worst := LevelUnknown
	for _, s := range by {
		l := levelNamed(s.Score)
		if strings.HasPrefix(s.Type, "CVSS") {
			l = levelScored(s.Score)
		}
		if l.AtLeast(worst) {
			worst = l
		}
	}
	return worst
}

// levelNamed understands the words of GitHub, Ubuntu and Debian, and CVSS's own.
func levelNamed(w string) Level {
	switch w = strings.ToLower(w); w {
	case "moderate":
		return LevelMedium
	case "negligible", "unimportant":
		return LevelLow
	}
	if slices.Contains(levels, Level(w)) {
		return Level(w)
	}
	return LevelUnknown
}

// levelScored returns the level of a CVSS vector of any version.
func levelScored(vector string) Level {
	rating, err := "", error(nil)
	switch {
	case strings.HasPrefix(vector, "CVSS:4.0/"):
		var v *cvss40.CVSS40
		if v, err = cvss40.ParseVector(vector); err == nil {
			rating, err = cvss40.Rating(v.Score())
		}
	case strings.HasPrefix(vector, "CVSS:3.1/"):
		var v *cvss31.CVSS31
		if v, err = cvss31.ParseVector(vector); err == nil {
			rating, err = cvss31.Rating(v.BaseScore())
		}
	case strings.HasPrefix(vector, "CVSS:3.0/"):
		var v *cvss30.CVSS30
		if v, err = cvss30.ParseVector(vector); err == nil {
			rating, err = cvss30.Rating(v.BaseScore())
		}
	default: // version 2 has no name before it, and no words for its scores: these are NVD's
		var v *cvss20.CVSS20
		if v, err = cvss20.ParseVector(vector); err == nil {
			rating = "low"
			if s := v.BaseScore(); s >= 7 {
				rating = "high"
			} else if s >= 4 {
				rating = "medium"
			}
		}
	}
	if err != nil {
		return LevelUnknown
	}
	return levelNamed(rating)
}
