package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/journal"
	"kiln/internal/journal/journaltest"
	"kiln/internal/model"
)

// fill appends n events in batches of a hundred.
func fill(t testing.TB, j *journal.Journal, n int) {
	t.Helper()
	for seq := int(j.Head().Seq); seq < n; {
		batch := min(100, n-seq)
		appendTo(t, j, uint64(seq), batch)
		seq += batch
	}
}

// TestChangedRows changes what is stored behind the journal's back.
func TestChangedRows(t *testing.T) {
	for name, c := range map[string]struct {
		statements []string
		says       string
	}{
		"a changed event": {
			[]string{`UPDATE events SET raw = CAST(replace(CAST(raw AS TEXT), 'kiln', 'Mary') AS BLOB) WHERE seq = 7`},
			"event 7 does not fit its hash",
		},
		"a changed hash": {
			[]string{`UPDATE events SET hash = zeroblob(32) WHERE seq = 7`},
			"event 7 does not fit its hash",
		},
		"a cut hash": {
			[]string{`UPDATE events SET hash = x'00' WHERE seq = 7`},
			"event 7 does not fit its hash",
		},
		"a missing event":   {[]string{`DELETE FROM events WHERE seq = 7`}, "event 7 is missing"},
		"missing events":    {[]string{`DELETE FROM events WHERE seq BETWEEN 1 AND 5`}, "events 1 to 5 are missing"},
		"a cut tail":        {[]string{`DELETE FROM events WHERE seq > 18`}, "events 19 to 20 are missing: acknowledged"},
		"nothing left":      {[]string{`DELETE FROM events`}, "events 1 to 20 are missing: acknowledged"},
		"no table":          {[]string{`DROP TABLE events`}, "nothing can be read after event 0"},
		"a newer format":    {[]string{`PRAGMA user_version = 2`}, "its format is version 2"},
		"reordered events":  {[]string{`UPDATE events SET seq = -1 WHERE seq = 7`, `UPDATE events SET seq = 7 WHERE seq = 8`, `UPDATE events SET seq = 8 WHERE seq = -1`}, "event 7 does not fit its hash"},
		"an event too many": {[]string{`INSERT INTO events SELECT 21, hash, raw FROM events WHERE seq = 20`}, "event 21 does not fit its hash"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := openIn(t, dir, journal.Options{SnapshotEvery: 3})
			appendTo(t, j, 0, 20)
			for _, s := range c.statements {
				if err := j.SQL(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			report, err := j.Verify(t.Context())
			if !strings.Contains(name, "newer format") && (err != nil || report.Whole()) {
				t.Errorf("the running journal finds nothing: %+v, %v", report, err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, c.says)
			report, err = journal.VerifyFile(t.Context(), dir)
			if err != nil || !strings.Contains(fmt.Sprint(report.Problems), c.says) {
				t.Errorf("the report does not say %q: %+v, %v", c.says, report, err)
			}
		})
	}
}

// rewrite makes the events of dir a new whole chain with one of them changed,
// as somebody would who does not have the key.
func rewrite(t *testing.T, dir string, upTo uint64) {
	t.Helper()
	j := openIn(t, dir, journal.Options{})
	entries, err := j.Events(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	head := journal.Head{}
	for _, e := range entries {
		if e.Event.Seq > upTo {
			if err := j.SQL(t.Context(), `DELETE FROM events WHERE seq = ?`, int64(e.Event.Seq)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		raw := bytes.Replace(e.Raw, []byte(`"somebody"`), []byte(`"nobody"`), 1)
		head = journal.Head{Seq: e.Event.Seq, Hash: journal.Link(head.Hash, raw)}
		if err := j.SQL(t.Context(), `UPDATE events SET raw = ?, hash = ? WHERE seq = ?`, raw, head.Hash[:], int64(e.Event.Seq)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := journal.WriteHeadFile(dir, head); err != nil {
		t.Fatal(err)
	}
}

// TestRewrittenWithItsOldHead rewrites a journal that is too short to have
// signed heads, and leaves journal.head as it was.
func TestRewrittenWithItsOldHead(t *testing.T) {
	dir := t.TempDir()
	j := openIn(t, dir, journal.Options{})
	appendTo(t, j, 0, 20)
	head := j.Head()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, dir, 20)
	if err := journal.WriteHeadFile(dir, head); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "event 20 is not the one that was acknowledged")
}

func TestSignedHeadsShowARewrite(t *testing.T) {
	live, dir := inMemory(t), inMemory(t)
	var told []journal.SignedHead
	j := openIn(t, live, journal.Options{OnSignedHead: func(h journal.SignedHead) { told = append(told, h) }})
	fill(t, j, 2300)
	report, err := j.Verify(t.Context())
	if err != nil || !report.Whole() || report.Signed != 2 || len(told) != 2 || told[1].Seq != 2000 {
		t.Fatalf("2,300 events: %+v, %v; told of %v", report, err, told)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	frozen := capture(t, live)
	heads := frozen["heads.log"]
	line := bytes.IndexByte(heads, '\n') + 1

	frozen.restore(t, dir)
	rewrite(t, dir, 2300)
	refused(t, dir, "event 1000 is not the one that was signed")

	frozen.restore(t, dir)
	rewrite(t, dir, 1500)
	refused(t, dir, "event 1000 is not the one that was signed")

	frozen.with("heads.log", heads[:line]).restore(t, dir)
	refused(t, dir, "heads.log lacks the signed head of event 2000")
	frozen.with("heads.log", nil).restore(t, dir)
	refused(t, dir, "heads.log lacks the signed head of event 1000")

	frozen.with("heads.log", bytes.Replace(heads, []byte(`"seq":1000`), []byte(`"seq":3000`), 1)).restore(t, dir)
	refused(t, dir, "line 1 of heads.log is not signed by the journal's key")
	frozen.with("key", nil).restore(t, dir)
	refused(t, dir, "line 1 of heads.log is not signed by the journal's key")
	frozen.with("key", []byte("not a key")).restore(t, dir)
	refused(t, dir, "is not signed")
	frozen.with("key.pub", []byte("another")).restore(t, dir)
	refused(t, dir, "is not signed")

	other := inMemory(t)
	if err := openIn(t, other, journal.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	foreign := capture(t, other)
	frozen.with("key", foreign["key"]).with("key.pub", foreign["key.pub"]).restore(t, dir)
	refused(t, dir, "line 1 of heads.log is not signed by the journal's key")

	frozen.with("heads.log", append(bytes.Clone(heads), heads[:40]...)).restore(t, dir)
	j = openIn(t, dir, journal.Options{}) // what a crash left of a line means nothing
	fill(t, j, 3000)
	if report, err := j.Verify(t.Context()); err != nil || !report.Whole() || report.Signed != 3 {
		t.Fatalf("after a torn line: %+v, %v", report, err)
	}
}

// TestCrashWhileSigning stops an append that makes a signed head due at each
// of its steps.
func TestCrashWhileSigning(t *testing.T) {
	for _, at := range []journal.Step{journal.StepAdmitted, journal.StepCommitted, journal.StepSigned} {
		t.Run(string(at), func(t *testing.T) {
			live, dir := inMemory(t), inMemory(t)
			var armed bool
			crash := errors.New("crash")
			j := openIn(t, live, journal.Options{}.Reaching(func(step journal.Step) error {
				if armed && step == at {
					return crash
				}
				return nil
			}))
			fill(t, j, 998)
			armed = true
			if err := j.Append(t.Context(), 1, 998, journaltest.Script(1, 998, 5)); !errors.Is(err, crash) {
				t.Fatal(err)
			}
			frozen := capture(t, live)
			frozen.restore(t, dir)
			failing := journal.Options{}.Reaching(func(step journal.Step) error {
				if step == journal.StepTail {
					return crash
				}
				return nil
			})
			if j, err := journal.Open(dir, failing); err == nil { // a crash in the recovery of a crash
				_ = j.Close()
			} else if !errors.Is(err, crash) {
				t.Fatal(err)
			}
			whole(t, dir, 998, 1003)
			j = openIn(t, dir, journal.Options{})
			fill(t, j, 1100)
			if report, err := j.Verify(t.Context()); err != nil || !report.Whole() || report.Signed != 1 {
				t.Fatalf("%+v, %v", report, err)
			}
		})
	}
}

func TestUnknownOutcomeStopsAppends(t *testing.T) {
	dir := t.TempDir()
	fail := map[journal.Step]error{}
	j := openIn(t, dir, journal.Options{}.Reaching(func(step journal.Step) error { return fail[step] }))
	appendTo(t, j, 0, 3)
	fail[journal.StepAdmitted] = errors.New("the disk is full")
	err := j.Append(t.Context(), 1, 3, journaltest.Script(1, 3, 2))
	if model.CodeOf(err) != model.Unavailable || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatal(err)
	}
	wantState(t, j, 3)
	delete(fail, journal.StepAdmitted)
	appendTo(t, j, 3, 2) // nothing was stored, so it goes on

	fail[journal.StepCommitted] = errors.New("the disk is gone")
	if err := j.Append(t.Context(), 1, 5, journaltest.Script(1, 5, 2)); model.CodeOf(err) != model.Internal {
		t.Fatal(err)
	}
	delete(fail, journal.StepCommitted)
	err = j.Append(t.Context(), 1, 5, journaltest.Script(1, 5, 2))
	if model.CodeOf(err) != model.Internal || !strings.Contains(err.Error(), "unknown whether events 6 to 7 were stored") {
		t.Fatalf("an append after an unknown outcome: %v", err)
	}
	if entries, err := j.Events(t.Context(), 0, 100); err != nil || len(entries) != 5 {
		t.Fatalf("%d events are shown as acknowledged (%v), want 5", len(entries), err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole(t, dir, 7, 7)
}

// TestFailedCommit makes a commit fail, by a constraint that SQLite looks at
// last of all.
func TestFailedCommit(t *testing.T) {
	dir := t.TempDir()
	j := openIn(t, dir, journal.Options{})
	appendTo(t, j, 0, 3)
	for _, s := range []string{
		`PRAGMA foreign_keys = ON`,
		`CREATE TABLE p (id INTEGER PRIMARY KEY)`,
		`CREATE TABLE c (id INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED)`,
		`CREATE TRIGGER t AFTER INSERT ON events BEGIN INSERT INTO c VALUES (1); END`,
	} {
		if err := j.SQL(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		err := j.Append(t.Context(), 1, 3, journaltest.Script(1, 3, 2))
		if model.CodeOf(err) != model.Internal || !strings.Contains(err.Error(), "unknown whether events 4 to 5 were stored") {
			t.Fatalf("a failed commit: %v (%s)", err, model.CodeOf(err))
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openIn(t, dir, journal.Options{})
	wantState(t, j, 3)
}

func TestSecondDaemonIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := openIn(t, dir, journal.Options{})
	for _, open := range []func() error{
		func() error { _, err := journal.Open(dir, journal.Options{}); return err },
		func() error { _, err := journal.VerifyFile(t.Context(), dir); return err },
	} {
		err := open()
		if model.CodeOf(err) != model.Conflict || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Fatalf("%v (%s)", err, model.CodeOf(err))
		}
	}
	appendTo(t, j, 0, 1)
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), 1, 1, journaltest.Script(1, 1, 1)); model.CodeOf(err) != model.Unavailable {
		t.Fatalf("an append to a closed journal: %v", err)
	}
	whole(t, dir, 1, 1)
}

func TestVerifyFileOfNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	if _, err := journal.VerifyFile(t.Context(), dir); model.CodeOf(err) != model.NotFound {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatal("looking for a journal made one")
	}
}

func TestKeyIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "j")
	openIn(t, dir, journal.Options{})
	for name, mode := range map[string]os.FileMode{"": 0o700, "key": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q has the mode %v (%v), want %v", name, info.Mode().Perm(), err, mode)
		}
	}
}

func TestUnknownKindIsNotDamage(t *testing.T) {
	dir := t.TempDir()
	j := openIn(t, dir, journal.Options{})
	appendTo(t, j, 0, 3)
	head := j.Head()
	raw := []byte(`{"seq":4,"epoch":1,"kind":"moon.phase","v":1,"at":"2026-01-02T00:00:00Z","elapsed":1,"data":{}}`)
	next := journal.Head{Seq: 4, Hash: journal.Link(head.Hash, raw)}
	if err := j.SQL(t.Context(), `INSERT INTO events VALUES (4, ?, ?)`, next.Hash[:], raw); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := journal.WriteHeadFile(dir, next); err != nil {
		t.Fatal(err)
	}
	_, err := journal.Open(dir, journal.Options{})
	if model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), `"moon.phase"`) || !strings.Contains(model.HintOf(err), "newer") {
		t.Fatalf("%v (hint: %s)", err, model.HintOf(err))
	}
}

// TestDurableSettings holds what no test can see without cutting the power.
func TestDurableSettings(t *testing.T) {
	j := openIn(t, t.TempDir(), journal.Options{})
	for name, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "locking_mode": "exclusive"} {
		if got, err := j.Pragma(t.Context(), name); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
}
