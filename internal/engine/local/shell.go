package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// sessionCapabilities are what the root of a session has beyond a server's: the
// rights to give files away and to keep their modes, which package managers and
// archives take for granted. In a user namespace they reach no further than the
// server.
var sessionCapabilities = []string{"CAP_FOWNER", "CAP_FSETID"}

// Shell implements engine.Shells. The command sees the server as its own
// processes do, but for the root, which may be writable; see cell.
func (e *Engine) Shell(ctx context.Context, ref engine.Ref, sh engine.Shell) (int, error) {
	r, command, err := e.runnable(ref.ID, sh.Command)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.lifetime, cancel)() //nolint:contextcheck // the engine's own: nobody would end it any more
	c, err := e.openCell(ctx, r, sh)
	if err != nil {
		return 0, fmt.Errorf("cannot open a session in %s: %w", ref.ID, err)
	}
	context.AfterFunc(c.gone, cancel) //nolint:contextcheck // of the cell
	process := sessionProcess(r, e.environment(r), command, sh)
	code, err := c.run(ctx, process, sh)
	if closing := c.close(); err == nil && closing != nil {
		err = closing
	}
	if err != nil {
		return 0, fmt.Errorf("cannot run %q in %s: %w", command[0], ref.ID, err)
	}
	return code, nil
}

// Runnable implements engine.Shells.
func (e *Engine) Runnable(_ context.Context, id model.ServerID, command []string) error {
	_, _, err := e.runnable(id, command)
	return err
}

func (e *Engine) runnable(id model.ServerID, command []string) (*record, []string, error) {
	_, r := e.lookup(id)
	if r == nil || r.state() != model.Running {
		return nil, nil, model.Errorf(model.Precondition, "cannot open a session in %s: it does not run", id)
	}
	if e.Runtime != "" {
		return nil, nil, model.Errorf(model.Precondition, "cannot open a session in %s: servers run under %s, and sessions need the runtime that kiln brings along", id, e.Runtime)
	}
	command, err := e.shellCommand(r, command)
	return r, command, err
}

// shellCommand finds the command, or a shell where none is asked for.
func (e *Engine) shellCommand(r *record, command []string) ([]string, error) {
	root := fmt.Sprintf("/proc/%d/root", r.Process.PID)
	if len(command) == 0 {
		for _, shell := range []string{"bash", "sh"} {
			if _, err := lookCommand(root, r.Cwd, r.Env, shell); err == nil {
				return []string{shell}, nil
			}
		}
		return nil, model.Errorf(model.Invalid, "cannot open a shell in %s: its image has neither bash nor sh", r.ID).
			WithHint("name a command that the image has, after --")
	}
	if _, err := lookCommand(root, r.Cwd, r.Env, command[0]); err != nil {
		if !r.Process.runs(e.boot) {
			return nil, model.Errorf(model.Precondition, "cannot open a session in %s: it has just ended", r.ID)
		}
		return nil, model.Errorf(model.Invalid, "cannot run %q in %s: %w", command[0], r.ID, err)
	}
	return command, nil
}

// sessionProcess is what the session runs: as a process of the server, or as
// the server's root.
func sessionProcess(r *record, env, command []string, sh engine.Shell) *specs.Process {
	u := r.User
	if sh.Root && u.UID != 0 {
		u = execUser{}
		env = withVariable(env, "HOME", "/root")
	}
	if sh.TTY {
		term := sh.Term
		if term == "" {
			term = "xterm"
		}
		env = withVariable(env, "TERM", term)
	}
	p := serverProcess(&plan{args: command, env: env, cwd: r.Cwd, user: u})
	p.Terminal = sh.TTY
	if sh.TTY && sh.Size.Columns > 0 { // else the command could be faster than the runtime's first look at it
		p.ConsoleSize = &specs.Box{Width: uint(sh.Size.Columns), Height: uint(sh.Size.Rows)}
	}
	if sh.Root {
		for _, set := range []*[]string{&p.Capabilities.Bounding, &p.Capabilities.Permitted, &p.Capabilities.Effective} {
			*set = append(*set, sessionCapabilities...)
		}
	}
	return p
}

// withVariable returns the environment with one variable changed.
func withVariable(env []string, name, value string) []string {
	changed := make([]string, 0, len(env)+1)
	for _, v := range env {
		if !strings.HasPrefix(v, name+"=") {
			changed = append(changed, v)
		}
	}
	return append(changed, name+"="+value)
}

// run runs the process in the cell until it or the context has ended.
func (c *cell) run(ctx context.Context, p *specs.Process, sh engine.Shell) (int, error) {
	cmd, err := c.exec(sessionState, p, "--pid-file", c.path(sessionState, "pid"))
	if err != nil {
		return 0, err
	}
	var io *streams
	if sh.TTY {
		io, err = terminal(cmd, sh)
	} else {
		io, err = pipes(cmd, sh)
	}
	if err != nil {
		return 0, err
	}
	err = c.start(cmd)
	io.started()
	if err != nil {
		io.close()
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go c.awaitCommand(ctx)
	err = c.attend(ctx, cmd, sh, io, ended)
	interrupted := context.Cause(ctx)
	// What the command has left running holds on to its output.
	if killing := c.end(); killing != nil {
		err = errors.Join(err, killing)
	}
	io.drain(ctx)
	if interrupted != nil {
		return 0, interrupted
	}
	if said := runtimeFailure(c.failures(sessionState)); said != "" {
		return 0, model.Errorf(model.Internal, "the runtime says: %s", said)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// lingering is how long the runtime may go on once the command has ended, to copy
// the rest of its output.
const lingering = time.Second

// awaitCommand sees to it that a session ends with its command: what that has
// left running keeps the runtime waiting for the end of its output.
func (c *cell) awaitCommand(ctx context.Context) {
	// One that is found no more has ended already.
	if command, err := c.processOf(ctx, sessionState); err == nil && !c.e.awaitEnd(command) {
		return // the engine is closed
	}
	select {
	case <-c.gone.Done():
	case <-time.After(lingering):
		_ = c.end() // whoever closes the cell hears of what does not end
	}
}

// attend passes on sizes and signals until the command or the context has ended.
func (c *cell) attend(ctx context.Context, cmd *exec.Cmd, sh engine.Shell, io *streams, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return err
		case size, ok := <-sh.Resize:
			if !ok {
				sh.Resize = nil
				continue
			}
			io.resize(size)
		case name, ok := <-sh.Signals:
			if !ok {
				sh.Signals = nil
				continue
			}
			// The runtime passes on what it gets, but for this one.
			if number, err := parseSignal(name); err == nil && number != unix.SIGKILL {
				_ = cmd.Process.Signal(number)
			} else if err == nil {
				_ = c.end()
			}
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return ignoreExit(<-ended)
		}
	}
}

// drainLimit is how long the next output may take to come once nothing writes
// it any more, and how long all of it may take once the session is over.
const drainLimit = 5 * time.Second

// streams are the engine's ends of what a command reads and writes.
type streams struct {
	theirs  []*os.File // the command's ends
	ours    []*os.File // that are read
	input   *os.File   // that is written
	reading sync.WaitGroup
	ended   atomic.Bool // the command has: what comes now is the rest
	sources []io.Writer
	stdin   io.Reader
	tty     bool
}

// pipes connects the command without a terminal.
func pipes(cmd *exec.Cmd, sh engine.Shell) (*streams, error) {
	s := &streams{stdin: sh.Stdin}
	for _, sink := range []struct {
		to io.Writer
		at *io.Writer
	}{{sh.Stdout, &cmd.Stdout}, {sh.Stderr, &cmd.Stderr}} {
		if sink.to == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, err
		}
		*sink.at = w
		s.theirs, s.ours, s.sources = append(s.theirs, w), append(s.ours, r), append(s.sources, sink.to)
	}
	if sh.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			s.close()
			return nil, err
		}
		cmd.Stdin, s.input = r, w
		s.theirs = append(s.theirs, r)
	}
	return s, nil
}

// terminal connects the command with a terminal of the machine's, which the
// runtime copies to and from one in the server.
func terminal(cmd *exec.Cmd, sh engine.Shell) (*streams, error) {
	own, theirs, err := openTerminal()
	if err != nil {
		return nil, err
	}
	s := &streams{
		stdin: sh.Stdin, input: own, tty: true,
		theirs: []*os.File{theirs}, ours: []*os.File{own}, sources: []io.Writer{sh.Stdout},
	}
	s.resize(sh.Size)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return s, nil
}

// openTerminal makes a pair of ends of a new terminal.
func openTerminal() (own, theirs *os.File, err error) {
	// Not blocking, so that a read of it ends when it is closed.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a terminal: %w", err)
	}
	own = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = own.Close()
		return nil, nil, fmt.Errorf("cannot make a terminal: %w", err)
	}
	return own, theirs, nil
}

// started lets go of the command's ends and begins to copy.
func (s *streams) started() {
	for _, f := range s.theirs {
		_ = f.Close()
	}
	for i, from := range s.ours {
		s.reading.Go(func() { s.copy(s.sources[i], from) })
	}
	if s.input == nil || s.stdin == nil {
		return
	}
	// Nobody waits for this: the reader is the caller's, and is read no more
	// once what is read can be written nowhere.
	go func() {
		_, _ = io.Copy(s.input, s.stdin)
		if !s.tty {
			_ = s.input.Close() // its end is the end of what the command reads
		}
	}()
}

func (s *streams) resize(size engine.WindowSize) {
	if !s.tty || size.Columns == 0 || size.Rows == 0 {
		return
	}
	conn, err := s.input.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: size.Columns, Row: size.Rows})
	})
}

// copy passes on what comes until its end. Somebody who takes it slowly gets
// all of it.
func (s *streams) copy(to io.Writer, from *os.File) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if s.ended.Load() {
			_ = from.SetReadDeadline(time.Now().Add(drainLimit))
		}
	}
}

// drain reads what is left, and closes everything. Whoever takes none of it any
// more is not waited for once ctx has ended.
func (s *streams) drain(ctx context.Context) {
	s.ended.Store(true)
	for _, f := range s.ours {
		_ = f.SetReadDeadline(time.Now().Add(drainLimit))
	}
	read := make(chan struct{})
	go func() { s.reading.Wait(); close(read) }()
	select {
	case <-read:
	case <-ctx.Done():
		select {
		case <-read:
		case <-time.After(drainLimit):
		}
	}
	s.close()
}

func (s *streams) close() {
	for _, f := range s.ours {
		_ = f.Close()
	}
	if s.input != nil {
		_ = s.input.Close()
	}
}
