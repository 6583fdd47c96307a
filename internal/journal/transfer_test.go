package journal_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/journal"
	"kiln/internal/journal/journaltest"
	"kiln/internal/model"
)

// A copy is rebuilt to the same events, and the restore is written down under
// an epoch above all that may have been lost.
func TestCopyIsRebuilt(t *testing.T) {
	j, err := journal.Open(firstJournal(t), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	copied, err := j.Copy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "again")
	r, err := journal.NewRebuild(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := copied.Parts(t.Context(), func(_ uint64, lines []byte) error { return r.Add(t.Context(), lines) }); err != nil {
		t.Fatal(err)
	}
	seals, err := copied.Seals()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range seals {
		if err := r.Seal(name, content); err != nil {
			t.Fatal(err)
		}
	}
	if r.Chain().Head() != copied.Head {
		t.Fatalf("rebuilt to %v, copied to %v", r.Chain().Head(), copied.Head)
	}
	now := time.Date(2026, 11, 21, 4, 5, 6, 0, time.UTC)
	epoch, err := r.Finish(t.Context(), "2", now, now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	s, err := again.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Seq != copied.Head.Seq+1 || s.Epoch != epoch || epoch != uint64(now.UnixMilli()) {
		t.Errorf("the restored journal ends with event %d of epoch %d", s.Seq, s.Epoch)
	}
	if s.NextID <= copied.State.NextID || s.Table.Generation <= copied.State.Table.Generation {
		t.Error("identifiers or generations that the lost part may have used are used again")
	}
	if diff := cmp.Diff(copied.State.Services["shop"].Releases, s.Services["shop"].Releases); diff != "" {
		t.Errorf("releases (-copied +restored):\n%s", diff)
	}
	report, err := again.Verify(t.Context())
	if err != nil || !report.Whole() {
		t.Errorf("the restored journal: %v, %+v", err, report.Problems)
	}
}

// A copy that was begun ends where it was begun, whatever is appended
// meanwhile, and its signed heads with it.
func TestCopyIsOfOneInstant(t *testing.T) {
	j, err := journal.Open(t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	fill := func(n int) {
		t.Helper()
		seq := j.Head().Seq
		if err := j.Append(t.Context(), 1, seq, journaltest.Script(1, seq, n)); err != nil {
			t.Fatal(err)
		}
	}
	fill(2100)
	copied, err := j.Copy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chain, parts := journal.NewChain(), 0
	err = copied.Parts(t.Context(), func(first uint64, lines []byte) error {
		parts++
		if first != chain.Head().Seq+1 {
			t.Errorf("part %d begins with event %d", parts, first)
		}
		fill(1000)
		_, err := chain.Add(lines)
		return err
	})
	if err != nil || chain.Head() != copied.Head || parts != 3 {
		t.Fatalf("%d parts up to %v, not %v: %v", parts, chain.Head(), copied.Head, err)
	}
	seals, err := copied.Seals()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := chain.Signed(seals["heads.log"], copied.Key()); err != nil || n != 2 {
		t.Errorf("%d signed heads: %v", n, err)
	}
	forged := bytes.Replace(seals["heads.log"], []byte(`"seq":1000`), []byte(`"seq":1001`), 1)
	if _, err := chain.Signed(forged, copied.Key()); model.CodeOf(err) != model.Precondition {
		t.Errorf("a forged head was answered with %v", err)
	}
	if _, err := chain.Signed(nil, copied.Key()); err == nil {
		t.Error("signed heads that are missing are not missed")
	}
	stop := errors.New("stop")
	if err := copied.Parts(t.Context(), func(uint64, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a copy went on after %v", err)
	}
}
