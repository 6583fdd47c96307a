package builder

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"

	"kiln/internal/model"
)

// SocketName is the builder's socket in the run directory.
const SocketName = "builder.sock"

// Client asks a builder for builds. It may be used by several goroutines.
type Client struct {
	socket string
}

// NewClient returns a client of the builder of the run directory.
func NewClient(runDir string) *Client {
	return &Client{socket: filepath.Join(runDir, SocketName)}
}

// Ping reports whether a builder answers.
func (c *Client) Ping(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Build builds an image. session is the connection at whose other end
// buildcontext.Serve serves the files; Build copies its bytes and closes it.
// progress is called by one goroutine. If ctx ends the build is cancelled.
//
// Invalid: the Containerfile or a step of it is wrong; the message carries the
// line and the step's last output. Unavailable: there is no builder, or it ended.
func (c *Client) Build(ctx context.Context, req Request, session net.Conn, progress func(Event)) (Result, error) {
	defer session.Close()
	id := rand.Text()
	files, err := c.open(ctx, hello{ID: id, Session: true})
	if err != nil {
		return Result{}, err
	}
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		relay(files, session)
	}()
	defer func() { // the files' connection ends with the build
		files.Close()
		session.Close()
		<-relayed
	}()
	conn, err := c.open(ctx, hello{ID: id, Build: &req})
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	res, err := follow(conn, progress)
	if ctx.Err() != nil && err != nil {
		return Result{}, context.Cause(ctx)
	}
	return res, err
}

// follow reads replies until the last.
func follow(conn net.Conn, progress func(Event)) (Result, error) {
	r := bufio.NewReader(conn)
	for {
		var rep reply
		if err := receive(r, &rep); err != nil {
			return Result{}, model.Errorf(model.Unavailable, "cannot finish the build: the builder ended: %w", err).
				WithHint("build again; what was built so far is kept")
		}
		switch {
		case rep.Event != nil:
			progress(*rep.Event)
		case rep.Result != nil:
			return *rep.Result, nil
		case rep.Failure != nil:
			return Result{}, rep.Failure.error()
		}
	}
}

func (c *Client) open(ctx context.Context, h hello) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := (&lines{w: conn}).send(h); err != nil {
		conn.Close()
		return nil, model.Errorf(model.Unavailable, "cannot reach the builder: %w", err)
	}
	return conn, nil
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot reach the builder: %w", err)
	}
	return conn, nil
}

// relay copies both ways until either side ends, then closes both.
func relay(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyAndClose(a, b)
	}()
	copyAndClose(b, a)
	<-done
}

func copyAndClose(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	dst.Close()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		src.Close() // the other direction has nobody to speak to either
	}
}
