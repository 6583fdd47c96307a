package privateenv

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const config = `{"ociVersion":"1.2.0","process":{"args":["/app"],"env":["PATH=/bin","TOKEN=of the image"],"noNewPrivileges":true},"annotations":{"kiln.private-env":"DIR","other":"x"},"linux":{"seccomp":{}}}`

// What is injected is in the directory alone, and the bundle leads there.
func TestInject(t *testing.T) {
	bundle, dir := t.TempDir(), t.TempDir()
	write(t, bundle, strings.ReplaceAll(config, "DIR", dir))
	if err := Write(dir, []string{"TOKEN=a \"quoted\" value", "B=2"}); err != nil {
		t.Fatal(err)
	}
	if err := Inject(bundle); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(bundle, "config.json")); err != nil || filepath.Dir(target) != dir {
		t.Errorf("the bundle's configuration leads to %q (%v)", target, err)
	}
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Process struct {
			Args, Env       []string
			NoNewPrivileges bool
		}
		Linux struct{ Seccomp *struct{} }
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/bin", "TOKEN=a \"quoted\" value", "B=2"}; !slices.Equal(spec.Process.Env, want) {
		t.Errorf("the environment is %q, want %q", spec.Process.Env, want)
	}
	if !spec.Process.NoNewPrivileges || len(spec.Process.Args) != 1 || spec.Linux.Seccomp == nil {
		t.Errorf("the rest has changed: %s", b)
	}
}

// A bundle that asks for nothing stays as it is; one whose variables are gone is
// no server without them.
func TestInjectNothing(t *testing.T) {
	bundle := t.TempDir()
	plain := strings.ReplaceAll(config, "kiln.private-env", "kiln.else")
	write(t, bundle, plain)
	if err := Inject(bundle); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(bundle, "config.json")); string(b) != plain {
		t.Errorf("it became %s", b)
	}
	write(t, bundle, strings.ReplaceAll(config, "DIR", t.TempDir()))
	if err := Inject(bundle); err == nil {
		t.Error("a server without its variables was let pass")
	}
}

// What is damaged is not quoted.
func TestReadQuotesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, envFile), []byte(`["TOKEN=hunter2`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("it says %v", err)
	}
}

func write(t *testing.T, bundle, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
