package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/engine/local/holder"
	"kiln/internal/model"
)

// cell is what a session has for itself in a server: a mount namespace, in which
// the root may be writable, and a control group. All else is the server's.
//
// The namespace belongs to the server's user namespace, so only a process in
// that can make it: a holder, which is run in the server with the right to mount
// and nothing of the image's. Whatever the session runs then joins the holder's
// namespaces, as commands in the server join those of its first process, and
// with the same system calls allowed. When the holder's input ends it kills
// what is in its namespace and ends: so a session does not outlive its engine.
type cell struct {
	e      *Engine
	server *record
	name   string // of its control group, and of its directory
	group  string
	dir    string

	holder *exec.Cmd
	input  io.Closer       // of the holder
	gone   context.Context // ends when the holder has
	waited chan struct{}

	session string
	writes  bool     // its root is writable
	leave   []func() // what is called when nothing of it is left
}

// The runtime's states of the server that the cell's processes are run by.
const (
	holderState  = "holder"
	sessionState = "session"
)

// holderCapabilities are what making the namespace, and ending what is in it,
// needs.
var holderCapabilities = []string{"CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}

// holderLimit is how long the holder may take to start, and to end.
const holderLimit = 15 * time.Second

// openCell makes the cell. Its control group is named after the session.
func (e *Engine) openCell(ctx context.Context, r *record, sh engine.Shell) (*cell, error) {
	name := execGroup + string(sh.Session)
	c := &cell{
		e: e, server: r, name: name, group: filepath.Join(e.cgroupDir(execController(), r.ID), name),
		dir: filepath.Join(e.execPlace(r), name), waited: make(chan struct{}),
		session: string(sh.Session), writes: sh.Writable,
	}
	if err := os.Mkdir(c.group, 0o755); err != nil {
		return nil, err
	}
	if err := c.open(ctx, sh.Writable); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cell) open(ctx context.Context, write bool) error {
	if write {
		if err := c.e.noteWriting(c.server.ID, model.SessionID(c.session), true); err != nil {
			return fmt.Errorf("cannot note that its root is writable: %w", err)
		}
	}
	if err := c.writeState(holderState, c.server.Process, true); err != nil {
		return err
	}
	if err := c.startHolder(ctx, write); err != nil {
		return fmt.Errorf("cannot make a mount namespace for it: %w", err)
	}
	main, err := c.processOf(ctx, holderState)
	if err != nil {
		return err
	}
	return c.writeState(sessionState, main, false)
}

// processOf finds what was run by the state, by the number that the runtime
// writes down: soon after it has begun, not before.
func (c *cell) processOf(ctx context.Context, state string) (process, error) {
	for deadline := time.Now().Add(holderLimit); ; {
		text, err := os.ReadFile(c.path(state, "pid"))
		if err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				return process{}, fmt.Errorf("cannot understand the runtime's number of it: %w", err)
			}
			return identify(pid, c.e.boot)
		}
		select {
		case <-c.gone.Done():
			return process{}, errors.New("the holder has ended")
		case <-ctx.Done():
			return process{}, ctx.Err()
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			return process{}, fmt.Errorf("the runtime does not give its number: %w", err)
		}
	}
}

func (c *cell) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}
func (c *cell) failures(state string) string { return c.path(state, "log") }

// writeState writes down the runtime's state of the server as if main were its
// first process, so that a command joins main's namespaces. free leaves out the
// filter of system calls, which would not let a holder mount.
func (c *cell) writeState(name string, main process, free bool) error {
	b, err := os.ReadFile(filepath.Join(c.e.runcRoot(), c.e.namespace(), string(c.server.ID), "state.json"))
	if err != nil {
		return fmt.Errorf("cannot read the runtime's state of it: %w", err)
	}
	var state, config map[string]json.RawMessage
	if err := json.Unmarshal(b, &state); err != nil {
		return fmt.Errorf("cannot understand the runtime's state of it: %w", err)
	}
	if err := json.Unmarshal(state["config"], &config); err != nil {
		return fmt.Errorf("cannot understand the runtime's state of it: %w", err)
	}
	if free {
		delete(config, "seccomp")
	}
	for key, value := range map[string]any{"config": config, "init_process_pid": main.PID, "init_process_start": main.Start} {
		if state[key], err = json.Marshal(value); err != nil {
			return err
		}
	}
	if b, err = json.Marshal(state); err != nil {
		return err
	}
	dir := c.path(name, string(c.server.ID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "state.json"), b, 0o600)
}

// exec returns the command that runs the process by one of the states.
func (c *cell) exec(state string, p *specs.Process, flags ...string) (*exec.Cmd, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	file := c.path(state, "process.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, err
	}
	cgroup := c.name
	if controller := execController(); controller != "" {
		cgroup = controller + ":" + cgroup
	}
	args := []string{"--root", c.path(state), "--log", c.failures(state), "--log-format", "json", "exec", "--cgroup", cgroup, "--process", file}
	args = append(append(args, flags...), string(c.server.ID))
	return exec.Command(c.e.binaries.runc, args...), nil
}

// startHolder starts the holder and waits until it is ready.
func (c *cell) startHolder(ctx context.Context, write bool) error {
	program, err := sealedCopy(c.e.binaries.logger)
	if err != nil {
		return err
	}
	defer program.Close()
	none := 0
	p := &specs.Process{
		Args: append([]string{"/proc/self/fd/3"}, holder.Arguments(write)...), Env: []string{"GOMAXPROCS=1"}, Cwd: "/",
		Capabilities:    &specs.LinuxCapabilities{Bounding: holderCapabilities, Permitted: holderCapabilities, Effective: holderCapabilities},
		NoNewPrivileges: true, OOMScoreAdj: &none,
	}
	cmd, err := c.exec(holderState, p, "--preserve-fds", "1", "--pid-file", c.path(holderState, "pid"))
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{program}
	complaints := &tail{limit: 4 << 10}
	cmd.Stderr = complaints
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	output, outputEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	cmd.Stdout = outputEnd
	err = c.start(cmd)
	_ = outputEnd.Close()
	if err != nil {
		return err
	}
	c.holder, c.input = cmd, input
	gone, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.gone = gone
	go func() {
		_ = cmd.Wait() // how it ended is told by what it said
		cancel()
		close(c.waited)
	}()
	deadline, _ := ctx.Deadline()
	if limit := time.Now().Add(holderLimit); deadline.IsZero() || limit.Before(deadline) {
		deadline = limit
	}
	_ = output.SetReadDeadline(deadline)
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || strings.TrimSpace(line) != holder.Ready {
		_ = c.end() // what it complains of is then whole
		return fmt.Errorf("the holder says %q %q %s", line, complaints.bytes(), runtimeFailure(c.failures(holderState)))
	}
	return nil
}

// sealedCopy returns a copy of the program that nobody can change, and that is
// no file of the machine: a server that gets hold of it has got nothing.
func sealedCopy(path string) (*os.File, error) {
	from, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("kiln-holder", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot copy %s into memory: %w", path, err)
	}
	to := os.NewFile(uintptr(fd), "kiln-holder")
	if _, err = io.Copy(to, from); err == nil {
		err = to.Chmod(0o555)
	}
	if err == nil {
		_, err = unix.FcntlInt(to.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		_ = to.Close()
		return nil, fmt.Errorf("cannot copy %s into memory: %w", path, err)
	}
	return to, nil
}

// start starts the command, as what the session has put into the server.
func (c *cell) start(cmd *exec.Cmd) error {
	done, err := c.e.own.start(cmd, c.name)
	if err == nil {
		c.leave = append(c.leave, done)
	}
	return err
}

// end kills what runs in the cell, the holder last.
func (c *cell) end() error {
	if c.holder == nil {
		return killGroup(c.group)
	}
	_ = c.input.Close()
	select {
	case <-c.waited:
	case <-time.After(holderLimit):
	}
	// It may have been ended itself, by somebody in the server.
	err := killGroup(c.group)
	_ = c.holder.Process.Kill()
	<-c.waited
	return err
}

// close ends the cell and leaves nothing of it.
func (c *cell) close() error {
	err := c.end()
	for _, leave := range c.leave {
		leave()
	}
	if c.writes {
		err = errors.Join(err, c.e.noteWriting(c.server.ID, model.SessionID(c.session), false))
	}
	if removing := removeEmptyGroup(c.group); err == nil {
		err = removing
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}
