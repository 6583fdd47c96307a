package local

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine/local/exitfile"
	"kiln/internal/model"
)

// The shim writes the exit file as soon as the kernel tells it; a server whose
// shim is gone, or silent for exitWait, has ended in an unknown way.
const (
	exitWait  = 2 * time.Second
	reapLimit = 30 * time.Second
	closeWait = 3 * time.Second
)

// watch waits until the server's main process has ended, writes down how, and
// has containerd let go of it.
func (e *Engine) watch(s *server) {
	r := e.recordOf(s)
	if r.Exit == nil {
		if !e.awaitEnd(r.Process) {
			return // the engine is closed
		}
		e.undisturb(r.ID) // what disturbs it would keep its control groups
		exit := e.awaitExitFile(r)
		if exit == nil {
			return
		}
		e.sampleEnded(s, r)
		e.setExit(s, exit)
	}
	// A closing engine lets this end, as containerd does not take it up again
	// where it was cut off; but it does not wait for a containerd that is away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.lifetime), reapLimit)
	defer cancel()
	defer context.AfterFunc(e.lifetime, func() { time.AfterFunc(closeWait, cancel) })()
	if err := e.deleteTask(ctx, r.ID); err != nil {
		e.Log.Warn("cannot release an ended server", "server", r.ID, "error", err)
	}
	close(s.reaped)
}

func (e *Engine) recordOf(s *server) *record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return s.record
}

// awaitEnd waits until the process has ended; false if the engine was closed
// meanwhile.
func (e *Engine) awaitEnd(p process) bool {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil || !p.runs(e.boot) { // it, not another with its number
		if err == nil {
			_ = unix.Close(fd)
		}
		return e.lifetime.Err() == nil
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	stop := context.AfterFunc(e.lifetime, func() { _ = file.SetReadDeadline(time.Now()) })
	defer func() {
		stop()
		_ = file.Close()
	}()
	conn, err := file.SyscallConn()
	if err != nil {
		return e.pollEnd(p)
	}
	ended := false
	// A pidfd becomes readable when its process has ended.
	err = conn.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ended = n > 0
		return ended
	})
	if err != nil && !ended && e.lifetime.Err() == nil {
		return e.pollEnd(p)
	}
	return ended
}

// pollEnd is awaitEnd where pidfds cannot be waited for.
func (e *Engine) pollEnd(p process) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for p.runs(e.boot) {
		select {
		case <-e.lifetime.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// awaitExitFile returns how the server ended; nil if the engine was closed
// meanwhile.
func (e *Engine) awaitExitFile(r *record) *model.Exit {
	deadline := time.Now().Add(exitWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		shimRuns := r.Shim.runs(e.boot)
		if exit := exitfile.Read(e.exitFile(r.ID)); exit != nil {
			return exit
		}
		if !shimRuns || time.Now().After(deadline) {
			return &model.Exit{}
		}
		select {
		case <-e.lifetime.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// setExit records how the server ended.
func (e *Engine) setExit(s *server, exit *model.Exit) {
	r := e.change(s, func(r *record) { r.Exit = exit })
	close(s.exited)
	if err := writeRecord(e.serverDir(r.ID), r); err != nil {
		// The exit file still says it.
		e.Log.Warn("cannot record how a server ended", "server", r.ID, "error", err)
	}
}
