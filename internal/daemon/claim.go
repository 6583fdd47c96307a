package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// claim takes the instance's names on this machine for this daemon: links,
// sockets and control groups carry the instance's id, and a copy of its data
// directory, restored elsewhere, has the same. The claim ends with the process.
func (d *daemon) claim() error {
	f, err := os.OpenFile(filepath.Join(d.runDir, "daemon.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot claim the run directory: %w", err)
	}
	before, err := io.ReadAll(io.LimitReader(f, 8192))
	if err != nil {
		return errors.Join(model.Errorf(model.Unavailable, "cannot claim the run directory: %w", err), f.Close())
	}
	dataDir := strings.TrimSpace(string(before))
	switch {
	case !lockFree(f):
		err = model.Errorf(model.Conflict, "cannot start: another daemon runs instance %s on this machine, with the data directory %s", d.instance, dataDir).
			WithHint("one machine has an instance once; end that daemon, or restore the backup to another machine")
	case dataDir != "" && dataDir != d.cfg.DataDir && running(d.runDir):
		err = stillRuns(d.instance, dataDir)
	default:
		err = f.Truncate(0)
		if err == nil {
			_, err = f.WriteAt(fmt.Appendf(nil, "%s\n", d.cfg.DataDir), 0)
		}
		if err != nil {
			err = model.Errorf(model.Unavailable, "cannot claim the run directory: %w", err)
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.claimed = f
	return nil
}

func lockFree(f *os.File) bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }

// running reports whether the keeper of a run directory lives, and with it
// what it keeps.
func running(runDir string) bool {
	f, err := os.OpenFile(filepath.Join(runDir, "keeper.lock"), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return !lockFree(f)
}

func stillRuns(id model.InstanceID, dataDir string) error {
	return model.Errorf(model.Conflict, "instance %s still runs on this machine: its keeper, router and containerd work in %s", id, dataDir).
		WithHint("If its data directory is there but for the journal: kiln restore FILE --data-dir DIRECTORY --journal. " +
			"If it is lost, end what is left of it first, as a reboot does.")
}
