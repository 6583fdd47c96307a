package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kiln/internal/model"
)

// record is what makes a server exist: everything that has to be known to see
// it, stop it and remove it, also by an engine that did not start it. A record is
// immutable; a changed one takes its place.
type record struct {
	ID         model.ServerID `json:"id"`
	Epoch      uint64         `json:"epoch"`
	Template   model.Template `json:"template"`
	Hash       string         `json:"hash"` // of the template
	Address    string         `json:"address,omitempty"`
	StopSignal string         `json:"stop_signal,omitempty"` // the image's
	CreatedAt  time.Time      `json:"created_at"`
	Upper      string         `json:"upper,omitempty"`  // where its changes would be
	Lowers     []string       `json:"lowers,omitempty"` // the image's layers, uppermost first
	IDs        uint32         `json:"ids,omitempty"`    // what user and group 0 are on the machine; 0: the same
	Trial      bool           `json:"trial,omitempty"`  // it is nobody's server, and cut off

	// Set when it was started.
	StartedAt time.Time `json:"started_at,omitzero"`
	Process   process   `json:"process,omitzero"`
	Shim      process   `json:"shim,omitzero"`
	User      execUser  `json:"user,omitzero"`
	Env       []string  `json:"env,omitempty"`
	Cwd       string    `json:"cwd,omitempty"`

	Exit *model.Exit `json:"exit,omitempty"`
}

// execUser is whom a server's processes run as.
type execUser struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// state derives the run state: a record that was written and not started
// belongs to a server that is being made.
func (r *record) state() model.RunState {
	switch {
	case r.Exit != nil:
		return model.Exited
	case r.StartedAt.IsZero():
		return model.Starting
	default:
		return model.Running
	}
}

func (r *record) observed() model.Observed {
	return model.Observed{
		ID: r.ID, Epoch: r.Epoch, TemplateHash: r.Hash, State: r.state(),
		Address: r.Address, StartedAt: r.StartedAt, Exit: r.Exit,
	}
}

func recordPath(dir string) string { return filepath.Join(dir, "record.json") }

// writeFile replaces the file at path with b; sync makes it durable before it
// takes the other's place.
func writeFile(path string, b []byte, sync bool) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(fresh)
		return err
	}
	return os.Rename(fresh, path)
}

func writeRecord(dir string, r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(recordPath(dir), b, false)
}

// readRecords returns the records below dir, and the names of what is there
// without one.
func readRecords(dir string) (records []*record, strays []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		b, err := os.ReadFile(recordPath(filepath.Join(dir, entry.Name())))
		if errors.Is(err, fs.ErrNotExist) {
			strays = append(strays, entry.Name())
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil || string(r.ID) != entry.Name() {
			// A power failure can leave an empty file: its server is dead, and
			// what it left is removed as any stray.
			strays = append(strays, entry.Name())
			continue
		}
		records = append(records, &r)
	}
	return records, strays, nil
}

// process names a process beyond the reuse of its number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks since boot
	Boot  string `json:"boot"`
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// identify returns the process that has the number now.
func identify(pid int, boot string) (process, error) {
	start, _, err := processStat(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: start, Boot: boot}, nil
}

// runs reports whether the process still runs; one that has ended and was not
// waited for does not.
func (p process) runs(boot string) bool {
	if p.PID == 0 || p.Boot != boot {
		return false
	}
	start, state, err := processStat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// processStat reads when the process started, and its state.
func processStat(pid int) (start uint64, state byte, err error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(fields[19], &start); err != nil {
		return 0, 0, fmt.Errorf("cannot read the start of process %d: %w", pid, err)
	}
	return start, fields[0][0], nil
}

// parentOf returns the number of the process's parent.
func parentOf(pid int) (int, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	var parent int
	_, err = fmt.Sscan(fields[1], &parent)
	return parent, err
}

// statFields returns the fields of /proc/PID/stat from the third, the state, on:
// the second is in parentheses and may hold anything.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("cannot understand /proc/%d/stat", pid)
	}
	return fields, nil
}
