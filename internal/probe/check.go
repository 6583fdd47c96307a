package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// means are what probes look through.
type means struct {
	dialer Dialer
	exec   Execer
}

// healthy asks once. It reports whether the server passed, and what was seen.
func (m means) healthy(ctx context.Context, t Target) (passed bool, detail string) {
	l := look{
		kind: t.Health.Kind, path: t.Health.Path, port: t.Health.Port, command: t.Health.Command,
		timeout: positive(t.Health.Timeout.D(), time.Second),
	}
	switch l.kind {
	case model.CheckNone:
		return true, "nothing is asked of it but to run"
	case model.CheckHTTP:
		a, err := get(ctx, m.dialer, t, l, excerptLimit+1)
		if err != nil {
			return false, err.Error()
		}
		if a.redirects() {
			return false, a.String() + ", which a health check does not follow"
		}
		return a.status >= 200 && a.status < 300, a.String()
	case model.CheckTCP:
		return m.connects(ctx, t, l)
	case model.CheckExec:
		seen, err := m.run(ctx, t, l)
		if err != nil {
			return false, err.Error()
		}
		return seen.Code == 0, ended(l, seen)
	default:
		return false, fmt.Sprintf("there is no health check of the kind %q", l.kind)
	}
}

// connects opens a connection and closes it again.
func (m means) connects(ctx context.Context, t Target, l look) (bool, string) {
	address := t.endpoint(l.port)
	if address == "" {
		return false, "cannot be asked: it has no address with a port"
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	began := time.Now()
	conn, err := m.dialer.DialServer(ctx, t.Ref.ID, address)
	if err != nil {
		return false, address + " " + reason(err, false, l.timeout)
	}
	_ = conn.Close() // nothing was sent
	return true, fmt.Sprintf("%s took a connection in %s", address, took(time.Since(began)))
}

// run runs the command in the server. The error is in words for people.
func (m means) run(ctx context.Context, t Target, l look) (engine.ExecResult, error) {
	limited, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	seen, err := m.exec.Exec(limited, t.Ref, engine.Exec{Command: l.command, Limit: 4 << 10})
	switch {
	case err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) && ctx.Err() == nil:
		return seen, fmt.Errorf("%q did not end within %s%s", strings.Join(l.command, " "), l.timeout, quoted(tail(seen.Output)))
	case err != nil:
		return seen, fmt.Errorf("%q could not be run: %w", strings.Join(l.command, " "), err)
	default:
		return seen, nil
	}
}

func ended(l look, seen engine.ExecResult) string {
	return fmt.Sprintf("%q ended with exit status %d%s", strings.Join(l.command, " "), seen.Code, quoted(tail(seen.Output)))
}

func positive[N int | time.Duration](n, otherwise N) N {
	if n > 0 {
		return n
	}
	return otherwise
}
