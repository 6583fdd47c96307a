package daemon

import (
	"context"
	"path/filepath"

	"kiln/internal/session"
)

// newSessions makes what runs terminals in servers, and ends the sessions that
// an earlier daemon ran when it was killed.
func (d *daemon) newSessions(ctx context.Context) (err error) {
	d.sessions, err = session.New(session.Config{
		Control: d.control, Engine: d.engine, Archives: d.evidence, Clock: d.clock, Epoch: d.epoch,
		Dir: filepath.Join(d.cfg.DataDir, "sessions"), Log: d.cfg.Log,
	})
	if err == nil {
		d.sessions.Recover(ctx)
	}
	return err
}
