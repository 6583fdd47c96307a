package enginetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// oldEpoch checks that the highest epoch the engine has seen, for whichever
// server, locks older writers out of everything.
func oldEpoch(t *testing.T, s *suite) {
	ref := s.running(t, "serve", "8080")
	s.epoch += 2
	if err := s.Engine.Destroy(t.Context(), s.server(t)); err != nil { // carries the new epoch
		t.Fatalf("Destroy of an absent server: %v", err)
	}
	s.wantLockedOut(t, ref)
	newer := engine.Ref{Epoch: s.epoch, ID: ref.ID}
	if err := s.Engine.Stop(t.Context(), newer, "", 0); err != nil {
		t.Errorf("Stop by the newer writer: %v", err)
	}
	wantCode(t, "Destroy of an ended server by an older writer", s.Engine.Destroy(t.Context(), ref), model.Conflict)
	if s.observe(t, ref.ID) == nil {
		t.Error("an older writer destroyed a server")
	}
}

// wantLockedOut checks that the writer of ref, a running server, can change
// nothing any more.
func (s *suite) wantLockedOut(t *testing.T, ref engine.Ref) {
	t.Helper()
	wantCode(t, "Provision by an older writer", s.Engine.Provision(t.Context(), ref, s.template("serve", "8080")), model.Conflict)
	wantCode(t, "Stop by an older writer", s.Engine.Stop(t.Context(), ref, "", 0), model.Conflict)
	wantCode(t, "Destroy by an older writer", s.Engine.Destroy(t.Context(), ref), model.Conflict)
	fresh := s.server(t)
	fresh.Epoch = ref.Epoch
	wantCode(t, "Provision of another server by an older writer",
		s.Engine.Provision(t.Context(), fresh, s.template("serve", "8080")), model.Conflict)
	if s.observe(t, fresh.ID) != nil {
		t.Error("an older writer made a server")
	}
	if o := s.observe(t, ref.ID); o == nil || o.State != model.Running {
		t.Errorf("an older writer made it %+v", o)
	}
}

// endedContext checks that a mutation whose context has ended may or may not
// have happened, that it is either, and that the same can be asked again.
func endedContext(t *testing.T, s *suite) {
	ref := s.server(t)
	template := s.template("serve", "8080")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Engine.Provision(ctx, ref, template); err == nil && s.observe(t, ref.ID) == nil {
		t.Error("Provision returned no error and made nothing")
	}
	s.mustProvision(t, ref, template)
	s.await(t, ref.ID, model.Running)
	if err := s.Engine.Stop(ctx, ref, "", 0); err == nil && s.observe(t, ref.ID).State != model.Exited {
		t.Error("Stop returned no error and stopped nothing")
	}
	if err := s.Engine.Stop(t.Context(), ref, "", 0); err != nil {
		t.Errorf("Stop again: %v", err)
	}
	if err := s.Engine.Destroy(ctx, ref); err == nil && s.observe(t, ref.ID) != nil {
		t.Error("Destroy returned no error and destroyed nothing")
	}
	if err := s.Engine.Destroy(t.Context(), ref); err != nil {
		t.Errorf("Destroy again: %v", err)
	}
}

// atOnce calls f n times at once and waits.
func atOnce(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

func sameAtOnce(t *testing.T, s *suite) {
	const writers = 4
	ref := s.server(t)
	if err := s.Engine.Prepare(t.Context(), s.Image); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	atOnce(writers, func(int) {
		if err := s.Engine.Provision(t.Context(), ref, s.template("serve", "8080")); err != nil {
			t.Errorf("Provision: %v", err)
		}
	})
	s.await(t, ref.ID, model.Running)
	atOnce(writers, func(int) {
		if err := s.Engine.Stop(t.Context(), ref, "", time.Second); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	s.await(t, ref.ID, model.Exited)
	atOnce(writers, func(int) {
		if err := s.Engine.Destroy(t.Context(), ref); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	if o := s.observe(t, ref.ID); o != nil {
		t.Errorf("after Destroy there is %+v", o)
	}
}

func manyAtOnce(t *testing.T, s *suite) {
	const servers = 8
	refs := make([]engine.Ref, servers)
	for i := range refs {
		refs[i] = s.server(t)
	}
	if err := s.Engine.Prepare(t.Context(), s.Image); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	atOnce(servers, func(i int) {
		if err := s.Engine.Provision(t.Context(), refs[i], s.template("serve", "8080")); err != nil {
			t.Errorf("Provision: %v", err)
		}
		if _, err := s.Engine.Observe(t.Context()); err != nil {
			t.Errorf("Observe: %v", err)
		}
	})
	addresses := map[string]model.ServerID{}
	for _, ref := range refs {
		o := s.await(t, ref.ID, model.Running)
		if other, taken := addresses[o.Address]; taken {
			t.Errorf("%s and %s have the address %s", other, ref.ID, o.Address)
		}
		addresses[o.Address] = ref.ID
	}
	atOnce(servers, func(i int) {
		if i%2 == 0 {
			return
		}
		if err := s.Engine.Stop(t.Context(), refs[i], "", 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if err := s.Engine.Destroy(t.Context(), refs[i]); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	for i, ref := range refs {
		o := s.observe(t, ref.ID)
		if gone := i%2 == 1; (o == nil) != gone || (o != nil && o.State != model.Running) {
			t.Errorf("server %d is %+v", i, o)
		}
	}
}

func reopen(t *testing.T, s *suite) {
	if s.Reopen == nil {
		t.Log("the subject cannot be opened again")
		return
	}
	alive, dead := s.running(t, "serve", "8080"), s.running(t, "spew", "2")
	s.awaitLog(t, dead, "stderr line 2")
	if err := s.Engine.Stop(t.Context(), dead, "SIGTERM", soon); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	before, was := s.observe(t, alive.ID), s.observe(t, dead.ID)
	s.epoch += 2
	if err := s.Engine.Destroy(t.Context(), s.server(t)); err != nil { // carries the new epoch
		t.Fatalf("Destroy of an absent server: %v", err)
	}
	s.Engine = s.Reopen(t)

	after := s.await(t, alive.ID, model.Running)
	if after.Address != before.Address || after.TemplateHash != before.TemplateHash || !after.StartedAt.Equal(before.StartedAt) {
		t.Errorf("a reopened engine sees %+v, it was %+v", after, before)
	}
	if is := s.await(t, dead.ID, model.Exited); is.Exit.Code != was.Exit.Code || is.TemplateHash != was.TemplateHash {
		t.Errorf("a reopened engine sees %+v, it was %+v", is, was)
	}
	evidence, err := s.Engine.Collect(t.Context(), dead)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	wantSpewed(t, evidence, 2)
	s.wantLockedOut(t, alive)
	alive.Epoch = s.epoch
	if err := s.Engine.Provision(t.Context(), alive, s.template("serve", "8080")); err != nil {
		t.Errorf("Provision of the same again: %v", err)
	}
}
