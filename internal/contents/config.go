package contents

import (
	"context"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
)

// Field is a part of an image's configuration (OCI image specification 1.1,
// config.md), in kiln's words.
type Field string

// The fields.
const (
	FieldPlatform   Field = "platform"
	FieldUser       Field = "user"
	FieldWorkingDir Field = "working_dir"
	FieldEntrypoint Field = "entrypoint"
	FieldCommand    Field = "command"
	FieldStopSignal Field = "stop_signal"
	FieldEnv        Field = "env"     // Key is the variable's name
	FieldLabel      Field = "label"   // Key is the label's
	FieldPort       Field = "port"    // Key is the port, such as 8080/tcp
	FieldVolume     Field = "volume"  // Key is the path
	FieldHealth     Field = "health"  // Docker's: the test's words
	FieldTrigger    Field = "onbuild" // Docker's: what builds upon it run
)

// ConfigChange is a setting in which two images differ.
type ConfigChange struct {
	Field  Field    `json:"field"`
	Key    string   `json:"key,omitempty"`
	Change Change   `json:"change"`
	Before []string `json:"before,omitempty"` // one element, or the words of a command; none for ports and volumes
	After  []string `json:"after,omitempty"`
}

// compareConfigs returns the settings that differ, by field in the order of the
// constants, then by key.
func compareConfigs(ctx context.Context, a, b v1.Image) ([]ConfigChange, error) {
	before, err := a.ConfigFile()
	if err != nil {
		return nil, layers.Unreadable(ctx, "the image's configuration", err)
	}
	after, err := b.ConfigFile()
	if err != nil {
		return nil, layers.Unreadable(ctx, "the image's configuration", err)
	}
	changes := []ConfigChange{}
	list := func(f Field, x, y []string) {
		if slices.Equal(x, y) {
			return
		}
		changes = append(changes, ConfigChange{Field: f, Change: change(len(x) > 0, len(y) > 0), Before: x, After: y})
	}
	mapped := func(f Field, x, y map[string][]string) {
		keys := maps.Clone(x)
		maps.Copy(keys, y)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			v, inX := x[key]
			w, inY := y[key]
			if inX != inY || !slices.Equal(v, w) {
				changes = append(changes, ConfigChange{Field: f, Key: key, Change: change(inX, inY), Before: v, After: w})
			}
		}
	}
	x, y := before.Config, after.Config
	list(FieldPlatform, one(platform(before)), one(platform(after)))
	list(FieldUser, one(x.User), one(y.User))
	list(FieldWorkingDir, one(x.WorkingDir), one(y.WorkingDir))
	list(FieldEntrypoint, x.Entrypoint, y.Entrypoint)
	list(FieldCommand, x.Cmd, y.Cmd)
	list(FieldStopSignal, one(x.StopSignal), one(y.StopSignal))
	mapped(FieldEnv, variables(x.Env), variables(y.Env))
	mapped(FieldLabel, labels(x.Labels), labels(y.Labels))
	mapped(FieldPort, keys(x.ExposedPorts), keys(y.ExposedPorts))
	mapped(FieldVolume, keys(x.Volumes), keys(y.Volumes))
	list(FieldHealth, health(x), health(y))
	list(FieldTrigger, x.OnBuild, y.OnBuild)
	return changes, nil
}

func change(before, after bool) Change {
	switch {
	case !before:
		return Added
	case !after:
		return Removed
	}
	return Changed
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func platform(c *v1.ConfigFile) string {
	if p := c.Platform(); p != nil {
		return p.String()
	}
	return ""
}

func health(c v1.Config) []string {
	if c.Healthcheck == nil {
		return nil
	}
	return c.Healthcheck.Test
}

// variables are settings of the environment by name. Of two with one name the last
// holds.
func variables(env []string) map[string][]string {
	m := map[string][]string{}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		m[name] = []string{value}
	}
	return m
}

func labels(l map[string]string) map[string][]string {
	m := map[string][]string{}
	for key, value := range l {
		m[key] = []string{value}
	}
	return m
}

func keys(set map[string]struct{}) map[string][]string {
	m := map[string][]string{}
	for key := range set {
		m[key] = nil
	}
	return m
}
