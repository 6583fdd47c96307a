package daemon

import (
	"encoding/json"
	"testing"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/server"
)

// TestRejectionFromAheadOfTime: what another kiln says, whose clock is ahead, is of no
// later than when it came here.
func TestRejectionFromAheadOfTime(t *testing.T) {
	came := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	s := &signer{d: &daemon{instance: "aaaaaa"}}
	for name, c := range map[string]struct {
		said, want time.Time
		at         *time.Time
	}{
		"before it came":       {came.Add(-time.Hour), came.Add(-time.Hour), &came},
		"ahead":                {came.Add(time.Hour), came, &came},
		"nobody knows when":    {came, came, nil},
		"at once when it came": {came, came, &came},
	} {
		predicate, err := json.Marshal(rejection{Rejection: model.Rejection{By: "ann", At: c.said}, Rejected: true, Instance: "bbbbbb"})
		if err != nil {
			t.Fatal(err)
		}
		var said server.Said
		s.hear(&said, "", statement{Statement: api.Statement{Type: model.RejectionType, At: c.at}, predicate: predicate})
		if len(said.Rejections) != 1 || !said.Rejections[0].At.Equal(c.want) || said.Rejections[0].From != "bbbbbb" {
			t.Errorf("%s: heard is %+v", name, said.Rejections)
		}
	}
}
