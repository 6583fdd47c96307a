// Package exitfile carries the news of how a server's main process ended from
// the shim, which alone can see it, to the engine, which may be away then.
//
// The file is made with its full size when the server is, so that a full disk
// cannot keep the end from being written down.
package exitfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kiln/internal/model"
)

// Annotation names the exit file in the bundle's configuration.
const Annotation = "kiln.exit-file"

const size = 512 // of an exit file, in bytes; the rest of it is spaces

// Bundle is what the shim has to know of its server.
type Bundle struct {
	Path   string // of the exit file; empty: none is asked for
	Cgroup string // the server's control group, as the OCI configuration names it
}

// ReadBundle reads the configuration of the bundle in dir.
func ReadBundle(dir string) (Bundle, error) {
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return Bundle{}, err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		return Bundle{}, err
	}
	return Bundle{Path: spec.Annotations[Annotation], Cgroup: spec.Linux.CgroupsPath}, nil
}

// Create makes an exit file that says nothing yet.
func Create(path string) error {
	return os.WriteFile(path, bytes.Repeat([]byte(" "), size), 0o600)
}

// Write says in the file how the process ended, and returns when that is
// durable.
func Write(path string, exit model.Exit) error {
	b, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	if len(b) > size {
		return fmt.Errorf("cannot write %s: %d bytes do not fit", path, len(b))
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// Read returns what the file says, or nil when it says nothing (yet).
func Read(path string) *model.Exit {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	b = bytes.TrimSpace(b)
	var exit model.Exit
	if len(b) == 0 || json.Unmarshal(b, &exit) != nil {
		return nil
	}
	return &exit
}
