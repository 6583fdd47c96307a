package e2e_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// previousCommit is the version before this one: what it left running is what
// this one has to go on with.
const previousCommit = "d898c56"

// buildPrevious builds the version before this one and returns its binary. Where
// the clone lacks its commit, it builds this very tree under another version:
// then processes of two binaries are mixed, and only the format of what the
// older one wrote is not tried here (internal/journal has a journal of it).
func buildPrevious(t *testing.T, root string) (string, error) {
	dir, err := os.MkdirTemp("", "kiln-previous-") //nolint:usetesting // for all scripts, whichever is first
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tree, bin := filepath.Join(dir, "tree"), filepath.Join(dir, "kiln")
	if err := checkOut(root, tree); err != nil {
		t.Logf("the commit %s of the version before is not in this clone (%v): this tree is built under another version instead", previousCommit, err)
		tree = root
	}
	return bin, buildKiln(tree, bin, "previous")
}

// buildNext builds this tree as a later version, which differs in its build.
func buildNext(t *testing.T, root string) (string, error) {
	dir, err := os.MkdirTemp("", "kiln-next-") //nolint:usetesting // for all scripts, whichever is first
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin := filepath.Join(dir, "kiln")
	return bin, buildKiln(root, bin, "next")
}

func buildKiln(tree, bin, version string) error {
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", bin, "./cmd/kiln")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build version %s: %w\n%s", version, err, out)
	}
	return nil
}

// checkOut writes the tree of the version before, with the programs of this one
// that are embedded.
func checkOut(root, tree string) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	git := fmt.Sprintf("git -C '%s' archive %s | tar -x -C '%s'", root, previousCommit, tree)
	if out, err := exec.Command("bash", "-o", "pipefail", "-c", git).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	embedded, err := filepath.Glob(filepath.Join(root, "internal/engine/local/runtime/*.zst"))
	if err != nil {
		return err
	}
	for _, from := range embedded {
		if err := copyFile(from, filepath.Join(tree, "internal/engine/local/runtime", filepath.Base(from)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copyFile makes to appear at once.
func copyFile(from, to string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// program puts a version of kiln in the place from which this script starts it,
// as an upgrade does: what runs goes on with the one it was started with.
func program(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	builds := map[string]func() (string, error){
		"previous": w.previous, "current": func() (string, error) { return w.current, nil }, "next": w.next,
	}
	want(ts, len(args) == 1 && builds[args[0]] != nil, "program previous|current|next")
	from, err := builds[args[0]]()
	check(ts, err)
	place := filepath.Join(filepath.Dir(w.Data), "bin", "kiln")
	check(ts, copyFile(from, place, 0o755))
	w.Bin = place
}
