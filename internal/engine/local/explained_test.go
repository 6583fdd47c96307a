package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestExplained: what was changed in a session's time is the session's, also a file
// that is gone again when it is looked at.
func TestExplained(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := there + ".gone"
	now := time.Now()
	open := []written{{Session: "s-open", From: now.Add(-time.Minute)}}
	ended := []written{{Session: "s-ended", From: now.Add(-time.Hour), To: now.Add(-time.Minute)}}
	for _, c := range []struct {
		sessions []written
		path     string
		want     string
	}{
		{nil, there, ""},
		{nil, gone, ""},
		{open, there, "s-open"},
		{open, gone, "s-open"},
		{ended, there, ""},
		{ended, gone, ""},
		{append(ended, open...), gone, "s-open"},
	} {
		if got := explainedBy(c.sessions, c.path); got != c.want {
			t.Errorf("%s of %v is explained by %q, want %q", filepath.Base(c.path), c.sessions, got, c.want)
		}
	}
}
