// Package mutants breaks the promises on purpose. Each patch below mutants/
// breaks one of them in a copy of the tree; the simulation has to find it
// there. A patch that no longer applies, or a mutant that nobody finds, fails
// the test.
package mutants

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root  = "../.."
	seeds = "1500" // stops at the first one that finds the mutant
)

// parts are what the simulation is built from.
var parts = []string{
	"go.mod", "go.sum", "internal/model", "internal/reconcile", "internal/control",
	"internal/engine/engine.go", "internal/engine/upkeep.go", "internal/engine/enginemem", "internal/sim",
}

func TestMutants(t *testing.T) {
	patches, err := filepath.Glob(filepath.Join(root, "mutants", "*.patch"))
	if err != nil || len(patches) < 10 {
		t.Fatalf("%d mutants are too few (%v)", len(patches), err)
	}
	t.Run("none", func(t *testing.T) {
		if out, err := simulate(t, copyTree(t), "200"); err != nil {
			t.Fatalf("the tree breaks its promises without any mutant:\n%s", out)
		}
	})
	for _, patch := range patches {
		t.Run(strings.TrimSuffix(filepath.Base(patch), ".patch"), func(t *testing.T) { find(t, patch) })
	}
}

// find applies the patch to a copy and wants the simulation to break one of
// the promises that the patch says it breaks.
func find(t *testing.T, patch string) {
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	promises := regexp.MustCompile(`(?m)^Promises: (.*)$`).FindStringSubmatch(string(text))
	if promises == nil {
		t.Fatal("the patch does not say which promises it breaks: Promises: N")
	}
	dir := copyTree(t)
	absolute, err := filepath.Abs(patch)
	if err != nil {
		t.Fatal(err)
	}
	apply := exec.CommandContext(t.Context(), "git", "apply", "--recount", absolute)
	apply.Dir = dir
	// The copy may lie within another repository's directory.
	apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("the patch does not apply any more: %v\n%s", err, out)
	}
	out, err := simulate(t, dir, seeds)
	broken := regexp.MustCompile(`breaks promise (\d+).*`).FindStringSubmatch(out)
	switch {
	case err == nil:
		t.Errorf("nobody finds it in %s seeds: %s", seeds, text)
	case broken == nil:
		t.Errorf("it ends otherwise than by a broken promise:\n%s", out)
	case !slices.Contains(strings.Split(promises[1], ","), broken[1]):
		t.Errorf("it was to break promise %s:\n%s", promises[1], out)
	default:
		t.Log(broken[0])
	}
}

// simulate runs the simulation of the copy until a promise breaks.
func simulate(t *testing.T, dir, seeds string) (string, error) {
	t.Helper()
	run := exec.CommandContext(t.Context(), "go", "test", "./internal/sim", "-run", "TestSeeds|TestScripts", "-count=1", "-failfast", "-vet=off", "-seeds", seeds, "-until-broken")
	run.Dir = dir
	run.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	out, err := run.CombinedOutput()
	return string(out), err
}

// copyTree copies the parts to a directory of their own.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range parts {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, relative)), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, relative), content, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
