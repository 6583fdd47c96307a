package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// lockPatience is how long a lock is waited for: a process that was killed
// holds its own until the kernel has taken it apart, which on a busy machine
// takes longer than the start of its successor.
const lockPatience = 3 * time.Second

// lockDir takes the directory for this process. The lock ends with the
// process, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot lock journal %s: %w", dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for deadline := time.Now().Add(lockPatience); errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline); {
		time.Sleep(lockPatience / 100)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := readHolder(f)
		f.Close()
		return nil, model.Errorf(model.Conflict, "cannot lock journal %s: it belongs to %s", dir, holder).
			WithHint("A data directory has one daemon. Use the one that runs, end it, or choose another --data-dir.")
	}
	if err == nil {
		err = writeHolder(f)
	}
	if err != nil {
		f.Close()
		return nil, model.Errorf(model.Unavailable, "cannot lock journal %s: %w", dir, err)
	}
	return f, nil
}

func readHolder(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	pid := strings.TrimSpace(string(b))
	if err != nil || pid == "" { // it has only just locked it
		return "another process"
	}
	return "process " + pid
}

func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}
