package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"

	"kiln/internal/model"
)

// BuildSession serves the build context over a connection until the builder
// is done with it. It closes conn.
type BuildSession func(ctx context.Context, conn net.Conn) error

// Build runs a build: it opens the session once the build has its id, calls
// each for every line of progress, and returns the image. A build that is lost
// is not taken up again; the same again is cheap.
func (c *Client) Build(ctx context.Context, in BuildRequest, serve BuildSession, each func(BuildEvent) error) (*BuildEvent, error) {
	call, err := sending(PathBuild, in)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var served chan error // what became of the session, once there is one
	var last *BuildEvent
	err = stream(ctx, c, call, nil, func(e BuildEvent) error {
		if e.Build != "" && served == nil {
			conn, err := c.upgrade(ctx, path(PathSession, e.Build))
			if err != nil {
				return err
			}
			context.AfterFunc(ctx, func() { conn.Close() }) // a build that ends takes its session along
			served = make(chan error, 1)
			go func() { served <- serve(ctx, conn) }()
		}
		switch {
		case e.Error != nil:
			return e.Error.Err()
		case e.Result != nil:
			last = &e
		}
		return each(e)
	})
	cancel()
	if served != nil {
		// A context that cannot be served is why the build failed.
		if failed := <-served; err != nil && model.CodeOf(failed) == model.Invalid {
			err = failed
		}
	}
	if err == nil && last == nil {
		err = c.unreachable(&contactError{err: io.ErrUnexpectedEOF, sent: true})
	}
	if err != nil {
		return nil, err
	}
	return last, nil
}

// upgrade opens a connection of its own and turns it into a build's session.
func (c *Client) upgrade(ctx context.Context, target string) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.unreachable(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kiln"+target, nil)
	if err != nil {
		conn.Close()
		return nil, model.Errorf(model.Internal, "cannot make a request: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", SessionProtocol)
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, c.unreachable(&contactError{err: err, sent: true})
	}
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, req)
	if err != nil {
		conn.Close()
		return nil, c.unreachable(&contactError{err: err, sent: true})
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			return nil, problem(resp)
		}
		return nil, model.Errorf(model.Internal, "cannot open the build's session: the daemon answered %s", resp.Status)
	}
	return &bufferedConn{Conn: conn, buffered: buffered}, nil
}

// bufferedConn reads first what came with the answer's head.
type bufferedConn struct {
	net.Conn
	buffered *bufio.Reader
}

func (b *bufferedConn) Read(p []byte) (int, error) { return b.buffered.Read(p) }
