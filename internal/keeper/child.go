package keeper

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
	stopping chan struct{} // closed by stop
	stopOnce sync.Once

	mu       sync.Mutex
	proc     *process // nil while it does not run
	restarts int
}

func newChild(c Child, runDir string, out *output, log *slog.Logger) *child {
	return &child{
		Child: c, out: out, log: log.With("child", c.Name),
		pids:  newPIDFile(runDir, c),
		ended: make(chan struct{}), stopping: make(chan struct{}),
	}
}

// keep adopts or starts the command and starts it again whenever it ends,
// until it is stopped, or ctx ends; then the command goes on.
func (c *child) keep(ctx context.Context) {
	defer close(c.ended)
	p := c.pids.find()
	if p != nil {
		c.log.Info("child adopted", "pid", p.pid)
	}
	wait, quick := time.Duration(0), 0
	for {
		if p == nil {
			p = c.start()
		}
		began := time.Now()
		if p != nil {
			c.set(p)
			if !c.await(ctx, p) {
				return
			}
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

// await waits for p to end. It returns false if the keeping is over.
func (c *child) await(ctx context.Context, p *process) bool {
	select {
	case <-p.ended:
		return true
	case <-c.stopping:
		c.finish(p)
		return false
	case <-ctx.Done():
		p.letGo()
		return false
	}
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
	c.set(nil)
	c.pids.remove()
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
	return st
}

// process is a running command: one that this keeper started, or adopted.
type process struct {
	pid   int
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
	p := &process{pid: pid, own: own, pidfd: os.NewFile(uintptr(fd), "pidfd"), ended: make(chan struct{})}
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
