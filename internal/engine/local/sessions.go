package local

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// written is a time in which a person could write a server's root. It is kept
// beside the record: what was changed in it is explained for as long as the
// server lives.
type written struct {
	Session model.SessionID `json:"session"`
	From    time.Time       `json:"from"`
	To      time.Time       `json:"to,omitzero"` // zero: still
}

func (c Config) writtenFile(id model.ServerID) string {
	return filepath.Join(c.serverDir(id), "sessions.json")
}

// writtenBy returns the times in which the server's root could be written.
func (c Config) writtenBy(id model.ServerID) []written {
	b, err := os.ReadFile(c.writtenFile(id))
	if err != nil {
		return nil
	}
	var all []written
	if json.Unmarshal(b, &all) != nil {
		return nil
	}
	return all
}

// noteWriting notes that the root is writable from now on, or no more.
func (c Config) noteWriting(id model.ServerID, session model.SessionID, begins bool) error {
	now := time.Now().UTC()
	all := c.writtenBy(id)
	if begins {
		all = append(all, written{Session: session, From: now})
	} else {
		for i := range all {
			if all[i].Session == session && all[i].To.IsZero() {
				all[i].To = now
			}
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	err = writeFile(c.writtenFile(id), b, begins)
	if errors.Is(err, fs.ErrNotExist) && !begins {
		return nil // the server has gone meanwhile
	}
	return err
}

// endWritings ends the times of sessions that went down with an engine.
func (c Config) endWritings(id model.ServerID) error {
	var errs []error
	for _, w := range c.writtenBy(id) {
		if w.To.IsZero() {
			errs = append(errs, c.noteWriting(id, w.Session, false))
		}
	}
	return errors.Join(errs...)
}

// explainedBy returns the session in whose time the file was last changed. One that
// is gone again was there a moment ago: sed -i makes such files.
func explainedBy(all []written, path string) string {
	if len(all) == 0 {
		return ""
	}
	at := time.Now()
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil {
		at = time.Unix(st.Ctim.Unix())
	}
	return explainedAt(all, at)
}

// explainedAt returns the session in whose time a file was changed.
func explainedAt(all []written, at time.Time) string {
	const margin = 2 * time.Second // the kernel's time of a file lags behind
	for _, w := range all {
		if at.After(w.From.Add(-margin)) && (w.To.IsZero() || at.Before(w.To.Add(margin))) {
			return string(w.Session)
		}
	}
	return ""
}
