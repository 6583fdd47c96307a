package audit

import (
	"fmt"
	"strings"
)

// word says in one whether the chain is whole.
func (c Chain) word() string {
	if c.Whole {
		return "whole"
	}
	return "NOT whole"
}

func (c Chain) sentence() string {
	if !c.Whole {
		return "the journal was changed or damaged since it was written: " + strings.Join(c.Problems, "; ")
	}
	signed := "none of them is signed yet: every thousandth is"
	if c.Signed > 0 {
		signed = fmt.Sprintf("every signature is right: %d of them are signed", c.Signed)
	}
	return fmt.Sprintf("each of its %d events bears the hash of the one before it, and %s", c.Events, signed)
}

// source names the commit, and says when more than that was in the image.
func (x Image) source() string {
	if x.Dirty {
		return x.Commit + " with changes"
	}
	return x.Commit
}

func (c Check) result() string {
	switch {
	case len(c.Failed) > 0:
		return fmt.Sprintf("failed by %d, passed by %d", len(c.Failed), c.Passed)
	case c.Passed == 0:
		return "not reached"
	case c.Passed == 1:
		return "passed by 1 server"
	default:
		return fmt.Sprintf("passed by %d servers", c.Passed)
	}
}

// found says what was found of a drift.
func (x Drift) found() string {
	var all []string
	for _, f := range x.Findings {
		all = append(all, f.What+" "+f.Where)
	}
	if x.More > 0 {
		all = append(all, fmt.Sprintf("and %d more", x.More))
	}
	return strings.Join(all, ", ")
}

// sentences joins what there is.
func sentences(parts ...string) string {
	var there []string
	for _, p := range parts {
		if p != "" {
			there = append(there, p)
		}
	}
	return strings.Join(there, "; ")
}
