package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// killWait is how long a process may take to end after SIGKILL: longer than any
// that is not stuck in the kernel.
const killWait = 20 * time.Second

// Stop implements engine.Engine.
func (e *Engine) Stop(ctx context.Context, ref engine.Ref, signal string, grace time.Duration) error {
	done, err := e.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	s, r := e.lookup(ref.ID)
	if r == nil {
		return nil
	}
	if err := e.touch(s, ref); err != nil {
		return err
	}
	if r.Exit != nil {
		return nil
	}
	e.undisturb(ref.ID) // one that is frozen ends by no signal
	number, err := parseSignal(signal, r.StopSignal)
	if err != nil {
		return model.Errorf(model.Invalid, "cannot stop %s: %w", ref.ID, err)
	}
	if grace > 0 {
		if err := e.signal(r, number); err != nil {
			return fmt.Errorf("cannot stop %s: %w", ref.ID, err)
		}
		if ended, err := await(ctx, s.exited, grace); ended || err != nil {
			return err
		}
	}
	if err := e.signal(r, unix.SIGKILL); err != nil {
		return fmt.Errorf("cannot kill %s: %w", ref.ID, err)
	}
	ended, err := await(ctx, s.exited, killWait)
	if err == nil && !ended {
		err = model.Errorf(model.Unavailable, "cannot stop %s: its process %d has been killed and does not end", ref.ID, r.Process.PID)
	}
	return err
}

// await waits for the channel to be closed; false after the time.
func await(ctx context.Context, c <-chan struct{}, atMost time.Duration) (bool, error) {
	timeout := time.NewTimer(atMost)
	defer timeout.Stop()
	select {
	case <-c:
		return true, nil
	case <-timeout.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// parseSignal reads the first signal that is given: SIGTERM, TERM and 15 are
// the same, and the default.
func parseSignal(names ...string) (unix.Signal, error) {
	for _, name := range names {
		if name == "" {
			continue
		}
		if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
			return unix.Signal(n), nil
		}
		upper := strings.ToUpper(name)
		if !strings.HasPrefix(upper, "SIG") {
			upper = "SIG" + upper
		}
		if n := unix.SignalNum(upper); n != 0 {
			return n, nil
		}
		if n, ok := realTimeSignal(upper); ok {
			return n, nil
		}
		return 0, fmt.Errorf("there is no signal %q", name)
	}
	return unix.SIGTERM, nil
}

// realTimeSignal reads SIGRTMIN+3, as images of systemd have it.
func realTimeSignal(name string) (unix.Signal, bool) {
	const first = 34 // as the C libraries have it
	offset, ok := strings.CutPrefix(name, "SIGRTMIN")
	if !ok {
		return 0, false
	}
	if offset == "" {
		return first, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(offset, "+"))
	return unix.Signal(first + n), err == nil && n >= 0 && n <= 30
}

// signal sends the main process a signal; one that has ended gets none. It does
// not need containerd.
func (e *Engine) signal(r *record, number unix.Signal) error {
	fd, err := unix.PidfdOpen(r.Process.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if !r.Process.runs(e.boot) { // the descriptor may be another's with its number
		return nil
	}
	if err := unix.PidfdSendSignal(fd, number, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Destroy implements engine.Engine.
func (e *Engine) Destroy(ctx context.Context, ref engine.Ref) error {
	ctx = e.scoped(ctx)
	done, err := e.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot destroy %s: %w", ref.ID, err)
	}
	if _, r := e.lookup(ref.ID); r != nil && r.Exit == nil {
		return model.Errorf(model.Precondition, "cannot destroy %s: it runs", ref.ID).
			WithHint("stop it first")
	}
	return e.remove(ctx, ref.ID)
}

// remove removes everything that bears the server's id, its record last: what
// is interrupted is found again. It goes on where something resists.
func (e *Engine) remove(ctx context.Context, id model.ServerID) error {
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the %s of %s: %w", what, id, err))
		}
	}
	if s, r := e.lookup(id); r != nil && r.Exit != nil {
		// Whoever watches it may be removing its task just now.
		_, _ = await(ctx, s.reaped, reapLimit)
	}
	try("process", e.deleteTask(ctx, id))
	if _, r := e.lookup(id); r != nil && r.Shim.PID != 0 {
		e.endShim(r.Shim)
	} else {
		for _, shim := range e.shimsOf(id) {
			e.endShim(shim)
		}
	}
	try("bundle", e.removeBundle(id))
	if err := e.client.ContainerService().Delete(ctx, string(id)); err != nil && !errdefs.IsNotFound(err) {
		try("container", containerdError(err, "delete a container"))
	}
	if err := e.client.SnapshotService(snapshotter).Remove(ctx, snapshotKey(id)); err != nil && !errdefs.IsNotFound(err) {
		try("file system", containerdError(err, "remove a snapshot"))
	}
	try("network", e.network.detach(id))
	try("control group", removeGroup(e.cgroup()+"/"+string(id)))
	try("log", os.RemoveAll(e.logDir(id)))
	try("secrets", os.RemoveAll(e.secretDir(id)))
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := os.RemoveAll(e.serverDir(id)); err != nil {
		return fmt.Errorf("cannot remove the record of %s: %w", id, err)
	}
	_, r := e.lookup(id)
	e.mu.Lock()
	delete(e.servers, id)
	e.mu.Unlock()
	e.hints.give()
	if r != nil && len(r.Template.Connects) > 0 {
		if err := e.network.names.update(e.records, nil); err != nil {
			// Opening the engine does it again; a server is destroyed all the same.
			e.Log.Warn("cannot remove what a server needed to reach others", "server", id, "error", err)
		}
	}
	return nil
}

// deleteTries is how often a task is tried to be deleted that resists.
const deleteTries = 5

// deleteTask has containerd let go of the server's process, killing it if it
// should still run; absent is done.
func (e *Engine) deleteTask(ctx context.Context, id model.ServerID) error {
	ctx = e.scoped(ctx)
	// Two at once would fall over each other.
	unlock, err := e.locks.lock(ctx, "task/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	failures := 0
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		gone, err := e.tryDeleteTask(ctx, id)
		if gone {
			return nil
		}
		if err != nil {
			if failures++; failures == deleteTries || errdefs.IsUnavailable(err) {
				return containerdError(err, "end a task")
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryDeleteTask takes one step: what runs is killed, what has ended deleted.
func (e *Engine) tryDeleteTask(ctx context.Context, id model.ServerID) (gone bool, err error) {
	service := e.client.TaskService()
	got, err := service.Get(ctx, &tasks.GetRequest{ContainerID: string(id)})
	if err == nil && got.Process.Status == task.Status_STOPPED {
		_, err = service.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: string(id)})
		gone = err == nil
	} else if err == nil {
		// It runs, or has ended without the shim knowing yet: then there is no
		// process to kill, which is no error.
		_, err = service.Kill(ctx, &tasks.KillRequest{ContainerID: string(id), Signal: uint32(unix.SIGKILL), All: true})
		if errdefs.IsNotFound(errgrpc.ToNative(err)) {
			err = nil
		}
	} else if errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return true, nil
	}
	return gone, errgrpc.ToNative(err)
}

// shimWait is how long a shim may take to end after its task was deleted.
const shimWait = 2 * time.Second

// endShim sees to it that the shim ends: containerd forgets one whose task it
// was deleting when its caller was killed.
func (e *Engine) endShim(shim process) {
	for deadline := time.Now().Add(shimWait); shim.runs(e.boot); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Log.Warn("killing a shim that was left behind", "pid", shim.PID)
			_ = unix.Kill(shim.PID, unix.SIGKILL)
			return
		}
	}
}

// shimsOf finds the shims of a server by how containerd calls them: one that was
// killed while it started a server has told nobody of its shim.
func (e *Engine) shimsOf(id model.ServerID) (shims []process) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		e.Log.Warn("cannot look for shims that were left behind", "server", id, "error", err)
	}
	called := fmt.Sprintf("\x00-namespace\x00%s\x00-id\x00%s\x00", e.namespace(), id)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		name, _, _ := strings.Cut(string(command), "\x00") // of this build, or of one before
		if err != nil || filepath.Base(name) != filepath.Base(e.binaries.shim) || !strings.Contains(string(command), called) {
			continue
		}
		if shim, err := identify(pid, e.boot); err == nil {
			shims = append(shims, shim)
		}
	}
	return shims
}

// removeBundle removes the directories in which containerd keeps a task: they
// stay behind when it was killed, or its caller was, while it deleted one.
func (e *Engine) removeBundle(id model.ServerID) error {
	const tasks = "io.containerd.runtime.v2.task"
	bundle := filepath.Join(e.RunDir, "containerd", tasks, e.namespace(), string(id))
	if _, err := os.Lstat(bundle); err == nil {
		if err := mount.UnmountAll(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	work := filepath.Join(e.DataDir, "containerd", tasks, e.namespace(), string(id))
	return errors.Join(os.RemoveAll(bundle), os.RemoveAll(work))
}
