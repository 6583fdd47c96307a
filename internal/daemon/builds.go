package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"kiln/internal/api"
	"kiln/internal/image/builder"
	"kiln/internal/model"
	"kiln/internal/server"
)

// builds starts the builder when a build needs it, and relays builds to it.
type builds struct {
	client     *builder.Client
	executable string
	args       []string // of the builder's role
	logPath    string

	mu      sync.Mutex
	running *exec.Cmd     // nil: none was started by this daemon, or it has ended
	ended   chan struct{} // closed when running has ended
}

var _ server.Builder = (*builds)(nil)

// Build implements server.Builder.
func (b *builds) Build(ctx context.Context, req api.BuildRequest, session net.Conn, progress func(api.BuildEvent)) (model.Image, error) {
	if err := b.ensure(ctx); err != nil {
		return model.Image{}, err
	}
	result, err := b.client.Build(ctx, builder.Request{
		Containerfile: req.Containerfile, Target: req.Target, Args: req.Args, NoCache: req.NoCache, Fresh: req.Fresh,
		Network: req.Network, Lock: lockOf(req),
	}, session, func(e builder.Event) { progress(buildEvent(e)) })
	if err != nil {
		return model.Image{}, err
	}
	if req.Lock != nil {
		text, err := relock(req.Lock, req.Service, result.Locked)
		if err != nil {
			return model.Image{}, err
		}
		progress(api.BuildEvent{Lock: text})
	}
	return model.Image{Digest: result.Digest, Size: result.Size, Provenance: model.Provenance{Parents: result.Parents, Inputs: result.Inputs}}, nil
}

// buildEvent is a builder's event as the API says it.
func buildEvent(e builder.Event) api.BuildEvent {
	step := e.Name
	if e.Step > 0 {
		step = fmt.Sprintf("[%d/%d] %s", e.Step, e.Total, e.Name)
		if e.Stage != "" {
			step = fmt.Sprintf("[%s %d/%d] %s", e.Stage, e.Step, e.Total, e.Name)
		}
	}
	switch e.Status {
	case builder.Note:
		return api.BuildEvent{Note: e.Log}
	case builder.Output:
		return api.BuildEvent{Step: step, Log: e.Log}
	case builder.Failed:
		return api.BuildEvent{Step: step, State: "failed", TookMS: e.Duration, Log: e.Log}
	default:
		return api.BuildEvent{Step: step, State: string(e.Status), TookMS: e.Duration, Log: e.Log}
	}
}

// ensure returns when a builder answers.
func (b *builds) ensure(ctx context.Context) error {
	const patience, pause = 15 * time.Second, 10 * time.Millisecond
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.client.Ping(ctx) == nil {
		return nil
	}
	fresh := b.running == nil
	if fresh {
		if err := b.startLocked(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return model.Errorf(model.Unavailable, "cannot build: the builder does not answer within %s", patience).
				WithHint("its output is in builder.log of the data directory")
		case <-b.ended:
			b.running = nil
			if !fresh { // it was killed a moment ago, before this build
				fresh = true
				if err := b.startLocked(); err != nil {
					return err
				}
				continue
			}
			return model.Errorf(model.Unavailable, "cannot build: the builder ended when it was started").
				WithHint("its output is in builder.log of the data directory")
		case <-tick.C:
			if b.client.Ping(ctx) == nil {
				return nil
			}
		}
	}
}

// startLocked starts a builder. Its standard input is a pipe that this process
// holds: when the daemon dies, however it dies, the builder reads its end and
// ends too.
func (b *builds) startLocked() error {
	log, err := os.OpenFile(b.logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot start the builder: %w", err)
	}
	defer log.Close() // the builder has its own
	cmd := detached(b.executable, log, b.args...)
	if _, err := cmd.StdinPipe(); err != nil {
		return model.Errorf(model.Unavailable, "cannot start the builder: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return model.Errorf(model.Unavailable, "cannot start the builder: %w", err)
	}
	ended := make(chan struct{})
	b.running, b.ended = cmd, ended
	go func() { // ends with the process, which stop ends
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.running == cmd {
			b.running = nil
		}
	}()
	return nil
}

// stop ends the builder that this daemon started, and waits for it.
func (b *builds) stop() {
	b.mu.Lock()
	cmd, ended := b.running, b.ended
	b.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
	}
}

// detached returns a command that does not share the daemon's session or
// terminal and writes to the log file.
func detached(executable string, log *os.File, args ...string) *exec.Cmd {
	cmd := exec.Command(executable, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}
