package local

import (
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestTrial checks that a trial answers the engine and nobody else, reaches nothing,
// is no server to Observe, and does not outlive the engine that made it.
func TestTrial(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	out := newOutside(t, w)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
	s := w.servers(t, e, image)
	one := s.serving(nil)
	trial := engine.Ref{Epoch: 1, ID: "shop-tttttt"}
	template := model.Template{Service: "shop", Image: image, Command: []string{"serve", "8080"}, Port: 8080, UserNamespace: true}
	if err := e.Prepare(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	if err := e.ProvisionTrial(t.Context(), trial, template); err != nil {
		t.Fatal(err)
	}
	if err := e.Provision(t.Context(), trial, template); model.CodeOf(err) != model.Conflict {
		t.Errorf("a server in a trial's place: %v, want a conflict", err)
	}
	seen := awaitTrial(t, e, trial.ID)
	snapshot, err := e.Observe(t.Context())
	if err != nil || snapshot.Server(trial.ID) != nil || len(snapshot.Orphans) > 0 || snapshot.Server(one.ID) == nil {
		t.Errorf("observed %v, orphans %q (%v), want the one server", snapshot.Servers, snapshot.Orphans, err)
	}
	refused := []string{
		out.world, out.linkLocal, net.JoinHostPort(s.observe(one).Address, "8080"), net.JoinHostPort(e.network.gateway.String(), "22"), "203.0.113.1:9000",
	}
	reaches := func(address string) bool {
		r, err := e.Exec(t.Context(), trial, engine.Exec{Command: []string{"program", "dial", address}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Code == 0
	}
	for _, address := range refused {
		if reaches(address) {
			t.Errorf("a trial reaches %s", address)
		}
	}
	// Somebody gives it a route: the machine passes nothing on all the same.
	gateway := e.network.gateway.String()
	if out, err := exec.Command("nsenter", "--net="+e.netns(trial.ID), "ip", "route", "add", "default", "via", gateway, "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, address := range refused {
		if reaches(address) {
			t.Errorf("with a route a trial reaches %s", address)
		}
	}
	if said, code := s.run(one, "dial", net.JoinHostPort(seen.Address, "8080")); code == 0 {
		t.Errorf("a server reaches a trial: %s", said)
	}
	conn, err := e.DialServer(t.Context(), trial.ID, net.JoinHostPort(seen.Address, "8080"))
	if err != nil {
		t.Fatalf("the engine does not reach a trial: %v", err)
	}
	_ = conn.Close()

	// The next engine knows nothing of it, and nothing of it is left.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = w.open(t)
	if _, err := e.ObserveTrial(t.Context(), trial.ID); model.CodeOf(err) != model.NotFound {
		t.Errorf("a trial of an earlier engine: %v, want none", err)
	}
	if _, r := e.lookup(one.ID); r == nil || r.Exit != nil {
		t.Errorf("the server beside it is %v, want it running", r)
	}
	for _, pattern := range []string{e.serverDir(trial.ID), e.logDir(trial.ID), e.netns(trial.ID), "/sys/class/net/" + e.link(trial.ID), filepath.Join(cgroupRoot, "*", e.cgroup(), string(trial.ID))} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left of a trial: %v", left)
		}
	}
	if err := e.ProvisionTrial(t.Context(), trial, model.Template{Service: "shop", Image: image, Connects: []string{"db"}}); model.CodeOf(err) != model.Invalid {
		t.Errorf("a trial that connects: %v, want invalid", err)
	}
}

func awaitTrial(t *testing.T, e *Engine, id model.ServerID) model.Observed {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		seen, err := e.ObserveTrial(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := e.DialServer(t.Context(), id, net.JoinHostPort(seen.Address, "8080")); err == nil {
			_ = conn.Close()
			return seen
		}
	}
	t.Fatalf("%s does not serve", id)
	return model.Observed{}
}
