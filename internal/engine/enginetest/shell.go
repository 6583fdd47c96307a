package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// shells returns the engine's ability to give terminals, or nil.
func (s *suite) shells(t *testing.T) engine.Shells {
	t.Helper()
	shells, ok := s.Engine.(engine.Shells)
	if !ok {
		t.Log("the engine gives no terminals")
		return nil
	}
	return shells
}

// session is what a command in a server is run as.
func session(command ...string) engine.Shell {
	return engine.Shell{Session: "s-aaaaaa", Command: append([]string{"program"}, command...), Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}
}

func shellRuns(t *testing.T, s *suite) {
	shells := s.shells(t)
	if shells == nil {
		return
	}
	ref := s.running(t, "serve", "8080")
	code, err := shells.Shell(t.Context(), ref, session("exit", "9"))
	if err != nil || code != 9 {
		t.Errorf("exit 9: %d, %v", code, err)
	}
	var out, complaints bytes.Buffer
	sh := session("echo")
	sh.Stdin, sh.Stdout, sh.Stderr = strings.NewReader("said\n"), &out, &complaints
	code, err = shells.Shell(t.Context(), ref, sh)
	if err != nil || code != 0 || out.String() != "said\n" || complaints.String() != "end\n" {
		t.Errorf("echo: %d, %v, %q, %q", code, err, out.String(), complaints.String())
	}
	signals := make(chan string, 1)
	said := &awaited{}
	sh = session("spew", "1")
	sh.Signals, sh.Stdout = signals, said
	go func() {
		said.await(t, "stdout line 1\n")
		signals <- "USR1"
	}()
	if code, err = shells.Shell(t.Context(), ref, sh); err != nil || code != 20 {
		t.Errorf("after USR1: %d, %v", code, err)
	}
	if o := s.observe(t, ref.ID); o == nil || o.State != model.Running {
		t.Errorf("Shell made it %+v", o)
	}
}

func shellWrites(t *testing.T, s *suite) {
	shells := s.shells(t)
	if shells == nil {
		return
	}
	ref := s.running(t, "serve", "8080")
	if code, err := shells.Shell(t.Context(), ref, session("write", "/fresh")); err != nil || code != 1 {
		t.Errorf("a session that may not write: %d, %v", code, err)
	}
	sh := session("write", "/fresh")
	sh.Writable, sh.Root = true, true
	if code, err := shells.Shell(t.Context(), ref, sh); err != nil || code != 0 {
		t.Errorf("a session that may write: %d, %v", code, err)
	}
	r, err := s.Engine.Exec(t.Context(), ref, engine.Exec{Command: []string{"program", "write", "/fresh"}})
	if err != nil || r.Code != 1 {
		t.Errorf("beside the session: %+v, %v", r, err)
	}
	differ, ok := s.Engine.(engine.Differ)
	if !ok {
		t.Log("the engine does not tell what has changed")
		return
	}
	found, more, err := differ.Differences(t.Context(), ref.ID, 10)
	if err != nil || more != 0 || len(found) != 1 {
		t.Fatalf("differences: %+v, %d more, %v", found, more, err)
	}
	x := found[0]
	if x.Path != "/fresh" || x.Kind != "added" || x.Mode != 0o600 || x.UID != 0 || x.GID != 0 || x.Size != 8 || x.Stamp == "" || x.Before != nil {
		t.Errorf("the difference is %+v", x)
	}
	content, err := x.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if text, err := io.ReadAll(content); err != nil || string(text) != "written\n" {
		t.Errorf("it holds %q, %v", text, err)
	}
	if found, more, err = differ.Differences(t.Context(), ref.ID, 0); err != nil || more != 1 || len(found) != 0 {
		t.Errorf("none of them: %+v, %d more, %v", found, more, err)
	}
	_, _, err = differ.Differences(t.Context(), s.server(t).ID, 10)
	wantCode(t, "Differences of an absent server", err, model.NotFound)
}

func shellTerminal(t *testing.T, s *suite) {
	shells := s.shells(t)
	if shells == nil {
		return
	}
	ref := s.running(t, "serve", "8080")
	sizes, signals := make(chan engine.WindowSize), make(chan string)
	said := &awaited{}
	sh := session("size")
	sh.TTY, sh.Size = true, engine.WindowSize{Columns: 80, Rows: 24}
	sh.Resize, sh.Signals, sh.Stdout, sh.Stderr = sizes, signals, said, nil
	go func() {
		said.await(t, "80 by 24\r\n")
		sizes <- engine.WindowSize{Columns: 132, Rows: 43}
		said.await(t, "132 by 43\r\n")
		signals <- "TERM"
	}()
	if code, err := shells.Shell(t.Context(), ref, sh); err != nil || code != 25 {
		t.Errorf("a resized terminal: %d, %v, %q", code, err, said.text())
	}
	said = &awaited{}
	keys, press := io.Pipe()
	sh = session("echo")
	sh.TTY, sh.Stdin, sh.Stdout, sh.Stderr = true, keys, said, nil
	go func() {
		_, _ = io.WriteString(press, "typed\n")
		said.await(t, "typed\r\ntyped\r\n") // what is typed, and what comes of it
		_, _ = io.WriteString(press, "\x03")
	}()
	if code, err := shells.Shell(t.Context(), ref, sh); err != nil || code != 130 {
		t.Errorf("Ctrl-C: %d, %v, %q", code, err, said.text())
	}
	_ = keys.Close()
}

func shellContext(t *testing.T, s *suite) {
	shells := s.shells(t)
	if shells == nil {
		return
	}
	ref := s.running(t, "serve", "8080")
	for _, tty := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		said := &awaited{}
		sh := session("ignore-term")
		sh.TTY, sh.Stdout = tty, said
		go func() {
			said.await(t, "ignoring signals")
			cancel()
		}()
		began := time.Now()
		if _, err := shells.Shell(ctx, ref, sh); err == nil {
			t.Error("a session that was ended returned without an error")
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		s.wantAlone(t, ref)
	}
}

// wantAlone wants no process in the server but its first.
func (s *suite) wantAlone(t *testing.T, ref engine.Ref) {
	t.Helper()
	evidence, err := s.Engine.Collect(t.Context(), ref)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	if len(evidence.Processes) != 1 {
		t.Errorf("left behind: %+v", evidence.Processes)
	}
}

func shellLeaves(t *testing.T, s *suite) {
	shells := s.shells(t)
	if shells == nil {
		return
	}
	ref := s.running(t, "serve", "8080")
	said := &awaited{}
	sh := session("leave")
	sh.Stdout = said
	if code, err := shells.Shell(t.Context(), ref, sh); err != nil || code != 0 || !strings.Contains(said.text(), "left\n") {
		t.Errorf("leave: %d, %v, %q", code, err, said.text())
	}
	s.wantAlone(t, ref)
}

func shellRefused(t *testing.T, s *suite) {
	shells := s.shells(t)
	if shells == nil {
		return
	}
	ref := s.running(t, "serve", "8080")
	sh := session()
	sh.Command = nil
	_, err := shells.Shell(t.Context(), ref, sh)
	wantCode(t, "Shell without a shell", err, model.Invalid)
	wantCode(t, "Runnable without a shell", shells.Runnable(t.Context(), ref.ID, nil), model.Invalid)
	if err := shells.Runnable(t.Context(), ref.ID, []string{"program"}); err != nil {
		t.Errorf("Runnable: %v", err)
	}
	sh.Command = []string{"/no-such-program"}
	_, err = shells.Shell(t.Context(), ref, sh)
	wantCode(t, "Shell of an absent command", err, model.Invalid)
	_, err = shells.Shell(t.Context(), s.exited(t, "exit", "0"), session("exit", "0"))
	wantCode(t, "Shell in an ended server", err, model.Precondition)
	_, err = shells.Shell(t.Context(), s.server(t), session("exit", "0"))
	wantCode(t, "Shell in an absent server", err, model.Precondition)
}

// awaited keeps what is written to it, and can be waited for.
type awaited struct {
	mu   sync.Mutex
	kept []byte
}

func (a *awaited) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = append(a.kept, b...)
	return len(b), nil
}

func (a *awaited) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return string(a.kept)
}

func (a *awaited) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(soon); !strings.Contains(a.text(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error(fmt.Errorf("%q was not written: %q", text, a.text()))
			return
		}
	}
}
