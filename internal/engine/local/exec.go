package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

const (
	defaultOutput = 64 << 10
	execGroup     = "kiln-exec-" // what the control groups of commands begin with
	execKillLimit = 10 * time.Second
)

func (c Config) execDir() string { return filepath.Join(c.RunDir, "exec") }

// Exec implements engine.Engine. The command runs in a control group of its own
// below the server's, so that whatever it starts can be found and ended.
func (e *Engine) Exec(ctx context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error) {
	_, r := e.lookup(ref.ID)
	if r == nil || r.state() != model.Running {
		return engine.ExecResult{}, model.Errorf(model.Precondition, "cannot run a command in %s: it does not run", ref.ID)
	}
	if len(x.Command) == 0 {
		return engine.ExecResult{}, model.Errorf(model.Invalid, "cannot run a command in %s: it is empty", ref.ID)
	}
	// The server's root as its own processes see it, mounts and all.
	root := fmt.Sprintf("/proc/%d/root", r.Process.PID)
	if _, err := lookCommand(root, r.Cwd, r.Env, x.Command[0]); err != nil {
		if !r.Process.runs(e.boot) {
			return engine.ExecResult{}, model.Errorf(model.Precondition, "cannot run a command in %s: it has just ended", ref.ID)
		}
		return engine.ExecResult{}, model.Errorf(model.Invalid, "cannot run %q in %s: %w", x.Command[0], ref.ID, err)
	}
	result, err := e.exec(ctx, r, x)
	if err != nil {
		return engine.ExecResult{}, fmt.Errorf("cannot run %q in %s: %w", x.Command[0], ref.ID, err)
	}
	return result, nil
}

// execControllers are the hierarchies in which a command has a group of its
// own: one is enough to find its processes; in the others they share the
// server's limits.
func execController() string {
	if unified() {
		return ""
	}
	return "pids"
}

func (e *Engine) exec(ctx context.Context, r *record, x engine.Exec) (engine.ExecResult, error) {
	name := execGroup + strings.ToLower(rand.Text()[:10])
	group := filepath.Join(e.cgroupDir(execController(), r.ID), name)
	if err := os.Mkdir(group, 0o755); err != nil {
		return engine.ExecResult{}, err
	}
	defer func() { _ = removeEmptyGroup(group) }()
	file := filepath.Join(e.execPlace(r), name+".json")
	if err := writeProcess(file, r, e.environment(r), x.Command); err != nil {
		return engine.ExecResult{}, err
	}
	defer func() { _ = os.Remove(file) }()

	cgroup := name
	if c := execController(); c != "" {
		cgroup = c + ":" + name
	}
	failures := filepath.Join(e.execDir(), name+".log")
	defer func() { _ = os.Remove(failures) }()
	cmd := exec.Command(e.binaries.runc, "--root", filepath.Join(e.runcRoot(), e.namespace()),
		"--log", failures, "--log-format", "json", "exec", "--cgroup", cgroup, "--process", file, string(r.ID))
	out := &tail{limit: int(x.Limit)}
	if out.limit <= 0 {
		out.limit = defaultOutput
	}
	err := e.runGroup(ctx, cmd, out, group)
	if said := runtimeFailure(failures); said != "" && ctx.Err() == nil {
		return engine.ExecResult{}, model.Errorf(model.Internal, "the runtime says: %s", said)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return engine.ExecResult{}, err
	}
	return engine.ExecResult{Code: cmd.ProcessState.ExitCode(), Output: out.bytes()}, nil
}

// runGroup runs the command until it has ended or the context has, and leaves
// no process in the group.
func (e *Engine) runGroup(ctx context.Context, cmd *exec.Cmd, out io.Writer, group string) error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	cmd.Stdout, cmd.Stderr = pw, pw // one pipe: what is written stays in order
	done, err := e.own.start(cmd, filepath.Base(group))
	_ = pw.Close()
	if err != nil {
		return err
	}
	defer done()
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(out, pr) })
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		// First what puts processes into the group, then those.
		_ = cmd.Process.Kill()
		err = errors.Join(ctx.Err(), ignoreExit(<-ended))
	}
	if killing := killGroup(group); killing != nil {
		err = errors.Join(err, killing)
		_ = pr.SetReadDeadline(time.Now())
	}
	reading.Wait()
	return err
}

// ignoreExit drops what says only that the command was killed, as it was.
func ignoreExit(err error) error {
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return nil
	}
	return err
}

// writeProcess writes down the command as the runtime wants it.
func writeProcess(path string, r *record, env, command []string) error {
	p := serverProcess(&plan{args: command, env: env, cwd: r.Cwd, user: r.User})
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// runtimeFailure returns what runc itself had to complain of, as opposed to the
// command.
func runtimeFailure(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "error" {
			return entry.Msg
		}
	}
	return ""
}

// killLeftoverExecs ends the commands of an engine that was killed while they
// ran.
func (e *Engine) killLeftoverExecs() {
	groups, _ := filepath.Glob(filepath.Join(e.cgroupDir(execController(), "*"), execGroup+"*"))
	for _, group := range groups {
		e.Log.Info("ending a command that an earlier engine ran", "group", group)
		if err := killGroup(group); err != nil {
			e.Log.Warn("cannot end a command", "group", group, "error", err)
		}
		_ = removeEmptyGroup(group)
	}
	files, _ := filepath.Glob(filepath.Join(e.execDir(), execGroup+"*"))
	private, _ := filepath.Glob(filepath.Join(e.secretsDir(), "*", secretExecs, execGroup+"*"))
	for _, file := range append(files, private...) {
		_ = os.RemoveAll(file) // of a session it is a directory
	}
}

// tail keeps the last bytes that are written to it.
type tail struct {
	limit int
	kept  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b...)
	if len(t.kept) > 2*t.limit {
		t.kept = append(t.kept[:0], t.bytes()...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte { return t.kept[max(0, len(t.kept)-t.limit):] }
