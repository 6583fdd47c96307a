package api

import (
	"bufio"
	"context"
	"io"
	"net"

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
			conn, err := c.upgradeTo(ctx, path(PathSession, e.Build), SessionProtocol, nil)
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

// bufferedConn reads first what came with the answer's head.
type bufferedConn struct {
	net.Conn
	buffered *bufio.Reader
}

func (b *bufferedConn) Read(p []byte) (int, error) { return b.buffered.Read(p) }
