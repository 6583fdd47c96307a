package leaks

import (
	"fmt"

	"kiln/internal/model"
)

// Severity says what a finding means for the image.
type Severity string

// The severities.
const (
	Refuse Severity = "refuse" // the image is not to be sealed
	Warn   Severity = "warn"   // it may be; somebody should look
)

// Configuration is the layer of a finding that is in no layer, but in the image's
// configuration or its history.
const Configuration = -1

// Finding is one thing that should not be in an image. It never holds a secret.
type Finding struct {
	Rule     string   `json:"rule"` // one of RuleNames
	Severity Severity `json:"severity"`
	// Layer counts from 0, the lowest; Configuration: none.
	Layer  int          `json:"layer"`
	Digest model.Digest `json:"digest,omitempty"` // of the layer, as the manifest has it
	// Path is absolute. Of a finding in the configuration it is env:NAME,
	// label:NAME, history:N (from 1), or command.
	Path string `json:"path"`
	Line int    `json:"line,omitempty"` // from 1; 0: it is no text, or it is about the whole file
	// What it is, for people. Of a secret it tells at most the first four characters
	// and the length; of a password the length alone.
	What string `json:"what"`
	// RemovedLater: a later layer deletes or replaces the file. It is in the image
	// all the same, and whoever pulls it can read it.
	RemovedLater bool `json:"removed_later,omitempty"`
	// SHA256 of the file's content in hexadecimal digits, for an entry of the
	// allow-list; "": the file is no regular one, or larger than a search window
	// and not asked for by an entry.
	SHA256 string `json:"sha256,omitempty"`
	Hint   string `json:"hint"` // what to do
}

// String returns the finding on one line, without the hint.
func (f Finding) String() string {
	return fmt.Sprintf("%s [%s, %s]", f.Words(), f.Rule, f.Severity)
}

// Words says where it is and what.
func (f Finding) Words() string {
	words := f.place() + ": " + f.What
	if f.RemovedLater {
		words += "; a later layer removes or replaces it, and it is in the image all the same"
	}
	return words
}

func (f Finding) place() string {
	switch {
	case f.Layer == Configuration:
		return f.Path
	case f.Line > 0:
		return fmt.Sprintf("layer %d: %s:%d", f.Layer+1, f.Path, f.Line)
	default:
		return fmt.Sprintf("layer %d: %s", f.Layer+1, f.Path)
	}
}

// Report is what a search found.
type Report struct {
	Findings []Finding `json:"findings"` // in the order of layers and their entries, those of the configuration first
	Allowed  []Allow   `json:"allowed"`  // found, and allowed
	Stale    []Entry   `json:"stale"`    // entries of the allow-list that nothing was found for
	Partial  []Partial `json:"partial"`  // files that were judged by a part of them
	// More counts findings past the first thousand, which are not in Findings.
	More int `json:"more,omitempty"`
}

func newReport() *Report {
	return &Report{Findings: []Finding{}, Allowed: []Allow{}, Stale: []Entry{}, Partial: []Partial{}}
}

// Refused reports whether the image is not to be sealed.
func (r *Report) Refused() bool {
	for _, f := range r.Findings {
		if f.Severity == Refuse {
			return true
		}
	}
	return r.More > 0
}

// Allow is a finding, and the entry that allows it.
type Allow struct {
	Finding Finding `json:"finding"`
	Entry   Entry   `json:"entry"`
}

// Partial is a file that is judged by its form, and is too large for that: only
// its first bytes were. For keys and tokens all of it was searched.
type Partial struct {
	Layer int    `json:"layer"`
	Path  string `json:"path"`
	Size  int64  `json:"size"` // bytes
	Read  int64  `json:"read"` // bytes
}

// mostFindings bounds a report.
const mostFindings = 1000

// add puts a finding where it belongs: among those that are allowed, or not.
func (r *Report) add(f Finding, allow Allowed) {
	if e, ok := allow.entry(f); ok {
		if len(r.Allowed) < mostFindings || !allow.met[e.Line] {
			r.Allowed = append(r.Allowed, Allow{f, e})
		}
		allow.met[e.Line] = true
		return
	}
	if len(r.Findings) >= mostFindings {
		r.More++
		return
	}
	r.Findings = append(r.Findings, f)
}
