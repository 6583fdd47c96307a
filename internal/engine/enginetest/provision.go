package enginetest

import (
	"strings"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func unpreparedImage(t *testing.T, s *suite) {
	ref := s.server(t)
	template := s.template("serve", "8080")
	template.Image = absent
	wantCode(t, "Provision of an absent image", s.Engine.Provision(t.Context(), ref, template), model.Precondition)
	if o := s.observe(t, ref.ID); o != nil {
		t.Errorf("a refused Provision left %+v", o)
	}
}

func prepare(t *testing.T, s *suite) {
	wantCode(t, "Prepare of an absent image", s.Engine.Prepare(t.Context(), absent), model.NotFound)
	for range 2 {
		if err := s.Engine.Prepare(t.Context(), s.Image); err != nil {
			t.Fatalf("Prepare: %v", err)
		}
	}
	snapshot, err := s.Engine.Observe(t.Context())
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	found := false
	for _, image := range snapshot.Images {
		found = found || image == s.Image
		if image == absent {
			t.Error("Observe lists an image that nobody has")
		}
	}
	if !found {
		t.Errorf("Observe lists %v, not the prepared %s", snapshot.Images, s.Image)
	}
}

func provisionShows(t *testing.T, s *suite) {
	before := time.Now().Add(-time.Minute)
	ref := s.server(t)
	template := s.template("serve", "8080")
	s.mustProvision(t, ref, template)
	if s.observe(t, ref.ID) == nil {
		t.Error("Provision returned, and Observe does not show the server")
	}
	seen := s.await(t, ref.ID, model.Running)
	if seen.TemplateHash != template.Hash() {
		t.Errorf("template hash %s, want %s", seen.TemplateHash, template.Hash())
	}
	if seen.Epoch != ref.Epoch {
		t.Errorf("epoch %d, want %d", seen.Epoch, ref.Epoch)
	}
	if seen.Address == "" || strings.Contains(seen.Address, ":") {
		t.Errorf("address %q, want an IP without port", seen.Address)
	}
	if seen.StartedAt.Before(before) || seen.StartedAt.After(time.Now().Add(time.Minute)) {
		t.Errorf("started at %s, now is %s", seen.StartedAt, time.Now())
	}
	if seen.Exit != nil {
		t.Errorf("a running server has the exit %v", seen.Exit)
	}
	other := s.running(t, "serve", "8080")
	if o := s.observe(t, other.ID); o.Address == seen.Address {
		t.Errorf("two servers have the address %s", o.Address)
	}
	snapshot, err := s.Engine.Observe(t.Context())
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	if c := snapshot.Capacity; c.MemoryTotal <= 0 || c.MemoryFree <= 0 || c.MemoryFree > c.MemoryTotal || c.Addresses <= 0 {
		t.Errorf("capacity %+v", c)
	}
}

func provisionAgain(t *testing.T, s *suite) {
	ref := s.running(t, "serve", "8080")
	first := s.observe(t, ref.ID)
	if err := s.Engine.Provision(t.Context(), ref, s.template("serve", "8080")); err != nil {
		t.Errorf("the same again: %v", err)
	}
	again := s.observe(t, ref.ID)
	if again == nil || again.State != model.Running || again.Address != first.Address || !again.StartedAt.Equal(first.StartedAt) {
		t.Errorf("the same again changed %+v to %+v", first, again)
	}

	ended := s.exited(t, "exit", "4")
	if err := s.Engine.Provision(t.Context(), ended, s.template("exit", "4")); err != nil {
		t.Errorf("the same again after it has exited: %v", err)
	}
	// A server that was started again would be seen in another state.
	for range 5 {
		if o := s.observe(t, ended.ID); o == nil || o.State != model.Exited || o.Exit.Code != 4 {
			t.Fatalf("an ended server came back: %+v", o)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func provisionConflict(t *testing.T, s *suite) {
	ref := s.running(t, "serve", "8080")
	first := s.observe(t, ref.ID)
	other := s.template("serve", "8080")
	other.Env = map[string]string{"KILN_TEST": "another"}
	wantCode(t, "Provision of another template", s.Engine.Provision(t.Context(), ref, other), model.Conflict)
	if o := s.observe(t, ref.ID); o == nil || o.State != model.Running || o.TemplateHash != first.TemplateHash {
		t.Errorf("a conflict changed %+v to %+v", first, o)
	}
	ended := s.exited(t, "exit", "4")
	wantCode(t, "Provision of another template after it has exited",
		s.Engine.Provision(t.Context(), ended, s.template("serve", "8080")), model.Conflict)
}

func neverRuns(t *testing.T, s *suite) {
	if err := s.Engine.Prepare(t.Context(), s.Image); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	noCommand := s.template()
	noCommand.Entrypoint = []string{"/no-such-program"}
	noUser := s.template("serve", "8080")
	noUser.User = "nobody-of-that-name"
	for name, template := range map[string]model.Template{"command": noCommand, "user": noUser} {
		ref := s.server(t)
		err := s.Engine.Provision(t.Context(), ref, template)
		wantCode(t, "Provision with an absent "+name, err, model.Invalid)
		if o := s.observe(t, ref.ID); o != nil {
			t.Errorf("Provision with an absent %s left %+v", name, o)
		}
		if _, err := s.Engine.Collect(t.Context(), ref); model.CodeOf(err) != model.NotFound {
			t.Errorf("Provision with an absent %s left evidence (%v)", name, err)
		}
		// Nothing stayed behind, so the id is free.
		if err := s.Engine.Provision(t.Context(), ref, s.template("serve", "8080")); err != nil {
			t.Errorf("Provision after one that failed: %v", err)
		}
	}
}

// identity checks that a server has a host name of its own, a read-only root
// with a writable /tmp, and the environment of its template.
func identity(t *testing.T, s *suite) {
	one, two := s.running(t, "serve", "8080"), s.running(t, "serve", "8080")
	run := func(ref engine.Ref, command ...string) engine.ExecResult {
		t.Helper()
		r, err := s.Engine.Exec(t.Context(), ref, engine.Exec{Command: command})
		if err != nil {
			t.Fatalf("Exec %q: %v", command, err)
		}
		return r
	}
	if a, b := string(run(one, "program", "hostname").Output), string(run(two, "program", "hostname").Output); a == b || a == "" {
		t.Errorf("host names %q and %q, want two", a, b)
	}
	if r := run(one, "program", "write", "/changed"); r.Code == 0 {
		t.Error("the root can be written")
	}
	if r := run(one, "program", "write", "/tmp/file"); r.Code != 0 {
		t.Errorf("/tmp cannot be written: %s", r.Output)
	}
	if r := run(one, "program", "env", "KILN_TEST"); string(r.Output) != "from the template\n" {
		t.Errorf("KILN_TEST is %q", r.Output)
	}
}

func exitStatus(t *testing.T, s *suite) {
	for argument, code := range map[string]int{"0": 0, "7": 7} {
		ref := s.exited(t, "exit", argument)
		o := s.observe(t, ref.ID)
		if o.Exit == nil || !o.Exit.Known || o.Exit.Code != code || o.Exit.Signal != "" || o.Exit.At.IsZero() {
			t.Errorf("exit %s was seen as %+v", argument, o.Exit)
		}
		if o.TemplateHash != s.template("exit", argument).Hash() {
			t.Errorf("an ended server has the template hash %s", o.TemplateHash)
		}
	}
}
