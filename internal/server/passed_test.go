package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/api"
	"kiln/internal/model"
)

func TestPassed(t *testing.T) {
	at := func(hour int) *time.Time {
		when := time.Date(2026, 11, 21, hour, 0, 0, 0, time.UTC)
		return &when
	}
	result := func(when *time.Time, passed, failed []string) api.Statement {
		return api.Statement{Type: model.TestResultType, Holds: true, At: when, Passed: passed, Failed: failed}
	}
	other := result(at(9), []string{"image/other"}, nil)
	other.Type = model.ProvenanceType
	broken := result(at(9), []string{"image/broken"}, nil)
	broken.Holds = false
	for name, c := range map[string]struct {
		list []api.Statement
		want []string
	}{
		"nothing":             {nil, []string{}},
		"one":                 {[]api.Statement{result(at(1), []string{"b", "a"}, []string{"c"})}, []string{"a", "b"}},
		"failed later":        {[]api.Statement{result(at(2), nil, []string{"a"}), result(at(1), []string{"a"}, nil)}, []string{}},
		"passed later":        {[]api.Statement{result(at(2), []string{"a"}, nil), result(at(1), nil, []string{"a"})}, []string{"a"}},
		"at once, the worse":  {[]api.Statement{result(at(1), nil, []string{"a"}), result(at(1), []string{"a"}, nil)}, []string{}},
		"nobody knows when":   {[]api.Statement{result(nil, nil, []string{"a"}), result(nil, []string{"a"}, nil)}, []string{}},
		"what counts nothing": {[]api.Statement{other, broken}, []string{}},
	} {
		if diff := cmp.Diff(c.want, Passed(c.list)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
