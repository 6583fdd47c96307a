package alert

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// cursor is how far a receiver has been told, on disk.
type cursor struct {
	path string
}

// position is what the file holds.
type position struct {
	Seq uint64 `json:"seq"`
}

func cursorOf(dir, name string) cursor { return cursor{filepath.Join(dir, name+".json")} }

// load returns the position, and whether there is one. A file that a crash has
// left empty or torn is none.
func (c cursor) load() (uint64, bool) {
	b, err := os.ReadFile(c.path)
	if err != nil {
		return 0, false
	}
	var p position
	if err := json.Unmarshal(b, &p); err != nil {
		return 0, false
	}
	return p.Seq, true
}

// store makes the position durable.
func (c cursor) store(seq uint64) error {
	b, err := json.Marshal(position{seq})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(c.path+".new", c.path)
}

// forget removes the cursors of receivers that are not declared any more: one that
// is declared again begins at what is new then.
func forget(dir string, declared []receiver) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range declared {
		keep[r.name] = true
	}
	var errs []error
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !keep[name] {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
