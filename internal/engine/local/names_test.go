package local

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// listenFree listens on an address that need not exist yet, as the router does.
func listenFree(t *testing.T, address string) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
				t.Error(err)
			}
		})
	}}
	l, err := config.Listen(context.Background(), "tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	serveAddresses(t, l)
}

// TestNames checks who reaches a service by its name, and that nobody else does.
func TestNames(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	db := e.nameAddress("db").String()
	listenFree(t, db+":5432")
	wild, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAddresses(t, wild)
	_, wildPort, _ := net.SplitHostPort(wild.Addr().String())

	connects := func(t *model.Template) { t.Connects = []string{"cache", "db"} }
	other := func(t *model.Template) { t.Connects = []string{"cache"} }
	one, two, three := s.serving(connects), s.serving(nil), s.serving(other)
	if hosts, _ := s.run(one, "read", "/etc/hosts"); !strings.Contains(hosts, db+"\tdb.kiln\n") || !strings.Contains(hosts, "\tcache.kiln\n") {
		t.Errorf("/etc/hosts is %q", hosts)
	}
	reaches := func(ref engine.Ref, want bool) {
		t.Helper()
		for _, name := range []string{db + ":5432", "db.kiln:5432"} {
			if name == "db.kiln:5432" && !want {
				continue
			}
			said, code := s.run(ref, "dial", name)
			if (code == 0) != want || want && !strings.HasPrefix(said, s.observe(ref).Address+":") {
				t.Errorf("%s dials %s: %q (status %d), want it to be reached: %t", ref.ID, name, said, code, want)
			}
		}
	}
	reaches(one, true)
	reaches(two, false)
	reaches(three, false)
	for _, address := range []string{db + ":" + wildPort, e.network.gateway.String() + ":5432", e.nameAddress("queue").String() + ":5432"} {
		if said, code := s.run(one, "dial", address); code == 0 {
			t.Errorf("a server reaches %s: %s", address, said)
		}
	}

	// A new engine over the same servers changes nothing, nor do others' ends.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = w.open(t)
	s.e = e
	reaches(one, true)
	reaches(two, false)
	end(t, e, three)
	reaches(one, true)
	four := s.serving(connects)
	end(t, e, one)
	reaches(four, true)
	end(t, e, four)
	if left, _ := filepath.Glob("/sys/class/net/" + e.linkPrefix() + "-*"); len(left) != 0 {
		t.Errorf("no server connects to another, and there is %v", left)
	}
}

func end(t *testing.T, e *Engine, ref engine.Ref) {
	t.Helper()
	if err := e.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	if err := e.Destroy(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
}

// TestNamesOfTwoKilns checks that an address that another kiln has is refused,
// and comes back when it is free.
func TestNamesOfTwoKilns(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	rival := &names{config: e.Config, have: map[netip.Addr]bool{}}
	rival.config.Instance = model.InstanceID(strings.ToLower(rand.Text()[:6]))
	t.Cleanup(func() { _ = removeLink(rival.config.namesLink()) })
	if err := rival.addLocked(e.nameAddress("db"), "db"); err != nil {
		t.Fatal(err)
	}
	connects := func(t *model.Template) { t.Connects = []string{"db"} }
	template := s.template("serve", "8080")
	connects(&template)
	err := e.Provision(t.Context(), s.ref(), template)
	if model.CodeOf(err) != model.Conflict || !strings.Contains(err.Error(), "is taken on this machine, by link "+rival.config.namesLink()) ||
		!strings.Contains(model.HintOf(err), "--service-net") {
		t.Errorf("it says %v (%s; %s)", err, model.CodeOf(err), model.HintOf(err))
	}
	if snapshot, err := e.Observe(t.Context()); err != nil || len(snapshot.Servers)+len(snapshot.Orphans) != 0 {
		t.Errorf("it left %+v (%v)", snapshot, err)
	}
	if err := removeLink(rival.config.namesLink()); err != nil {
		t.Fatal(err)
	}
	if err := e.Provision(t.Context(), s.ref(), template); err != nil {
		t.Errorf("with the address free it says %v", err)
	}
}
