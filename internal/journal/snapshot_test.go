package journal_test

import (
	"errors"
	"fmt"
	"testing"

	"kiln/internal/journal"
	"kiln/internal/journal/journaltest"
)

func folded(t testing.TB, dir string) uint64 {
	t.Helper()
	n, err := journal.Examine(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSnapshotShortensTheFold(t *testing.T) {
	live, dir := inMemory(t), inMemory(t)
	j := openIn(t, live, journal.Options{SnapshotEvery: 50})
	for seq := uint64(0); seq < 230; seq += 10 {
		appendTo(t, j, seq, 10)
	}
	frozen := capture(t, live)
	frozen.restore(t, dir)
	if n := folded(t, dir); n != 30 {
		t.Fatalf("behind a snapshot at event 200 of 230, %d events are folded", n)
	}
	whole(t, dir, 230, 230)

	for name, change := range map[string]func(j *journal.Journal) error{
		"changed state": func(j *journal.Journal) error {
			return j.SQL(t.Context(), `UPDATE snapshots SET state = CAST(replace(CAST(state AS TEXT), 'somebody', 'nobody') AS BLOB)`)
		},
		"another program's": func(j *journal.Journal) error { return j.SQL(t.Context(), `UPDATE snapshots SET build = 'another'`) },
		"another place":     func(j *journal.Journal) error { return j.SQL(t.Context(), `UPDATE snapshots SET seq = 150`) },
		"of another chain":  func(j *journal.Journal) error { return j.ForgeSnapshot(t.Context()) },
		"no state":          func(j *journal.Journal) error { return j.SQL(t.Context(), `UPDATE snapshots SET state = x''`) },
		"none":              func(j *journal.Journal) error { return j.SQL(t.Context(), `DROP TABLE snapshots`) },
	} {
		t.Run(name, func(t *testing.T) {
			frozen.restore(t, dir)
			j := openIn(t, dir, journal.Options{SnapshotEvery: 1 << 40})
			if err := errors.Join(change(j), j.Close()); err != nil {
				t.Fatal(err)
			}
			if n := folded(t, dir); n != 230 {
				t.Fatalf("%d events are folded, want all 230", n)
			}
			whole(t, dir, 230, 230)
		})
	}
}

func TestSnapshotBeyondTheEnd(t *testing.T) {
	live := inMemory(t)
	j := openIn(t, live, journal.Options{SnapshotEvery: 5})
	appendTo(t, j, 0, 20)
	if err := j.SQL(t.Context(), `DELETE FROM events WHERE seq > 15`); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, live, "events 16 to 20 are missing")
}

func TestMemoryFaults(t *testing.T) {
	for _, at := range []journal.Fault{journal.FaultBefore, journal.FaultAfter} {
		var armed bool
		m := journal.NewMemory(func(f journal.Fault, first, last uint64) error {
			if armed && f == at {
				return fmt.Errorf("events %d to %d", first, last)
			}
			return nil
		})
		write := func(seq uint64, n int) error {
			return m.Append(t.Context(), 1, seq, journaltest.Script(1, seq, n))
		}
		if err := write(0, 4); err != nil {
			t.Fatal(err)
		}
		armed = true
		if err := write(4, 3); err == nil {
			t.Fatalf("%s: no error", at)
		}
		armed = false
		if err := write(4, 3); err == nil {
			t.Fatalf("%s: it goes on although nobody knows what is stored", at)
		}
		if err := m.Reopen(); err != nil {
			t.Fatal(err)
		}
		n := map[journal.Fault]int{journal.FaultBefore: 4, journal.FaultAfter: 7}[at]
		s, err := m.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		journaltest.SameState(t, s, journaltest.Fold(t, 1, n))
		if err := write(uint64(n), 3); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			j, err := journal.Open(b.TempDir(), journal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			seq := uint64(0)
			for b.Loop() {
				appendTo(b, j, seq, n)
				seq += uint64(n)
			}
		})
	}
}

func BenchmarkMemoryAppend(b *testing.B) {
	m := journal.NewMemory(nil)
	seq := uint64(0)
	for b.Loop() {
		if err := m.Append(b.Context(), 1, seq, journaltest.Script(1, seq, 1)); err != nil {
			b.Fatal(err)
		}
		seq++
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1000, 50_000} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			dir := inMemory(b)
			j, err := journal.Open(dir, journal.Options{})
			if err != nil {
				b.Fatal(err)
			}
			fill(b, j, n)
			if err := j.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				j, err := journal.Open(dir, journal.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := j.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
