package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kiln/internal/control"
	"kiln/internal/engine"
	"kiln/internal/evidence"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Control carries out commands and shows the state.
type Control interface {
	Do(ctx context.Context, actor string, command control.Command) error
	View(f func(s *model.State, snapshot *model.Snapshot))
	Changed() <-chan struct{}
}

// Clock tells the time.
type Clock interface {
	Now() model.Now
}

// Archives keep what sessions leave.
type Archives interface {
	Put(ctx context.Context, name string, at time.Time, write func(*evidence.Writer) error) (digest string, err error)
	Open(digest string) (*evidence.Files, error)
}

// Config is what a Runner works with.
type Config struct {
	Control  Control
	Engine   engine.Engine // sessions need Shells; Differ, where it is, tells what they change
	Archives Archives
	Clock    Clock
	Epoch    uint64
	Dir      string // for sessions under way
	Log      *slog.Logger
}

// Runner runs sessions. Its methods may be called at once.
type Runner struct {
	cfg    Config
	shells engine.Shells
	differ engine.Differ
	open   sync.WaitGroup
}

// New returns a Runner.
func New(cfg Config) (*Runner, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot make the directory for sessions: %w", err)
	}
	r := &Runner{cfg: cfg}
	r.shells, _ = cfg.Engine.(engine.Shells)
	r.differ, _ = cfg.Engine.(engine.Differ)
	return r, nil
}

// Wait waits for the sessions that have not ended, at most until ctx has.
func (r *Runner) Wait(ctx context.Context) {
	all := make(chan struct{})
	go func() { r.open.Wait(); close(all) }()
	select {
	case <-all:
	case <-ctx.Done():
	}
}

// Leaves opens the archive of a session that has ended.
func (r *Runner) Leaves(digest string) (*evidence.Files, error) { return r.cfg.Archives.Open(digest) }

// Open journals that a session begins, and returns it. Whoever opens one runs
// it.
func (r *Runner) Open(ctx context.Context, req reconcile.SessionRequest) (*Open, error) {
	if r.shells == nil {
		return nil, model.Errorf(model.Precondition, "cannot open a session in %s: what runs it cannot give terminals", req.Server)
	}
	// What cannot begin taints nothing.
	var refused error
	r.cfg.Control.View(func(s *model.State, snap *model.Snapshot) {
		_, _, refused = reconcile.OpenSession(s, req, reconcile.Observation{Snapshot: snap}, r.cfg.Clock.Now())
	})
	if refused == nil {
		refused = r.shells.Runnable(ctx, req.Server, req.Command)
	}
	if refused != nil {
		return nil, refused
	}
	x := &Open{runner: r}
	r.open.Add(1)
	err := r.cfg.Control.Do(ctx, req.By, func(s *model.State, snap *model.Snapshot, now model.Now) (events []model.Payload, err error) {
		events, x.Session, err = reconcile.OpenSession(s, req, reconcile.Observation{Snapshot: snap}, now)
		return events, err
	})
	if err != nil {
		r.open.Done()
		return nil, err
	}
	return x, nil
}

// Open is a session that is open.
type Open struct {
	model.Session
	runner *Runner
}

// Terminal is where a session is seen.
type Terminal struct {
	engine.Shell                   // what the person's side of it is; the runner fills in the rest
	Note         func(text string) // tells the person something
}

// Why a session ends before its command does.
var (
	ErrVanished = errors.New("the client vanished")
	errTime     = errors.New("its time was up")
	errReplaced = errors.New("its server was replaced")
	errStopping = errors.New("the daemon ended")
)

// Run runs the session until its command, its time, its server or ctx ends, and
// returns how it ended, which is in the journal by then.
func (x *Open) Run(ctx context.Context, t Terminal) model.SessionEnd {
	r := x.runner
	defer r.open.Done()
	work := &work{runner: r, session: x.Session}
	work.begin(ctx, t)
	watched, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { r.watch(watched, x.Session, t, stop) })
	code, err := r.shells.Shell(watched, engine.Ref{Epoch: r.cfg.Epoch, ID: x.Server}, work.shell(t))
	cause := context.Cause(watched)
	stop(nil)
	watching.Wait()
	end := model.SessionEnd{At: r.cfg.Clock.Now().Wall, How: how(code, err, cause)}
	if err == nil {
		end.Exit = &code
	}
	return work.finish(ctx, end)
}

// how says how a session ended.
func how(code int, err, cause error) string {
	switch {
	case err == nil:
		return fmt.Sprintf("exit status %d", code)
	case errors.Is(cause, context.Canceled):
		return errStopping.Error()
	case cause != nil:
		return cause.Error()
	default:
		return err.Error()
	}
}

// watch ends the session when its time is up, or its server is taken away.
func (r *Runner) watch(ctx context.Context, x model.Session, t Terminal, stop context.CancelCauseFunc) {
	warned := time.Duration(1 << 62)
	for {
		changed := r.cfg.Control.Changed()
		until, leaving := r.standing(x)
		left := until.Sub(r.cfg.Clock.Now().Elapsed)
		switch {
		case leaving:
			stop(errReplaced)
			return
		case left <= 0:
			stop(errTime)
			return
		}
		for _, notice := range []time.Duration{5 * time.Minute, time.Minute} {
			if left <= notice && notice < warned && until.Sub(x.Opened) > 2*notice {
				warned = notice
				t.Note(fmt.Sprintf("%s left; for more: kiln hotfix extend %s --reason \"…\"", model.Duration(left.Round(time.Second)), x.Server))
			}
		}
		if left > warned {
			warned = time.Duration(1 << 62) // it was extended
		}
		timer := time.NewTimer(min(left, 10*time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// standing returns until when the session may last, and whether its server is
// being taken away.
func (r *Runner) standing(x model.Session) (until model.Instant, leaving bool) {
	until = x.Until
	r.cfg.Control.View(func(s *model.State, _ *model.Snapshot) {
		srv, svc := s.Server(x.Server), s.Services[x.Server.Service()]
		if srv == nil || svc == nil {
			leaving = true
			return
		}
		switch srv.Phase {
		case model.PhaseStopping, model.PhaseEnded, model.PhaseRecorded, model.PhaseDestroyed:
			leaving = true
		case model.PhaseDraining:
			leaving = srv.Aside == 0
		default: // it runs
		}
		if now := svc.Session(x.ID); now != nil {
			until = now.Until
		}
	})
	return until, leaving
}

// Recover ends the sessions that were open when a daemon was killed: their
// processes have ended with it, their servers stay tainted.
func (r *Runner) Recover(ctx context.Context) {
	var left []model.Session
	r.cfg.Control.View(func(s *model.State, _ *model.Snapshot) {
		for _, svc := range s.Services {
			for _, x := range svc.Sessions {
				if x.Ended == nil {
					left = append(left, *x)
				}
			}
		}
	})
	for _, x := range left {
		r.cfg.Log.Info("ending a session that an earlier daemon ran", "session", string(x.ID), "server", string(x.Server))
		work := &work{runner: r, session: x}
		work.resume()
		work.finish(ctx, model.SessionEnd{At: r.cfg.Clock.Now().Wall, How: errStopping.Error()})
	}
	r.sweep()
}

// sweep removes what is left of sessions that are not open.
func (r *Runner) sweep() {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		id := model.SessionID(e.Name()[:len(e.Name())-len(filepath.Ext(e.Name()))])
		open := false
		r.cfg.Control.View(func(s *model.State, _ *model.Snapshot) {
			for _, svc := range s.Services {
				if x := svc.Session(id); x != nil && x.Ended == nil {
					open = true
				}
			}
		})
		if !open {
			_ = os.Remove(filepath.Join(r.cfg.Dir, e.Name()))
		}
	}
}

// before is what of a session has to be known when it ends, also by another
// daemon.
type before struct {
	Stamps  map[string]string `json:"stamps"` // of what had changed before it
	Missing []string          `json:"missing,omitempty"`
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
