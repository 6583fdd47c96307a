package journal_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"kiln/internal/journal"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// firstJournal copies testdata/first: a journal that the first kiln wrote, which
// deployed all at once, with deployments, a scale and a rollback. Its key signs
// nothing else.
func firstJournal(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	if err := os.CopyFS(dir, os.DirFS("testdata/first")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What the first kiln wrote is read, means the same, and is gone on with.
func TestFirstJournalGoesOn(t *testing.T) {
	dir := firstJournal(t)
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	s, err := j.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shop := s.Services["shop"]
	if shop == nil || shop.InService != 4 || len(shop.Releases) != 4 || s.Format != 0 {
		t.Fatalf("the journal means %+v of format %d", shop, s.Format)
	}
	for _, d := range shop.Deployments {
		if d.Verdict != model.Succeeded || !d.Settled && d != shop.Deployments[len(shop.Deployments)-1] {
			t.Errorf("deployment %s ended as %q, settled: %t", d.ID, d.Verdict, d.Settled)
		}
	}
	now := model.Now{Elapsed: s.Elapsed + 1, Wall: time.Now().UTC(), BootID: s.BootID}
	more := []model.Payload{
		model.DaemonStarted{Epoch: s.Epoch + 1, Version: "2", BootID: s.BootID, BootOffset: s.BootOffset},
		model.JournalUpgraded{Format: model.JournalFormat, Version: "2"},
	}
	epoch := s.Epoch + 1
	for _, p := range more {
		e := model.Event{Seq: s.Seq + 1, Epoch: epoch, At: now.Wall, Elapsed: now.Elapsed, Actor: "kiln", Data: p}
		if err := j.Append(t.Context(), epoch, s.Seq, []model.Event{e}); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing is there any more: what is decided makes the same again, and is written down.
	for range 20 {
		d := reconcile.Step(s, reconcile.Observation{Snapshot: &model.Snapshot{}}, now)
		if len(d.Events) == 0 {
			break
		}
		for _, p := range d.Events {
			e := model.Event{Seq: s.Seq + 1, Epoch: epoch, At: now.Wall, Elapsed: now.Elapsed, Actor: "kiln", Data: p}
			if err := j.Append(t.Context(), epoch, s.Seq, []model.Event{e}); err != nil {
				t.Fatal(err)
			}
			if err := s.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	report, err := j.Verify(t.Context())
	if err != nil || !report.Whole() {
		t.Errorf("after going on: %v, %+v", err, report.Problems)
	}
}
