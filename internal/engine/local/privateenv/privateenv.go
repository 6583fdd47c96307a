// Package privateenv gives a server environment variables that are in no file of
// a disk. The engine writes them to a directory that is memory; the shim, before
// it has the runtime make the server, puts the configuration that has them there
// too, and leaves a link in its place. So containerd's database and the bundle
// have the rest of the environment alone.
package privateenv

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Annotation names, in the bundle's configuration, the directory with the
// variables.
const Annotation = "kiln.private-env"

const (
	envFile    = "env.json"
	configFile = "config.json"
)

// Write writes the variables (NAME=VALUE) into the directory.
func Write(dir string, env []string) error {
	b, err := json.Marshal(env)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, envFile), b, 0o600)
}

// Read returns the variables that Write wrote.
func Read(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, envFile))
	if err != nil {
		return nil, err
	}
	var env []string
	if err := json.Unmarshal(b, &env); err != nil {
		return nil, fmt.Errorf("cannot understand %s", filepath.Join(dir, envFile)) // the error would quote it
	}
	return env, nil
}

// Join returns env with the private variables, which win over others of their
// names.
func Join(env, private []string) []string {
	names := map[string]bool{}
	for _, v := range private {
		name, _, _ := strings.Cut(v, "=")
		names[name] = true
	}
	joined := make([]string, 0, len(env)+len(private))
	for _, v := range env {
		if name, _, _ := strings.Cut(v, "="); !names[name] {
			joined = append(joined, v)
		}
	}
	return append(joined, private...)
}

// Inject puts the variables into the configuration of the bundle in dir, if it
// asks for any.
func Inject(bundle string) error {
	path := filepath.Join(bundle, configFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec, process map[string]json.RawMessage
	var annotations map[string]string
	var env []string
	if err := json.Unmarshal(b, &spec); err != nil {
		return err
	}
	if raw, has := spec["annotations"]; has {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return err
		}
	}
	dir := annotations[Annotation]
	if dir == "" {
		return nil
	}
	private, err := Read(dir)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(spec["process"], &process); err != nil {
		return err
	}
	if raw, has := process["env"]; has {
		if err := json.Unmarshal(raw, &env); err != nil {
			return err
		}
	}
	if process["env"], err = json.Marshal(Join(env, private)); err != nil {
		return err
	}
	if spec["process"], err = json.Marshal(process); err != nil {
		return err
	}
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	full := filepath.Join(dir, configFile)
	if err := os.WriteFile(full, b, 0o600); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink(full, path)
}
