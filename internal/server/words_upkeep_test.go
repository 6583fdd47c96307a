package server

import (
	"testing"

	"kiln/internal/model"
)

func TestUpkeepInWords(t *testing.T) {
	for want, p := range map[string]model.Payload{
		"shop-aaaaaa is not its template any more: file added /tmp/x and 3 more; it is being replaced": model.ServerDrifted{
			ID: "shop-aaaaaa", Findings: []model.Finding{{What: "file added", Where: "/tmp/x"}, {What: "y"}}, More: 2, Done: "it is being replaced",
		},
		"receiver ops could not be told of event 7: it answered 500": model.AlertFailed{Name: "ops", Seq: 7, Reason: "it answered 500"},
		"the wall clock was set back by 1h":                          model.ClockJumped{By: -model.Duration(3600e9)},
		"the wall clock was set forward by 24h":                      model.ClockJumped{By: model.Duration(24 * 3600e9)},
	} {
		if _, got := inWords(model.Event{Data: p}); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
