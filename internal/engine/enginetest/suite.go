// Package enginetest is the conformance suite of the engine port: what it
// checks is what the comment of engine.Engine promises. Every engine runs it.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Subject is an engine under test.
type Subject struct {
	Engine engine.Engine
	// Image can be prepared, and nothing has prepared it yet. It holds the
	// statically linked program of this suite (BuildProgram) at /program with
	// PATH=/, has the entrypoint ["/program"], no command, no stop signal and no
	// user database, and is otherwise empty.
	Image model.Digest
	// Reopen closes the engine and opens it again over the same world, as a
	// daemon that was replaced does. Nil: what has to outlive that is not
	// checked.
	Reopen func(t *testing.T) engine.Engine
}

// BuildProgram compiles the program of Subject.Image, without cgo, and returns
// the path of the executable.
func BuildProgram(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "kiln/internal/engine/enginetest/program")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the program of the suite: %v\n%s", err, out)
	}
	return path
}

const (
	serviceName = "conform"
	servePort   = 8080
	// soon is how long anything that an engine does by itself may take.
	soon = 30 * time.Second
)

// absent is the digest of an image that nobody has.
const absent = model.Digest("sha256:00000000000000000000000000000000000000000000000000000000deadbeef")

// Run checks one engine. open is called once; the subtests run one after the
// other in the same world, and each removes its servers.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	s := &suite{Subject: open(t), epoch: 10}
	for _, c := range []struct {
		name  string
		check func(*testing.T, *suite)
	}{
		{"unprepared image", unpreparedImage},
		{"prepare", prepare},
		{"provision shows the server", provisionShows},
		{"provision again", provisionAgain},
		{"provision another template", provisionConflict},
		{"what can never run", neverRuns},
		{"identity", identity},
		{"exit status", exitStatus},
		{"stop", stop},
		{"stop kills", stopKills},
		{"stop without need", stopWithoutNeed},
		{"destroy", destroy},
		{"collect alive", collectAlive},
		{"collect dead", collectDead},
		{"collect absent", collectAbsent},
		{"exec", execRuns},
		{"exec ends with its context", execContext},
		{"exec refused", execRefused},
		{"old epoch", oldEpoch},
		{"ended context", endedContext},
		{"same server at once", sameAtOnce},
		{"many servers at once", manyAtOnce},
		{"watcher", watcher},
		{"dialer", dialer},
		{"meter", meter},
		{"logger", logger},
		{"shell", shellRuns},
		{"shell writes", shellWrites},
		{"shell on a terminal", shellTerminal},
		{"shell ends with its context", shellContext},
		{"shell leaves nothing", shellLeaves},
		{"shell refused", shellRefused},
		{"disturber", disturbed},
		{"reopen", reopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, s) })
	}
}

// suite is the state that the checks share.
type suite struct {
	Subject
	epoch uint64
	count uint64
}

// server names a server that the check will make, and removes it at the end.
func (s *suite) server(t *testing.T) engine.Ref {
	t.Helper()
	s.count++
	id := model.ServerID(serviceName + "-" + model.Sixes("enginet", s.count))
	t.Cleanup(func() {
		// The test's own context has ended here.
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		ref := engine.Ref{Epoch: s.epoch, ID: id}
		if err := s.Engine.Stop(ctx, ref, "", 0); err != nil {
			t.Errorf("cannot stop %s at the end: %v", id, err)
		}
		if err := s.Engine.Destroy(ctx, ref); err != nil {
			t.Errorf("cannot destroy %s at the end: %v", id, err)
		}
		snapshot, err := s.Engine.Observe(ctx)
		if err != nil {
			t.Errorf("cannot observe at the end: %v", err)
			return
		}
		if snapshot.Server(id) != nil || len(snapshot.Orphans) != 0 {
			t.Errorf("%s was destroyed; observed %v and orphans %q", id, snapshot.Server(id), snapshot.Orphans)
		}
	})
	return engine.Ref{Epoch: s.epoch, ID: id}
}

// template runs the program with the arguments.
func (s *suite) template(arguments ...string) model.Template {
	return model.Template{
		Service:   serviceName,
		Image:     s.Image,
		Command:   arguments,
		Env:       map[string]string{"KILN_TEST": "from the template"},
		Port:      servePort,
		Protocol:  model.HTTP,
		Resources: model.Resources{Memory: 64 << 20, PIDs: 64},
		// As is the default.
		UserNamespace: true,
	}
}

// running provisions a server and waits until it runs.
func (s *suite) running(t *testing.T, arguments ...string) engine.Ref {
	t.Helper()
	ref := s.server(t)
	s.mustProvision(t, ref, s.template(arguments...))
	s.await(t, ref.ID, model.Running)
	return ref
}

// exited provisions a server and waits until it has ended.
func (s *suite) exited(t *testing.T, arguments ...string) engine.Ref {
	t.Helper()
	ref := s.server(t)
	s.mustProvision(t, ref, s.template(arguments...))
	s.await(t, ref.ID, model.Exited)
	return ref
}

func (s *suite) mustProvision(t *testing.T, ref engine.Ref, template model.Template) {
	t.Helper()
	if err := s.Engine.Prepare(t.Context(), template.Image); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	if err := s.Engine.Provision(t.Context(), ref, template); err != nil {
		t.Fatalf("Provision %s: %v", ref.ID, err)
	}
}

// observe returns what the engine sees of the server, or nil.
func (s *suite) observe(t *testing.T, id model.ServerID) *model.Observed {
	t.Helper()
	snapshot, err := s.Engine.Observe(t.Context())
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	return snapshot.Server(id)
}

// await waits until the server is seen in the state.
func (s *suite) await(t *testing.T, id model.ServerID, state model.RunState) *model.Observed {
	t.Helper()
	var seen *model.Observed
	eventually(t, fmt.Sprintf("%s is %s", id, state), func() error {
		seen = s.observe(t, id)
		if seen == nil {
			return errors.New("it is absent")
		}
		if seen.State != state {
			return fmt.Errorf("it is %s (%v)", seen.State, seen.Exit)
		}
		return nil
	})
	return seen
}

// eventually asks until there is no error, and fails the test if that takes
// too long.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s: %v", soon, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// wantCode fails the test unless err is of the class.
func wantCode(t *testing.T, what string, err error, codes ...model.Code) {
	t.Helper()
	for _, code := range codes {
		if model.CodeOf(err) == code {
			return
		}
	}
	t.Errorf("%s: got error %v (%s), want %s", what, err, model.CodeOf(err), codes)
}
