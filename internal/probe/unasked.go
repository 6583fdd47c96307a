package probe

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// unasked passes on what probes look through, and notes when the server was
// not asked at all, because kiln or the machine could not: such a result says
// nothing of the server.
type unasked struct {
	means
	noted atomic.Pointer[error]
}

// DialServer implements Dialer.
func (u *unasked) DialServer(ctx context.Context, id model.ServerID, address string) (net.Conn, error) {
	conn, err := u.dialer.DialServer(ctx, id, address)
	for _, ours := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, ours) {
			u.noted.Store(&err)
		}
	}
	return conn, err
}

// Exec implements Execer. An error means that the command did not run: its own
// failure is in what was seen.
func (u *unasked) Exec(ctx context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error) {
	seen, err := u.exec.Exec(ctx, ref, x)
	if err != nil && (model.CodeOf(err) == model.Unavailable || model.Exhausted(err) != "") {
		u.noted.Store(&err)
	}
	return seen, err
}

// healthy asks once, as means does. why is set when the server was not asked.
func (u *unasked) healthy(ctx context.Context, t Target) (passed bool, detail string, why error) {
	passed, detail = means{u, u}.healthy(ctx, t)
	if noted := u.noted.Load(); noted != nil && !passed {
		return false, detail, *noted
	}
	return passed, detail, nil
}
