package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// serveAgain serves what is listened for until ctx ends. What cannot be listened
// for is tried again: it is no reason to end.
func (d *daemon) serveAgain(ctx context.Context, what string, listen func(context.Context) (net.Listener, error), s *http.Server) {
	const again = 10 * time.Second
	s.BaseContext = func(net.Listener) context.Context { return ctx }
	s.ErrorLog = slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelDebug) // clients' doings
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	said := ""
	for ctx.Err() == nil {
		l, err := listen(ctx)
		if err == nil {
			d.cfg.Log.Info("serving", "what", what, "address", l.Addr().String())
			err = s.Serve(l)
		}
		if ctx.Err() == nil && err != nil && err.Error() != said {
			said = err.Error()
			d.cfg.Log.Error("cannot serve; trying again", "what", what, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}
