// Package e2e_test runs the kiln binary as its users do: real daemon, real
// containerd, real servers, real traffic. Each script in testdata has an
// instance of its own, and leaves nothing of it behind. See README.md for the
// commands that scripts have.
package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/test/instance"
)

var work = flag.Bool("work", false, "keep each script's directory and say where it is")

// TestScripts runs testdata/*.txtar, at most as many at once as -parallel says.
func TestScripts(t *testing.T) { scripts(t, "testdata") }

// scripts runs those of a directory.
func scripts(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests start servers, and have to run as root")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "bin", "kiln")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("there is no %s: run make build first", bin)
	}
	shops := buildShops(t, root)
	next := sync.OnceValues(func() (string, error) { return buildNext(t, root) })
	previous := sync.OnceValues(func() (string, error) { return buildPrevious(t, root) })
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		TestWork:            *work,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			return setup(t, env, root, world{shops: shops, current: bin, previous: previous, next: next})
		},
		Cmds: commands(),
	})
}

// buildShops compiles both versions of examples/shop and returns where they are.
func buildShops(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	for _, version := range []string{"1", "2", "3"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -X main.version="+version, "-o", filepath.Join(dir, version), "./examples/shop")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot build examples/shop: %v\n%s", err, out)
		}
	}
	return dir
}

// setup gives a script its instance, four free ports and the environment.
func setup(t *testing.T, env *testscript.Env, root string, w world) error {
	dir, err := os.MkdirTemp("/tmp", "k-") //nolint:usetesting // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		return err
	}
	w.Instance, w.loads = instance.New(w.current, dir), map[string]*underway{}
	env.Values[worldKey{}] = &w
	env.Vars = append(env.Vars, w.Env()...)
	env.Setenv("PATH", filepath.Dir(w.current)+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("HOME", dir)
	env.Setenv("REPO", root)
	env.Setenv("DATA", w.Data)
	for _, name := range []string{"PORT", "PORT2", "PORT3", "PORT4"} {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv(name, port)
	}
	env.Defer(func() {
		if said := w.Tail(60); !w.ended && said != "" {
			t.Logf("the daemon's last words:\n%s", said)
		}
		w.stopLoads()
		w.letGo()
		w.stopAuthorities()
		w.removeOrigin()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.Purge(ctx); err != nil {
			t.Errorf("cannot clean up: %v", err)
		}
		if !*work {
			_ = os.RemoveAll(dir) // of no interest any more
		}
	})
	return nil
}

// freePort returns a port of the loopback that nobody listens on, below those
// that the kernel hands out for outgoing connections.
func freePort() (string, error) {
	for range 100 {
		port := 10_000 + int(time.Now().UnixNano()/1000%20_000)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			return strconv.Itoa(port), l.Close()
		}
	}
	return "", fmt.Errorf("no port is free")
}
