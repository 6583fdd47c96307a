package local

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/engine/local/disturb"
	"kiln/internal/model"
)

// TestDisturbances checks what each disturbance that cannot be felt from outside
// does to a server, and that nothing of it stays.
func TestDisturbances(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	ref := s.serving(func(t *model.Template) {
		t.Resources = model.Resources{Memory: 64 << 20, CPU: 200, PIDs: 64}
		t.Ephemeral = []model.Ephemeral{{Path: "/var/scratch", Size: 1 << 20}}
		t.UserNamespace = true
	})
	within := func(kind model.ChaosKind, felt func() error) {
		t.Helper()
		if err := e.Disturb(t.Context(), ref, model.Disturbance{Kind: kind, Lasts: model.Duration(time.Minute)}); err != nil {
			t.Errorf("Disturb: %v", err)
			return
		}
		eventuallyFelt(t, string(kind), felt)
		if found, err := e.Inspect(t.Context(), ref.ID, engine.Glance); err != nil || len(found) > 0 {
			t.Errorf("what %s does is taken for drift: %+v (%v)", kind, found, err)
		}
		if err := e.Calm(t.Context(), ref); err != nil {
			t.Errorf("Calm: %v", err)
		}
	}
	used := func() int64 {
		usage, err := e.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return usage[ref.ID].Memory
	}
	before := used()
	within(model.ChaosMemory, func() error {
		if now := used(); now < 58<<20 {
			return fmt.Errorf("of 64 MiB %d MiB are used", now>>20)
		}
		return nil
	})
	eventuallyFelt(t, "the memory is given back", func() error {
		if now := used(); now > before+8<<20 {
			return fmt.Errorf("%d MiB are used", now>>20)
		}
		return nil
	})
	for _, kind := range []model.ChaosKind{model.ChaosFreeze, model.ChaosLoss, model.ChaosLatency} {
		within(kind, func() error { return nil })
	}
	within(model.ChaosCPU, func() error { return throttled(e, ref.ID) })
	free := func(place string) uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(fmt.Sprintf("/proc/%d/root%s", s.pid(ref), place), &st); err != nil {
			t.Fatal(err)
		}
		return st.Bavail
	}
	places := []string{"/tmp", "/run", "/dev/shm", "/var/scratch"}
	within(model.ChaosDiskFull, func() error {
		for _, place := range places {
			if n := free(place); n != 0 {
				return fmt.Errorf("%s has %d pages left", place, n)
			}
		}
		if out, code := s.run(ref, "fill", "/tmp/more", "1"); code == 0 || !strings.Contains(out, "no space left") {
			return fmt.Errorf("the server can write: %s", out)
		}
		return nil
	})
	for _, place := range places {
		if free(place) == 0 {
			t.Errorf("%s is still full", place)
		}
	}
	refusesWithoutLimit(t, s)
}

func refusesWithoutLimit(t *testing.T, s *servers) {
	t.Helper()
	ref := s.serving(func(t *model.Template) { t.Resources = model.Resources{} })
	err := s.e.Disturb(t.Context(), ref, model.Disturbance{Kind: model.ChaosMemory, Lasts: model.Duration(time.Minute)})
	if model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "no memory limit") {
		t.Errorf("a server without a limit: %v", err)
	}
}

func eventuallyFelt(t *testing.T, what string, felt func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := felt()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %v", what, err)
			return
		}
	}
}

// throttled reports whether the server's control group has used up its time.
func throttled(e *Engine, id model.ServerID) error {
	if n := readKeyed(filepath.Join(e.cgroupDir("cpu", id), "cpu.stat"), "nr_throttled"); n < 5 {
		return fmt.Errorf("it was throttled %d times", n)
	}
	return nil
}

// TestDisturbanceOfADeadEngine checks that an engine undoes what one before it
// was killed in the midst of, and that the process that freezes a server lets go
// of it when nobody holds its input any more.
func TestDisturbanceOfADeadEngine(t *testing.T) {
	w := newWorld(t)
	e, err := New(t.Context(), w.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	ref := s.serving(nil)
	address := s.observe(ref).Address

	order := disturb.Order{Kind: "freeze", Lasts: time.Minute, Groups: []string{e.freezer(ref.ID)}}
	helper := exec.CommandContext(t.Context(), e.binaries.logger, order.Arguments()...)
	input, err := helper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); strings.TrimSpace(line) != disturb.Ready || !frozen(t, e, ref) {
		t.Errorf("it says %q (%v), and the server is frozen: %t", line, err, frozen(t, e, ref))
	}
	if err := input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := helper.Wait(); err != nil || frozen(t, e, ref) {
		t.Errorf("its input ended, it said %v, and the server is frozen: %t", err, frozen(t, e, ref))
	}

	// As an engine leaves it whose processes were killed all at once.
	_, r := e.lookup(ref.ID)
	if _, err := e.lose(r, time.Minute); err != nil {
		t.Fatal(err)
	}
	freezeByHand(t, e, ref)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	s.e = w.open(t)
	if frozen(t, s.e, ref) {
		t.Error("the next engine leaves the server frozen")
	}
	if left := lossTables(t, s.e); left != 0 {
		t.Error("the next engine leaves the server's packets dropped")
	}
	if _, err := netip.ParseAddr(address); err != nil {
		t.Fatal(err)
	}
	dial(t, address)
}

func frozen(t *testing.T, e *Engine, ref engine.Ref) bool {
	t.Helper()
	for _, file := range []string{"cgroup.events", "freezer.state"} {
		if b, err := os.ReadFile(filepath.Join(e.freezer(ref.ID), file)); err == nil {
			return strings.Contains(string(b), "FROZEN") || strings.Contains(string(b), "frozen 1")
		}
	}
	t.Fatal("the server has no control group that freezes")
	return false
}

func freezeByHand(t *testing.T, e *Engine, ref engine.Ref) {
	t.Helper()
	file, say := "cgroup.freeze", "1"
	if !unified() {
		file, say = "freezer.state", "FROZEN"
	}
	if err := os.WriteFile(filepath.Join(e.freezer(ref.ID), file), []byte(say), 0); err != nil {
		t.Fatal(err)
	}
	eventuallyFelt(t, "frozen by hand", func() error {
		if !frozen(t, e, ref) {
			return fmt.Errorf("it is not")
		}
		return nil
	})
}

func lossTables(t *testing.T, e *Engine) int {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, table := range tables {
		if table.Name == e.lossTable() {
			n++
		}
	}
	return n
}
