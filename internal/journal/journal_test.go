package journal_test

import (
	"path/filepath"
	"testing"

	"kiln/internal/journal"
	"kiln/internal/journal/journaltest"
)

func TestConformance(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		journaltest.Run(t, func(t *testing.T) (journaltest.Journal, func() journaltest.Journal) {
			dir := filepath.Join(t.TempDir(), "a dir?x=%41#y")
			j := openIn(t, dir, journal.Options{SnapshotEvery: 5})
			return j, func() journaltest.Journal {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				j = openIn(t, dir, journal.Options{SnapshotEvery: 5})
				return j
			}
		})
	})
	t.Run("memory", func(t *testing.T) {
		journaltest.Run(t, func(t *testing.T) (journaltest.Journal, func() journaltest.Journal) {
			m := journal.NewMemory(nil)
			return m, func() journaltest.Journal {
				if err := m.Reopen(); err != nil {
					t.Fatal(err)
				}
				return m
			}
		})
	})
}

func openIn(t *testing.T, dir string, opts journal.Options) *journal.Journal {
	t.Helper()
	j, err := journal.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}
