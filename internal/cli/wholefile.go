package cli

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"kiln/internal/model"
)

// writeWhole writes a file that is there whole or not at all: it has its name
// when write has returned without an error and what it wrote is on the disk.
// It returns the size of the file in bytes.
func writeWhole(path string, mode os.FileMode, write func(io.Writer) error) (int64, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".kiln-new-*") // with mode 0600
	if err != nil {
		return 0, invalid("cannot write %s: %w", path, readFailure(err))
	}
	defer os.Remove(f.Name()) // gone already when it was renamed
	out := &target{f: f, path: path}
	err = write(out)
	if err == nil {
		err = out.failure(errors.Join(f.Chmod(mode), f.Sync()))
	}
	if err = errors.Join(err, out.failure(f.Close())); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return 0, out.failure(err)
	}
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		_ = d.Sync() // the file is there; only its name could still be lost
		_ = d.Close()
	}
	return out.size, nil
}

// target is the file that is written. What goes wrong there is not the
// daemon's.
type target struct {
	f    *os.File
	path string
	size int64
}

func (t *target) Write(p []byte) (int, error) {
	n, err := t.f.Write(p)
	t.size += int64(n)
	return n, t.failure(err)
}

func (t *target) failure(err error) error {
	if err == nil {
		return nil
	}
	return model.Errorf(model.Unavailable, "cannot write %s: %w", t.path, readFailure(err)).
		WithHint("nothing of it was kept; make room, or name a file elsewhere")
}
