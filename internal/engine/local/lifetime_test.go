package local

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestContainerdDies checks that servers go on while containerd and the engine
// are away, that how one ended meanwhile is known afterwards, and that nothing
// of what they wrote is lost.
func TestContainerdDies(t *testing.T) {
	w := newWorld(t)
	e, err := New(t.Context(), w.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	alive, dying, writing := s.serving(nil), s.serving(nil), s.start(nil, "flood")
	awaitPort(t, e, writing.ID, 8080)
	before := s.observe(alive)
	pid := s.pid(dying)

	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	w.killContainerd(t)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	dial(t, before.Address)
	w.startContainerd(t)
	s.e = w.open(t)

	if is := s.observe(alive); is == nil || is.State != model.Running || is.Address != before.Address || !is.StartedAt.Equal(before.StartedAt) {
		t.Errorf("a server that went on is seen as %+v, it was %+v", is, before)
	}
	if exit := s.awaitExit(dying); !exit.Known || exit.Code != 25 || exit.OOM {
		t.Errorf("a server that ended meanwhile is seen to have ended with %+v", exit)
	}
	if out, code := s.run(alive, "stat", "/tmp"); code != 0 {
		t.Errorf("no command can be run afterwards: %s", out)
	}
	checkFlood(t, s, writing)

	// Containerd alone dies: the engine finds the next one by itself.
	w.killContainerd(t)
	if err := s.e.Stop(t.Context(), engine.Ref{Epoch: 1, ID: alive.ID}, "", 10*time.Second); err != nil {
		t.Errorf("without containerd, Stop says: %v", err)
	}
	w.startContainerd(t)
	if exit := s.awaitExit(alive); !exit.Known || exit.Code != 25 {
		t.Errorf("a server that was stopped without containerd ended with %+v", exit)
	}
	for _, ref := range []engine.Ref{alive, dying} {
		if err := s.e.Destroy(t.Context(), ref); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
	s.serving(nil)
}

// dial connects to a server past the engine.
func dial(t *testing.T, address string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "8080"), 5*time.Second)
	if err != nil {
		t.Fatalf("a server does not go on: %v", err)
	}
	_ = conn.Close()
}

// checkFlood checks that the lines of a flood that are kept follow each other.
func checkFlood(t *testing.T, s *servers, ref engine.Ref) {
	t.Helper()
	if err := s.e.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	last, lines := 0, 0
	err := s.e.Logs(t.Context(), ref.ID, engine.LogOptions{}, func(l engine.LogLine) error {
		var n int
		if lines == 0 && strings.HasSuffix(l.Text, "before this line and are not kept") {
			return nil // a fast machine: the beginning is gone, and the log says so
		}
		if _, err := fmt.Sscanf(l.Text, "line %d", &n); err != nil {
			return fmt.Errorf("%q: %w", l.Text, err)
		}
		if last != 0 && n != last+1 {
			return fmt.Errorf("line %d follows %d", n, last)
		}
		last, lines = n, lines+1
		return nil
	})
	if err != nil || lines < 1000 {
		t.Errorf("of %d lines %d are kept: %v", last, lines, err)
	}
	size := int64(0)
	for _, name := range []string{"current", "previous"} {
		if info, err := os.Stat(filepath.Join(s.e.logDir(ref.ID), name)); err == nil {
			size += info.Size()
		}
	}
	if size > 18<<20 {
		t.Errorf("the log takes %d bytes", size)
	}
}

// TestFullDisk checks that a server goes on when its log cannot be written, and
// that the log says what is missing when it can be again.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.logsDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", w.logsDir(), "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(w.logsDir(), unix.MNT_DETACH) })
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	ballast := filepath.Join(w.logsDir(), "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := s.start(nil, "flood")
	awaitPort(t, e, ref.ID, 8080)
	full := func() bool {
		var st unix.Statfs_t
		return unix.Statfs(w.logsDir(), &st) == nil && st.Bavail == 0
	}
	for deadline := time.Now().Add(20 * time.Second); !full(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the disk does not get full")
		}
	}
	was := cpuTime(t, e, ref)
	time.Sleep(500 * time.Millisecond)
	if is := cpuTime(t, e, ref); is-was < 10_000 { // a blocked one uses none
		t.Errorf("the server is held up: it used %d µs in half a second", is-was)
	}
	dial(t, s.observe(ref).Address)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	said := ""
	for deadline := time.Now().Add(20 * time.Second); said == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log does not say what is missing")
		}
		err := e.Logs(t.Context(), ref.ID, engine.LogOptions{}, func(l engine.LogLine) error {
			if l.Stream == "kiln" {
				said = l.Text
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(said, "could not be kept") || !strings.Contains(said, "no space left") {
		t.Errorf("the log says %q", said)
	}
	if o := s.observe(ref); o.State != model.Running {
		t.Errorf("the server is %+v", o)
	}
}

func cpuTime(t *testing.T, e *Engine, ref engine.Ref) int64 {
	t.Helper()
	sample := e.sample(ref.ID, time.Now())
	if sample == nil {
		t.Fatal("there is no sample")
	}
	return sample.CPUMicros
}

// TestShimDies checks what is seen of a server whose shim is killed: it dies
// with it, nobody knows how, and it can be removed.
func TestShimDies(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	ref := s.serving(nil)
	_, r := e.lookup(ref.ID)
	if err := unix.Kill(r.Shim.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := s.awaitExit(ref); exit.Known {
		t.Errorf("how it ended is said to be known: %+v", exit)
	}
	if err := e.Destroy(t.Context(), ref); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

// TestReboot opens an engine over records of another boot.
func TestReboot(t *testing.T) {
	w := newWorld(t)
	e, err := New(t.Context(), w.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	ref := s.serving(nil)
	// What a reboot ends and forgets: processes, links, and the run directory.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	w.killContainerd(t)
	_, r := e.lookup(ref.ID)
	for _, pid := range []int{r.Shim.PID, r.Process.PID} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.network.detach(ref.ID); err != nil {
		t.Fatal(err)
	}
	forgotten := *r
	forgotten.Process.Boot, forgotten.Shim.Boot = "another", "another"
	if err := writeRecord(e.serverDir(ref.ID), &forgotten); err != nil {
		t.Fatal(err)
	}
	w.startContainerd(t)
	s.e = w.open(t)
	if o := s.observe(ref); o == nil || o.State != model.Exited || o.Exit.Known {
		t.Errorf("after a reboot it is seen as %+v", o)
	}
	if found, err := s.e.Collect(t.Context(), ref); err != nil || found.Observed.State != model.Exited {
		t.Errorf("Collect: %+v, %v", found, err)
	}
	if err := s.e.Destroy(t.Context(), ref); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if s.observe(ref) != nil {
		t.Error("it was destroyed and is there")
	}
}

// TestOrphans checks that remains without a record are seen, and removed when
// the engine is opened.
func TestOrphans(t *testing.T) {
	w := newWorld(t)
	e, err := New(t.Context(), w.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	ref := s.serving(nil)
	// An engine that is killed in the middle of its work leaves any part.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(recordPath(e.serverDir(ref.ID))); err != nil {
		t.Fatal(err)
	}
	stray := model.ServerID("stray-aaaaaa")
	if _, err := e.network.attach(stray, 0, false); err != nil {
		t.Fatal(err)
	}
	e.client, err = e.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.servers = map[model.ServerID]*server{}
	snapshot, err := e.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	orphans := strings.Join(snapshot.Orphans, "\n")
	for _, want := range []string{
		"link " + e.link(ref.ID), "link " + e.link(stray), "network namespace " + e.netns(ref.ID), "log " + e.logDir(ref.ID),
		"container " + string(ref.ID), "control group ", "record " + e.serverDir(ref.ID),
	} {
		if !strings.Contains(orphans, want) {
			t.Errorf("among the orphans is no %q:\n%s", want, orphans)
		}
	}
	_ = e.client.Close()
	s.e = w.open(t)
	snapshot, err = s.e.Observe(t.Context())
	if err != nil || len(snapshot.Orphans) != 0 || len(snapshot.Servers) != 0 {
		t.Errorf("an engine that was opened sees %+v (%v)", snapshot, err)
	}
}

// TestBuildRemnants checks that what a killed builder leaves is removed, its
// processes too, and nothing else.
func TestBuildRemnants(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	server, step := s.serving(nil), s.serving(nil)
	ctx := e.scoped(t.Context())
	// A step of a build is a container without the label.
	_, err := e.client.ContainerService().Update(ctx, containers.Container{ID: string(step.ID)}, "labels."+serverLabel)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveBuildRemnants(t.Context()); err != nil {
		t.Fatalf("RemoveBuildRemnants: %v", err)
	}
	if exit := s.awaitExit(step); exit.Code != 137 {
		t.Errorf("what was left of a build ended with %+v", exit)
	}
	if _, err := e.client.ContainerService().Get(ctx, string(step.ID)); !errdefs.IsNotFound(err) {
		t.Errorf("its container is there: %v", err)
	}
	if o := s.observe(server); o.State != model.Running {
		t.Errorf("a server is %+v", o)
	}
}

// TestForgottenShim checks that a shim ends with its server also when containerd
// has forgotten it.
func TestForgottenShim(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	ref := s.serving(nil)
	_, r := e.lookup(ref.ID)
	// Without its bundle a containerd that starts does not find the shim.
	w.killContainerd(t)
	bundle := filepath.Join(w.RunDir, "containerd", "io.containerd.runtime.v2.task", w.namespace(), string(ref.ID))
	if err := os.Rename(bundle, filepath.Join(w.RunDir, "forgotten")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(w.RunDir, "forgotten", "rootfs"), unix.MNT_DETACH) })
	w.startContainerd(t)
	if err := e.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	if err := e.Destroy(t.Context(), ref); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); r.Shim.runs(e.boot); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the shim goes on")
		}
	}
}

// A shim whose containerd was killed before it told of it goes with its server.
func TestDestroyFindsTheShim(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	id := model.ServerID("web-aaaaaa")
	shim := func(of model.ServerID) *exec.Cmd {
		cmd := exec.Command("/bin/sh")
		cmd.Args = []string{e.binaries.shim, "-c", "read line", "sh", "-namespace", e.namespace(), "-id", string(of), "-address", "x"}
		in, err := cmd.StdinPipe() // it reads until it is killed
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	lost, other := shim(id), shim("web-bbbbbb")
	if err := e.Destroy(t.Context(), engine.Ref{Epoch: 1, ID: id}); err != nil {
		t.Fatal(err)
	}
	if p, err := identify(lost.Process.Pid, e.boot); err == nil && p.runs(e.boot) {
		for deadline := time.Now().Add(5 * time.Second); p.runs(e.boot) && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		}
		if p.runs(e.boot) {
			t.Error("the shim goes on")
		}
	}
	if p, err := identify(other.Process.Pid, e.boot); err != nil || !p.runs(e.boot) {
		t.Errorf("another server's shim was ended: %v", err)
	}
}
