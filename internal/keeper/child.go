package keeper

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

const (
	// quickDeath is the life below which a death counts as a quick one. The
	// first few in a row are forgiven: somebody may be killing the child. From
	// then on the next start is put off, longer each time.
	quickDeath = time.Second
	forgiven   = 3
	firstWait  = 100 * time.Millisecond
	longestGap = 5 * time.Second
	// endGrace is how long a child may take to end before it is killed.
	endGrace = 15 * time.Second
)

// child is a command that is kept running.
type child struct {
	Child
	pids pidFile
	out  *output
	log  *slog.Logger

	ended    chan struct{} // keep has returned
	renewals chan chan error
	before   sync.WaitGroup // who watches the processes that were let go
	stopping chan struct{}  // closed by stop
	stopOnce sync.Once

	mu       sync.Mutex
	proc     *process // nil while it does not run
	restarts int
	aside    map[*process]struct{} // they end by themselves, unless the child is stopped first
}

func newChild(c Child, runDir string, out *output, log *slog.Logger) *child {
	return &child{
		Child: c, out: out, log: log.With("child", c.Name),
		pids:  newPIDFile(runDir, c),
		ended: make(chan struct{}), stopping: make(chan struct{}),
		renewals: make(chan chan error), aside: map[*process]struct{}{},
	}
}

// keep adopts or starts the command and starts it again whenever it ends,
// until it is stopped, or ctx ends; then the command goes on.
func (c *child) keep(ctx context.Context) {
	defer close(c.ended)
	defer c.before.Wait()
	p := c.pids.find()
	if p != nil {
		c.log.Info("child adopted", "pid", p.pid)
		for _, older := range c.pids.others(p.pid) {
			c.letGo(ctx, older)
		}
	}
	wait, quick := time.Duration(0), 0
	for {
		if p == nil {
			p = c.start()
		}
		began := time.Now()
		if p != nil {
			c.set(p)
			if p = c.await(ctx, p); p == nil {
				return
			}
			began = p.since
			c.set(nil)
		}
		if quick++; time.Since(began) >= quickDeath {
			quick = 0 // it had a life: the next one begins at once
		}
		if wait = nextWait(wait, quick); ctx.Err() != nil {
			return
		}
		c.log.Warn("child ended; starting it again", "after", time.Since(began), "wait", wait)
		select {
		case <-ctx.Done():
			return
		case <-c.stopping:
			return
		case answer := <-c.renewals:
			answer <- nil // what starts now is new
		case <-time.After(wait):
		}
		c.mu.Lock()
		c.restarts++
		c.mu.Unlock()
		p = nil
	}
}

// nextWait returns how long to wait after the quick deaths in a row.
func nextWait(last time.Duration, quick int) time.Duration {
	if quick <= forgiven {
		return 0
	}
	return min(longestGap, max(firstWait, 2*last))
}

// await waits for p to end, or for the one that is started in its place. It
// returns the one that has ended, or nil if the keeping is over.
func (c *child) await(ctx context.Context, p *process) *process {
	for {
		select {
		case <-p.ended:
			return p
		case <-c.stopping:
			c.finish(p)
			c.set(nil)
			c.pids.remove()
			return nil
		case <-ctx.Done():
			p.letGo()
			return nil
		case answer := <-c.renewals:
			next, err := c.pids.start(c.out.file())
			if err == nil {
				c.log.Info("child renewed", "pid", next.pid, "before", p.pid)
				c.letGo(ctx, p)
				c.set(next)
				p = next
			}
			answer <- err
		}
	}
}

// letGo lets p end by itself, beside the process that is kept now. Only when
// the child is stopped p is ended too.
func (c *child) letGo(ctx context.Context, p *process) {
	c.mu.Lock()
	c.aside[p] = struct{}{}
	c.mu.Unlock()
	c.before.Go(func() {
		select {
		case <-p.ended:
		case <-c.stopping:
			c.finish(p)
		case <-ctx.Done():
			p.letGo()
		}
		c.mu.Lock()
		delete(c.aside, p)
		c.mu.Unlock()
	})
}

// renew starts the command once more and keeps that process; the one before
// goes on until it ends by itself.
func (c *child) renew() error {
	answer := make(chan error, 1)
	select {
	case c.renewals <- answer:
	case <-c.ended:
		return model.Errorf(model.Precondition, "cannot renew %q: it was stopped", c.Name)
	}
	if err := <-answer; err != nil {
		return model.Errorf(model.Unavailable, "cannot renew %q: %w", c.Name, err)
	}
	return nil
}

// finish ends p: politely, then not.
func (c *child) finish(p *process) {
	p.signal(unix.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(endGrace):
		c.log.Warn("child does not end; killing it", "pid", p.pid)
		p.signal(unix.SIGKILL)
		<-p.ended
	}
}

// stop ends the command for good and waits until it has.
func (c *child) stop() {
	c.stopOnce.Do(func() { close(c.stopping) })
	<-c.ended
}

func (c *child) start() *process {
	p, err := c.pids.start(c.out.file())
	if err != nil {
		c.log.Error("cannot start child", "error", err)
		return nil
	}
	c.log.Info("child started", "pid", p.pid)
	return p
}

func (c *child) set(p *process) {
	c.mu.Lock()
	c.proc = p
	c.mu.Unlock()
}

func (c *child) status() ChildStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := ChildStatus{Name: c.Name, Restarts: c.restarts}
	if c.proc != nil {
		st.PID, st.Adopted = c.proc.pid, c.proc.own == nil
	}
	for p := range c.aside {
		st.Before = append(st.Before, p.pid)
	}
	slices.Sort(st.Before)
	return st
}

// process is a running command: one that this keeper started, or adopted.
type process struct {
	pid   int
	since time.Time   // when the watching began
	own   *os.Process // nil: adopted, so how it ends cannot be had
	pidfd *os.File
	ended chan struct{}
}

// watch returns the process once its end can be noticed, whoever started it.
func watch(pid int, own *os.Process) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, since: time.Now(), own: own, pidfd: os.NewFile(uintptr(fd), "pidfd"), ended: make(chan struct{})}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		_ = p.pidfd.Close()
		return nil, err
	}
	go func() {
		// A pidfd becomes readable when its process has ended.
		if raw.Read(func(fd uintptr) bool { return readable(int(fd)) }) != nil {
			return // let go
		}
		if own != nil {
			_, _ = own.Wait() // reaps it; how it ended is in its own log
		}
		close(p.ended)
	}()
	return p, nil
}

func (p *process) signal(s unix.Signal) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), s, nil, 0) })
}

// letGo stops watching; the process goes on.
func (p *process) letGo() { _ = p.pidfd.Close() }

// readable reports whether a read of fd would not block.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
