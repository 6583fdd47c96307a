package cli

import (
	"bytes"
	"testing"
	"time"

	"kiln/internal/audit"
	"kiln/internal/model"
)

// TestHistoryIsDrawn draws lines with branches.
func TestHistoryIsDrawn(t *testing.T) {
	at := time.Date(2026, 8, 1, 9, 0, 0, 0, time.UTC)
	d := func(name string) model.Digest { return model.Digest("sha256:" + name + "00000000000") }
	add := func(h *audit.History, name, from string, how model.Descent) *audit.Ancestor {
		x := audit.Ancestor{Digest: d(name), Source: "build", Making: model.Making{At: at, Author: "ann", Reason: name, Commit: "c0ffee"}}
		if from != "" {
			x.From, x.How = d(from), how
		}
		h.Images = append(h.Images, x)
		return &h.Images[len(h.Images)-1]
	}
	h := audit.History{Service: "shop"}
	add(&h, "7", "6", model.ByCommit)
	add(&h, "6", "3", model.ByCheckout).Branch = true
	add(&h, "5", "3", model.ByCommit).Branch = true
	x := add(&h, "4", "3", model.ByCommit)
	x.Releases = []audit.Serving{{Service: "shop", Number: 2, Served: []audit.Span{{From: at, To: at.Add(time.Hour)}, {From: at.Add(30 * time.Hour)}}}}
	add(&h, "3", "1", model.ByOrder).RemovedAt = at
	y := add(&h, "2", "", "")
	y.Source = "registry.example.com/shop:1"
	y.Releases = []audit.Serving{
		{Service: "shop-staging", Number: 1, Rollback: 1, Verdict: model.Failed},
		{Service: "shop-production", Declared: "shop", Environment: "production", Number: 1, Promoted: &model.Promotion{Environment: "staging"}, Verdict: model.Failed},
	}
	y.Rejection = &model.Rejection{By: "eve", Reason: "charges twice", From: "abcdef", At: at}
	add(&h, "1", "", "")
	var out bytes.Buffer
	a := &app{Program: Program{Stdout: &out}}
	a.showHistory(h)
	want := `* 700000000000  2026-08-01 09:00:00  c0ffee  ann: 7
|   no release has it
* 600000000000  2026-08-01 09:00:00  c0ffee  ann: 6
|   its source was taken out of 300000000000
|   no release has it
| * 500000000000  2026-08-01 09:00:00  c0ffee  ann: 5
| |   a branch from 300000000000
| |   no release has it
| | * 400000000000  2026-08-01 09:00:00  c0ffee  ann: 4
| | |   release 2 of shop: served 2026-08-01 09:00:00 – 10:00:00, since 2026-08-02 15:00:00
|_|/
|/
* 300000000000  2026-08-01 09:00:00  c0ffee  ann: 3
|   removed 2026-08-01 09:00:00
| * 200000000000  2026-08-01 09:00:00  c0ffee  ann: 2
|     source: registry.example.com/shop:1
|     rejected by eve on kiln abcdef: charges twice, 2026-08-01 09:00:00
|     release 1 of shop in production (promoted from staging): did not serve, failed
|     release 1 of shop-staging (rollback to 1): did not serve, failed
* 100000000000  2026-08-01 09:00:00  c0ffee  ann: 1
    no release has it
`
	if out.String() != want {
		t.Errorf("drawn is\n%s\nwant\n%s", out.String(), want)
	}
}
