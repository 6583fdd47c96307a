package router

import (
	"context"
	"time"

	"kiln/internal/model"
)

// Succession hands the router of a run directory over to a new process of the
// same sockets. Every step may be the last of whoever takes it: another call
// goes on from what it finds.
type Succession struct {
	RunDir  string
	Build   string                          // of the router that is to serve
	Windows Leave                           // of what is in flight to the one before
	Renew   func(ctx context.Context) error // starts the new process
	EndOld  func(ctx context.Context) error // ends the one before, if it is of a version that cannot leave
}

// The longest that a step may take.
const (
	startLimit = 20 * time.Second // until the new router has the table
	turnLimit  = 5 * time.Second  // until it serves
	stepEvery  = 5 * time.Millisecond
)

// member is a router and what it says of itself.
type member struct {
	*Client
	model.RouterStatus
}

// members asks every router that lives.
func members(ctx context.Context, runDir string) ([]member, error) {
	var out []member
	for _, c := range All(runDir) {
		st, err := c.Status(ctx)
		if err == nil {
			out = append(out, member{c, st})
		} else if !Gone(err) {
			return nil, err
		}
	}
	return out, nil
}

// Run returns when a new router serves in place of the one before. If it returns
// an error the one before goes on, or, where that has left or was killed, the
// new one or another that the keeper starts.
func (s Succession) Run(ctx context.Context) error {
	for {
		if err := s.once(ctx); err != nil {
			return err
		}
		// Where the keeper has replaced a router that died meanwhile, that one
		// waits still. It is the one that is kept, so it has to serve.
		all, err := members(ctx, s.RunDir)
		if err != nil || find(all, func(m member) bool { return m.Phase == model.RouterWaiting }) == nil {
			return err
		}
	}
}

func (s Succession) once(ctx context.Context) error {
	all, err := members(ctx, s.RunDir)
	if err != nil {
		return err
	}
	old := find(all, func(m member) bool { return m.Phase == model.RouterServing })
	if old == nil {
		return model.Errorf(model.Unavailable, "cannot hand the router over: none serves")
	}
	ready, err := s.successor(ctx, all, old)
	if err != nil {
		return err
	}
	if err := s.retire(ctx, old, ready); err != nil {
		return err
	}
	_, err = s.await(ctx, turnLimit, "the new one does not serve, though the one before has left or died", func(m member) bool {
		return m.ID == ready.ID && m.Phase == model.RouterServing
	})
	return err
}

// successor returns a router that waits with the table of the old one.
func (s Succession) successor(ctx context.Context, all []member, old *member) (*member, error) {
	mine := func(m member) bool { return m.Phase == model.RouterWaiting && m.Build == s.Build }
	for _, m := range all {
		if m.Phase == model.RouterWaiting && m.Build != s.Build {
			if err := m.Leave(ctx, Leave{}); err != nil && !Gone(err) {
				return nil, err
			}
		}
	}
	if find(all, mine) == nil {
		if err := s.Renew(ctx); err != nil {
			return nil, err
		}
	}
	return s.await(ctx, startLimit, "the new one does not get ready", func(m member) bool {
		if !mine(m) {
			return false
		}
		st, err := old.Status(ctx)
		return err == nil && m.Epoch == st.Epoch && m.Generation == st.Generation && m.Missing <= st.Missing
	})
}

// retire makes the old router take nothing new.
func (s Succession) retire(ctx context.Context, old, ready *member) error {
	if old.PID != 0 { // it is of a version that can leave
		if err := old.Leave(ctx, s.Windows); err != nil && !Gone(err) {
			return err
		}
		return nil
	}
	if s.EndOld == nil {
		return model.Errorf(model.Precondition, "cannot hand the router over: the one before is too old to leave")
	}
	if err := s.EndOld(ctx); err != nil {
		return err
	}
	return ready.Serve(ctx)
}

// await returns the router for which ok is true, once there is one.
func (s Succession) await(ctx context.Context, limit time.Duration, lack string, ok func(member) bool) (*member, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(stepEvery)
	defer t.Stop()
	for {
		all, err := members(ctx, s.RunDir)
		if err == nil {
			if m := find(all, ok); m != nil {
				return m, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, model.Errorf(model.Unavailable, "cannot hand the router over: %s", lack).
				WithHint("its output is in keeper.log in the data directory")
		case <-t.C:
		}
	}
}

func find(all []member, ok func(member) bool) *member {
	for i := range all {
		if ok(all[i]) {
			return &all[i]
		}
	}
	return nil
}
