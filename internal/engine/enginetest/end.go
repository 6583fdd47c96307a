package enginetest

import (
	"fmt"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func stop(t *testing.T, s *suite) {
	for signal, code := range map[string]int{"": 25, "SIGTERM": 25, "SIGQUIT": 13, "SIGUSR1": 20} {
		ref := s.running(t, "serve", "8080")
		s.awaitServing(t, ref)
		began := time.Now()
		if err := s.Engine.Stop(t.Context(), ref, signal, soon); err != nil {
			t.Fatalf("Stop with %q: %v", signal, err)
		}
		if took := time.Since(began); took >= soon {
			t.Errorf("Stop with %q took %s: the grace, although the server had ended", signal, took)
		}
		o := s.observe(t, ref.ID)
		if o == nil || o.State != model.Exited {
			t.Fatalf("Stop returned, and the server is %+v", o)
		}
		if !o.Exit.Known || o.Exit.Code != code {
			t.Errorf("Stop with %q ended it with %+v, want status %d", signal, o.Exit, code)
		}
	}
}

// awaitServing waits until the program of the suite has come so far that it
// answers signals as it should.
func (s *suite) awaitServing(t *testing.T, ref engine.Ref) {
	t.Helper()
	d, ok := s.Engine.(engine.Dialer)
	if !ok {
		return
	}
	eventually(t, fmt.Sprintf("%s answers", ref.ID), func() error {
		return get(t.Context(), d, ref.ID, s.observe(t, ref.ID).Address)
	})
}

func stopKills(t *testing.T, s *suite) {
	const grace = 500 * time.Millisecond
	ref := s.running(t, "ignore-term")
	s.awaitLog(t, ref, "ignoring signals")
	began := time.Now()
	if err := s.Engine.Stop(t.Context(), ref, "", grace); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if took := time.Since(began); took < grace {
		t.Errorf("Stop took %s, less than the grace of %s", took, grace)
	}
	o := s.observe(t, ref.ID)
	if o == nil || o.State != model.Exited || !o.Exit.Known || o.Exit.Code != 137 || o.Exit.Signal != "SIGKILL" {
		t.Fatalf("a killed server is seen as %+v with exit %+v", o, o.Exit)
	}
	if o.Exit.OOM {
		t.Error("a killed server is said to have run out of memory")
	}
}

// awaitLog waits until the server has written the line.
func (s *suite) awaitLog(t *testing.T, ref engine.Ref, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s writes %q", ref.ID, text), func() error {
		evidence, err := s.Engine.Collect(t.Context(), ref)
		if err != nil {
			return err
		}
		for _, line := range evidence.Log {
			if line.Text == text {
				return nil
			}
		}
		return fmt.Errorf("it wrote %d other lines", len(evidence.Log))
	})
}

func stopWithoutNeed(t *testing.T, s *suite) {
	ended := s.exited(t, "exit", "3")
	if err := s.Engine.Stop(t.Context(), ended, "", time.Second); err != nil {
		t.Errorf("Stop of one that has ended: %v", err)
	}
	if o := s.observe(t, ended.ID); o == nil || o.Exit.Code != 3 {
		t.Errorf("Stop of one that has ended made it %+v", o)
	}
	if err := s.Engine.Stop(t.Context(), s.server(t), "", time.Second); err != nil {
		t.Errorf("Stop of one that is absent: %v", err)
	}
}

func destroy(t *testing.T, s *suite) {
	ref := s.running(t, "serve", "8080")
	wantCode(t, "Destroy of a running server", s.Engine.Destroy(t.Context(), ref), model.Precondition)
	if o := s.observe(t, ref.ID); o == nil || o.State != model.Running {
		t.Fatalf("a refused Destroy made it %+v", o)
	}
	if err := s.Engine.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if o := s.observe(t, ref.ID); o == nil {
		t.Fatal("Stop did not keep the remains")
	}
	for range 2 { // the second time it is absent
		if err := s.Engine.Destroy(t.Context(), ref); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
		if o := s.observe(t, ref.ID); o != nil {
			t.Fatalf("Destroy left %+v", o)
		}
	}
	if _, err := s.Engine.Collect(t.Context(), ref); model.CodeOf(err) != model.NotFound {
		t.Errorf("Destroy left evidence (%v)", err)
	}
	if err := s.Engine.Destroy(t.Context(), s.server(t)); err != nil {
		t.Errorf("Destroy of one that never was: %v", err)
	}
}

func collectAlive(t *testing.T, s *suite) {
	ref := s.running(t, "spew", "3")
	s.awaitLog(t, ref, "stderr line 3")
	evidence, err := s.Engine.Collect(t.Context(), ref)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	if evidence.Observed.ID != ref.ID || evidence.Observed.State != model.Running {
		t.Errorf("evidence of a running server says %+v", evidence.Observed)
	}
	wantSpewed(t, evidence, 3)
	if o := s.observe(t, ref.ID); o == nil || o.State != model.Running {
		t.Errorf("Collect made it %+v", o)
	}
}

// wantSpewed checks that the evidence holds what "spew" wrote, each stream in
// order.
func wantSpewed(t *testing.T, evidence *engine.Evidence, n int) {
	t.Helper()
	written := map[string]int{}
	for _, line := range evidence.Log {
		written[line.Stream]++
		if want := fmt.Sprintf("%s line %d", line.Stream, written[line.Stream]); line.Text != want {
			t.Errorf("the log has %q, want %q", line.Text, want)
		}
		if line.At.IsZero() {
			t.Errorf("line %q carries no time", line.Text)
		}
	}
	if written["stdout"] != n || written["stderr"] != n {
		t.Errorf("the log has %v lines, want %d of each", written, n)
	}
}

func collectDead(t *testing.T, s *suite) {
	ref := s.running(t, "spew", "3")
	s.awaitLog(t, ref, "stderr line 3")
	if err := s.Engine.Stop(t.Context(), ref, "SIGTERM", soon); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	evidence, err := s.Engine.Collect(t.Context(), ref)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	o := evidence.Observed
	if o.ID != ref.ID || o.State != model.Exited || o.Exit == nil || o.Exit.Code != 25 {
		t.Errorf("evidence of an ended server says %+v, exit %+v", o, o.Exit)
	}
	wantSpewed(t, evidence, 3)

	quick := s.exited(t, "lines", "2000")
	s.awaitLog(t, quick, "line 2000")
	evidence, err = s.Engine.Collect(t.Context(), quick)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	if n := len(evidence.Log); n > 1000 || n < 100 {
		t.Errorf("the evidence has %d lines of 2000, want the last, at most 1000", n)
	}
}

func collectAbsent(t *testing.T, s *suite) {
	_, err := s.Engine.Collect(t.Context(), s.server(t))
	wantCode(t, "Collect of an absent server", err, model.NotFound)
}
