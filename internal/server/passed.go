package server

import (
	"slices"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
)

// Passed returns the names of the checks that an image has passed, sorted.
func Passed(list []api.Statement) []string {
	names := []string{}
	for name, passed := range results(list) {
		if passed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// results tells of each check of an image whether it passed, by the statements about
// their results that hold: of each name what was said last counts, and of two that
// were said at once, or nobody knows when, the worse.
func results(list []api.Statement) map[string]bool {
	told := slices.DeleteFunc(slices.Clone(list), func(s api.Statement) bool { return !s.Holds || s.Type != model.TestResultType })
	slices.SortStableFunc(told, func(a, b api.Statement) int { return said(a).Compare(said(b)) })
	when, passed := map[string]time.Time{}, map[string]bool{}
	for _, s := range told {
		for _, name := range s.Passed {
			if at, known := when[name]; !known || said(s).After(at) {
				when[name], passed[name] = said(s), true
			}
		}
		for _, name := range s.Failed {
			when[name], passed[name] = said(s), false
		}
	}
	return passed
}

func said(s api.Statement) time.Time {
	if s.At == nil {
		return time.Time{}
	}
	return *s.At
}
