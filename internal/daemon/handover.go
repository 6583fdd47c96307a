package daemon

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/keeper"
	"kiln/internal/model"
	"kiln/internal/router"
)

const (
	// lookForOld is how often the daemon looks whether keeper and router are of
	// its own build.
	lookForOld = 5 * time.Second
	// handOverAgain is the pause after a hand-over that failed.
	handOverAgain = 30 * time.Second
	// keeperLimit is how long a new keeper may take to have all sockets.
	keeperLimit = 10 * time.Second
)

// handOver keeps keeper and router at the daemon's own build, until ctx ends: an
// operator replaces the program, starts the daemon anew, and the rest follows
// without a request lost. What fails is said, and tried again; what serves goes
// on meanwhile.
func (d *daemon) handOver(ctx context.Context) {
	build := buildOf(d.cfg.ServiceNet)
	if build == "" {
		d.cfg.Log.Warn("this program bears no build identifier: keeper and router are not handed over when it is replaced")
	}
	wait := time.Duration(0)
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-d.cfg.HandOver:
			asked = true
		case <-time.After(wait):
		}
		wait = lookForOld
		if err := d.renewOld(ctx, build, asked); err != nil && ctx.Err() == nil {
			d.cfg.Log.Error("cannot hand over; what serves goes on", "error", err, "hint", model.HintOf(err))
			wait = handOverAgain
		}
	}
}

// renewOld renews the keeper and hands the router over where they are of
// another build, or, the router, where that was asked for.
func (d *daemon) renewOld(ctx context.Context, build string, asked bool) error {
	if build != "" {
		if err := d.renewKeeper(ctx, build); err != nil {
			return err
		}
	}
	answered, _, err := newRouters(d.runDir).Status(ctx)
	if err != nil {
		return nil //nolint:nilerr // the control loop says so; there is nothing to hand over now
	}
	// One that waits is the one that the keeper keeps: a hand-over was broken
	// off.
	asked = asked || slices.ContainsFunc(answered, func(st model.RouterStatus) bool { return st.Phase == model.RouterWaiting })
	for _, st := range answered {
		if st.Phase == model.RouterServing && (asked || build != "" && st.Build != build) {
			return d.handRouterOver(ctx, build, st)
		}
	}
	return nil
}

// renewKeeper puts a keeper of this build in the place of another one. Its
// children go on; the sockets come from the router, and from this daemon.
func (d *daemon) renewKeeper(ctx context.Context, build string) error {
	client := keeper.NewClient(d.runDir)
	old, err := client.Status(ctx)
	if err != nil || old.Build == build {
		return nil // without a keeper another goroutine starts one, of this build
	}
	d.cfg.Log.Info("the keeper is of another build: renewing it", "pid", old.PID)
	if err := unix.Kill(old.PID, unix.SIGTERM); err != nil {
		return model.Errorf(model.Unavailable, "cannot end the keeper before: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, keeperLimit)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return model.Errorf(model.Unavailable, "cannot renew the keeper: the new one has not got every socket within %s", keeperLimit)
		case <-time.After(20 * time.Millisecond):
		}
		st, err := client.Status(ctx)
		if err == nil && st.Build == build && has(st.Addresses, old.Addresses) {
			d.cfg.Log.Info("keeper renewed", "pid", st.PID, "sockets", len(st.Addresses))
			return nil
		}
	}
}

func has(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// handRouterOver puts a new router in the place of the one that serves.
func (d *daemon) handRouterOver(ctx context.Context, build string, old model.RouterStatus) error {
	client := keeper.NewClient(d.runDir)
	begin := time.Now()
	d.cfg.Log.Info("handing the router over", "router", old.ID, "pid", old.PID)
	err := router.Succession{
		RunDir: d.runDir, Build: build, Windows: d.leaveWindows(),
		Renew: func(ctx context.Context) error { return client.Renew(ctx, "router") },
		EndOld: func(ctx context.Context) error {
			st, err := client.Status(ctx)
			if err != nil {
				return err
			}
			for _, c := range st.Children {
				if c.Name != "router" {
					continue
				}
				for _, pid := range c.Before {
					if err := unix.Kill(pid, unix.SIGTERM); err != nil {
						return model.Errorf(model.Unavailable, "cannot end the router before: %w", err)
					}
				}
			}
			return nil
		},
	}.Run(ctx)
	if err == nil {
		d.cfg.Log.Info("router handed over", "took", time.Since(begin))
	}
	return err
}

// leaveWindows returns how long what is in flight to a router that leaves may
// take: the longest that a service gives by drain class.
func (d *daemon) leaveWindows() router.Leave {
	var l router.Leave
	d.control.View(func(s *model.State, _ *model.Snapshot) {
		for _, svc := range s.Services {
			if r := svc.Release(svc.InService); r != nil {
				drain := r.Policy.Deploy.Drain
				l.Requests = max(l.Requests, drain.Requests)
				l.Streams = max(l.Streams, drain.Streams)
				l.WebSockets = max(l.WebSockets, drain.WebSockets)
			}
		}
	})
	return l
}
