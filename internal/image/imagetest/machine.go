// Package imagetest gives tests a containerd of their own. Only tests import it.
package imagetest

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiln/internal/engine/local"
	"kiln/internal/image"
	"kiln/internal/model"
)

// Machine is the directories of an instance whose containerd runs.
type Machine struct {
	Instance model.InstanceID
	RunDir   string
	DataDir  string
	Log      *slog.Logger
}

// Start runs containerd until the test has ended. The instance's id is random,
// so that tests may run side by side.
func Start(t testing.TB) *Machine {
	t.Helper()
	id := model.InstanceID(strings.ToLower(rand.Text()[:6])) // the same alphabet
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: it mounts file systems and makes network namespaces")
	}
	run, err := os.MkdirTemp("/run", "kt-"+string(id)+"-") //nolint:usetesting // a socket's path has at most 107 bytes, and the test's own directory may be longer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.RemoveAll(run)
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/kiln-" + string(id))
		for _, g := range append(groups, "/sys/fs/cgroup/kiln-"+string(id)) {
			_ = os.Remove(g) // what is in it is the tested program's to remove
		}
	})
	m := &Machine{
		Instance: id,
		RunDir:   run,
		DataDir:  t.TempDir(),
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	m.run(t)
	return m
}

func (m *Machine) run(t testing.TB) {
	t.Helper()
	path, args, err := local.ContainerdCommand(local.Config{Instance: m.Instance, DataDir: m.DataDir, RunDir: m.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("unix", image.SocketPath(m.RunDir))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("containerd does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Store opens the machine's images.
func (m *Machine) Store(t testing.TB) *image.Store {
	t.Helper()
	s, err := image.Open(context.Background(), image.Config{Instance: m.Instance, RunDir: m.RunDir, DataDir: m.DataDir, Log: m.Log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Main runs the tests of a package. Under containerd's name the test binary is
// containerd.
func Main(m *testing.M) {
	if filepath.Base(os.Args[0]) == local.ContainerdName {
		os.Exit(local.RunContainerd(os.Args[1:]))
	}
	os.Exit(m.Run())
}
