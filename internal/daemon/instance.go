package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/model"
)

// instanceOf returns the instance whose data directory this is, and makes one
// where there is none yet. known is what the journal says, "" if it is new.
func instanceOf(dataDir string, known model.InstanceID) (model.InstanceID, error) {
	path := filepath.Join(dataDir, "instance")
	b, err := os.ReadFile(path)
	switch id := strings.TrimSpace(string(b)); {
	case err == nil && model.ValidInstanceID(id):
		return model.InstanceID(id), nil
	case err == nil:
		return "", model.Errorf(model.Invalid, "cannot use %s: it says %q, which is no instance id (six of a-z and 2-7)", path, id).
			WithHint("restore the file from a backup; every name that this kiln has on the machine carries the id")
	case !errors.Is(err, fs.ErrNotExist):
		return "", model.Errorf(model.Unavailable, "cannot read the instance id: %w", err)
	}
	id := known // the file was lost, or is of a restore that was cut off
	if id == "" {
		id = model.InstanceID(strings.ToLower(rand.Text()[:6]))
	}
	if err := writeDurably(path, []byte(id+"\n")); err != nil {
		return "", model.Errorf(model.Unavailable, "cannot keep the instance id: %w", err)
	}
	return id, nil
}

// writeDurably makes the file whole or leaves it absent.
func writeDurably(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when it was renamed
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
