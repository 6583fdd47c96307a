package cli

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"kiln/internal/api"
	"kiln/internal/model"
)

// session opens a session in a server and is its terminal until it ends. The
// exit code is that of its command.
func (a *app) session(ctx context.Context, server model.ServerID, req api.TerminalRequest) error {
	req.By, req.Term = a.author(ctx), a.Env("TERM")
	in, isFile := a.Stdin.(*os.File)
	req.TTY = isFile && isTerminal(a.Stdin) && isTerminal(a.Stdout)
	if req.TTY {
		req.Size = windowSize(in)
	}
	// What ends the program when it watches is the command's here.
	attached, detach := context.WithCancel(context.WithoutCancel(ctx))
	defer detach()
	frames, err := a.api().OpenTerminal(attached, server, req)
	if err != nil {
		return err
	}
	defer frames.Close()
	t := &attachment{app: a, frames: frames}
	if req.TTY {
		restore, err := t.takeTerminal(in, detach)
		if err != nil {
			return err
		}
		defer restore()
	} else {
		defer t.passSignals()()
	}
	go t.sendInput()
	return t.show()
}

// windowSize returns the size of the terminal; nothing if it has none.
func windowSize(f *os.File) api.WindowSize {
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return api.WindowSize{}
	}
	return api.WindowSize{Columns: uint16(columns), Rows: uint16(rows)}
}

// attachment is the person's end of a session.
type attachment struct {
	app    *app
	frames *api.Frames
	raw    bool
	opened api.Session
}

// takeTerminal gives every key to the session, and tells it when the terminal's
// size changes. The function it returns gives the terminal back.
func (t *attachment) takeTerminal(in *os.File, detach func()) (restore func(), err error) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot take over the terminal: %w", err)
	}
	t.raw = true
	changes, ends := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT) // sent, not typed
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-changes:
				_ = t.frames.SendJSON(api.FrameSize, windowSize(in)) // whoever reads notices what is lost
			case <-ends:
				detach()
			case <-done:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(done)
		signal.Stop(changes)
		signal.Stop(ends)
		_ = term.Restore(int(in.Fd()), before)
	}), nil
}

// passSignals gives the command the signals that the program gets. The function
// it returns ends that.
func (t *attachment) passSignals() (stop func()) {
	signals, done := make(chan os.Signal, 8), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for {
			select {
			case s := <-signals:
				if number, ok := s.(syscall.Signal); ok {
					_ = t.frames.Send(api.FrameSignal, []byte(unix.SignalName(number)))
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// sendInput sends what is typed until its end, or the session's.
func (t *attachment) sendInput() {
	if _, err := io.Copy(t.frames.Writer(api.FrameInput), t.app.Stdin); err == nil && !t.raw {
		_ = t.frames.Send(api.FrameEnd, nil)
	}
}

// show shows what the session writes until it has ended.
func (t *attachment) show() error {
	for {
		kind, data, err := t.frames.Next()
		if err != nil {
			if t.raw {
				t.note("")
			}
			return t.app.api().LostSession(err)
		}
		switch kind {
		case api.FrameOutput:
			_, err = t.app.Stdout.Write(data)
		case api.FrameError:
			_, err = t.app.Stderr.Write(data)
		case api.FrameNote:
			t.note(string(data))
		case api.FrameBegun:
			if err = json.Unmarshal(data, &t.opened); err == nil && t.raw {
				t.greet()
			}
		case api.FrameEnded:
			var end model.SessionEnd
			if err := json.Unmarshal(data, &end); err != nil {
				return model.Errorf(model.Internal, "cannot read how the session ended: %w", err)
			}
			return t.ended(end)
		default: // of a newer daemon
		}
		if err != nil {
			return model.Errorf(model.Internal, "cannot show the session: %w", err)
		}
	}
}

// note writes a line of kiln's own between what the session writes.
func (t *attachment) note(text string) {
	if t.raw {
		_, _ = io.WriteString(t.app.Stderr, "\r\n")
	}
	if text == "" {
		return
	}
	_, _ = io.WriteString(t.app.Stderr, "kiln: "+printable(text))
	if t.raw {
		_, _ = io.WriteString(t.app.Stderr, "\r")
	}
	_, _ = io.WriteString(t.app.Stderr, "\n")
}

func (t *attachment) greet() {
	text := string(t.opened.Kind) + " " + string(t.opened.ID) + " in " + string(t.opened.Server) +
		", which is tainted from now on and replaced before " + stamp(t.opened.Until) + "; this is recorded"
	if t.opened.Kind == model.SessionHotfix {
		text += "; its files can be changed"
	}
	t.note(text)
}

// ended says how the session ended, where that is not the command's doing.
func (t *attachment) ended(end model.SessionEnd) error {
	x := t.opened
	x.Ended = &end
	if t.app.opts.json {
		if err := t.app.line(x); err != nil {
			return err
		}
	} else if end.Exit == nil {
		t.note("the session has ended: " + end.How)
	} else if n := end.Added + end.Changed + end.Removed; n > 0 {
		t.note("what changed is kept: kiln hotfix show " + string(x.ID))
	}
	if end.Exit == nil {
		return exit(exitFailed)
	}
	return exit(*end.Exit)
}
