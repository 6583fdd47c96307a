package enginetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func execRuns(t *testing.T, s *suite) {
	ref := s.running(t, "serve", "8080")
	r, err := s.Engine.Exec(t.Context(), ref, engine.Exec{Command: []string{"/program", "exit", "9"}})
	if err != nil || r.Code != 9 || len(r.Output) != 0 {
		t.Errorf("exit 9: %+v, %v", r, err)
	}
	r, err = s.Engine.Exec(t.Context(), ref, engine.Exec{Command: []string{"program", "lines", "3"}})
	if err != nil || r.Code != 0 || string(r.Output) != "line 1\nline 2\nline 3\n" {
		t.Errorf("three lines: %d %q, %v", r.Code, r.Output, err)
	}
	r, err = s.Engine.Exec(t.Context(), ref, engine.Exec{Command: []string{"program", "lines", "1000"}, Limit: 20})
	if err != nil || r.Code != 0 || string(r.Output) != "\nline 999\nline 1000\n" {
		t.Errorf("the last 20 bytes: %d %q, %v", r.Code, r.Output, err)
	}
	r, err = s.Engine.Exec(t.Context(), ref, engine.Exec{Command: []string{"program", "lines", "10000"}})
	if err != nil || len(r.Output) != 64<<10 || !strings.HasSuffix(string(r.Output), "line 10000\n") {
		t.Errorf("the last 64 KiB: %d bytes, %v", len(r.Output), err)
	}
	if o := s.observe(t, ref.ID); o == nil || o.State != model.Running {
		t.Errorf("Exec made it %+v", o)
	}
}

func execContext(t *testing.T, s *suite) {
	ref := s.running(t, "serve", "8080")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := s.Engine.Exec(ctx, ref, engine.Exec{Command: []string{"/program", "ignore-term"}})
	if err == nil {
		t.Error("a command that does not end returned without an error")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Exec returned %s after its start, its context ended after 300ms", took)
	}
	evidence, err := s.Engine.Collect(t.Context(), ref)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	for _, p := range evidence.Processes {
		if strings.Contains(p.Command, "ignore-term") {
			t.Errorf("the command was left behind: %+v", p)
		}
	}
}

func execRefused(t *testing.T, s *suite) {
	command := engine.Exec{Command: []string{"/program", "exit", "0"}}
	ref := s.running(t, "serve", "8080")
	_, err := s.Engine.Exec(t.Context(), ref, engine.Exec{Command: []string{"/no-such-program"}})
	wantCode(t, "Exec of an absent command", err, model.Invalid)
	_, err = s.Engine.Exec(t.Context(), s.exited(t, "exit", "0"), command)
	wantCode(t, "Exec in an ended server", err, model.Precondition)
	_, err = s.Engine.Exec(t.Context(), s.server(t), command)
	wantCode(t, "Exec in an absent server", err, model.Precondition)
}
