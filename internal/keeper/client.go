package keeper

import (
	"context"
	"net"
	"os"
	"syscall"
	"time"

	"kiln/internal/model"
)

// Client asks the keeper of a run directory. Each call is a connection of its
// own, so a client outlives keepers.
type Client struct{ runDir string }

// NewClient returns a client for the keeper of the run directory. Whether one
// is there shows with the first call: unavailable if not.
func NewClient(runDir string) *Client { return &Client{runDir} }

// Status returns what the keeper says of itself and its children.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.ask(ctx, &request{Op: opStatus})
	if err != nil {
		return Status{}, err
	}
	if r.Status == nil {
		return Status{}, model.Errorf(model.Internal, "cannot read the keeper's status: the answer has none")
	}
	return *r.Status, nil
}

// Stop ends the child of the name for good, and returns when it has ended.
func (c *Client) Stop(ctx context.Context, name string) error {
	if name == "" {
		return model.Errorf(model.Invalid, "cannot stop a child without a name")
	}
	_, err := c.ask(ctx, &request{Op: opStop, Name: name})
	return err
}

// Renew starts the child of the name once more. The keeper keeps the new
// process; the one before goes on until it ends by itself.
func (c *Client) Renew(ctx context.Context, name string) error {
	_, err := c.ask(ctx, &request{Op: opRenew, Name: name})
	return err
}

// Shutdown ends everything: the children in reverse order, the sockets, the
// keeper. It returns when the children have ended; no keeper is an error.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.ask(ctx, &request{Op: opShutdown})
	return err
}

func (c *Client) ask(ctx context.Context, q *request) (*reply, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", socketPath(c.runDir))
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot reach the keeper: %w", err)
	}
	defer conn.Close()
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, model.Errorf(model.Internal, "cannot reach the keeper: not a unix socket")
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := send(uc, q, nil); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot ask the keeper: %w", err)
	}
	var r reply
	f, err := receive(uc, &r)
	closeFile(f)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read the keeper's answer: %w", err)
	}
	return &r, r.err()
}

// Ensure returns the keeper's status, after starting one by the command if
// none answers. args has argv[0]; env is beside this process's environment.
// The keeper is started in a session of its own and outlives the caller; its
// standard output and error go to the file at logPath.
func Ensure(ctx context.Context, runDir, path string, args, env []string, logPath string) (Status, error) {
	c := NewClient(runDir)
	if st, err := c.Status(ctx); err == nil {
		return st, nil
	}
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Status{}, model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
	}
	defer out.Close()
	p, err := os.StartProcess(path, args, &os.ProcAttr{
		Env:   append(os.Environ(), env...),
		Files: []*os.File{nil, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return Status{}, model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
	}
	go func() { _, _ = p.Wait() }() // reaps it should it end before this process does
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		st, err := c.Status(ctx)
		if err == nil {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return Status{}, err
		case <-t.C:
		}
	}
}
