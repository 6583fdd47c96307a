package router

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kiln/internal/keeper"
	"kiln/internal/model"
)

// stopGrace is how long a router that is told to end waits for requests.
const stopGrace = 3 * time.Second

// Run is the router process. It serves the last table from disk at once, or, if
// another router serves, when that one leaves or dies (see handover.go); it
// takes new tables through its control socket. It returns nil when ctx has
// ended, or when it was told to leave and has.
func Run(ctx context.Context, cfg Config) error {
	for _, dir := range []string{cfg.RunDir, filepath.Join(cfg.DataDir, "router")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return model.Errorf(model.Unavailable, "cannot start router: %w", err)
		}
	}
	lockPath := filepath.Join(cfg.RunDir, "router.lock")
	lock, err := tryLock(lockPath)
	if err != nil {
		return err
	}
	limits := cfg.Limits.withDefaults()
	access, err := openAccessLog(filepath.Join(cfg.DataDir, "router", "access.log"), limits.AccessLogBytes, cfg.Log)
	if err != nil {
		return err
	}
	defer access.close()
	sockets := keeper.NewSockets(cfg.RunDir, cfg.Log)
	defer sockets.Close()
	r := newRouter(cfg, sockets, access)
	defer r.end()
	r.lock = lock
	if lock == nil {
		r.standing.Store(int32(waiting))
	}
	defer func() {
		r.applyMu.Lock()
		defer r.applyMu.Unlock()
		r.releaseLockLocked()
	}()
	ctl, err := newControl(r, cfg.RunDir)
	if err != nil {
		return err
	}
	defer ctl.close()
	r.live(ctx, ctl, lockPath)
	return nil
}

// live runs until ctx ends, or the router was told to leave and has.
func (r *Router) live(ctx context.Context, ctl *control, lockPath string) {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	defer loops.Wait()
	defer stop()
	loops.Go(func() { r.tick(work) })
	loops.Go(func() { r.drainLoop(work) })
	loops.Go(func() { r.lookAfterClients(work) })
	loops.Go(func() { r.bindLoop(work) })
	loops.Go(func() { r.certs.watch(work) })
	defer r.acme.stop()
	r.resume()
	loops.Go(ctl.serve)
	loops.Go(func() { ctl.beKnown(work) })
	if r.phase() == waiting {
		r.log.Info("router waits for the one that serves", "router", r.id, "pid", os.Getpid())
		loops.Go(func() { r.awaitTurn(work, lockPath) })
	} else {
		r.log.Info("router is serving", "router", r.id, "pid", os.Getpid())
	}
	select {
	case <-ctx.Done():
	case <-r.left:
		r.log.Info("router has left", "router", r.id)
	}
	r.stop()
	r.bequeath()
	ctl.close()
}

// resume serves the last table. A listener that cannot be had now is tried
// again, so that one lost port does not keep the others from serving.
func (r *Router) resume() {
	t, err := r.store.load()
	if err != nil {
		r.log.Error("cannot read the last table; waiting for a new one", "error", err)
		return
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	if t == nil {
		t = &model.Table{}
	}
	r.takeStoredLocked(t)
}

// takeStoredLocked makes a table from disk what every dispatch uses. applyMu is
// held.
func (r *Router) takeStoredLocked(t *model.Table) {
	if r.phase() == serving {
		r.binder.Retain(r.names.all(t))
	}
	r.certs.changing.Lock()
	defer r.certs.changing.Unlock()
	r.certs.take(r.certs.stagePossible(t))
	fresh, missing := r.bindPossible(t)
	r.publish(*t, fresh)
	r.log.Info("serving the last table", "epoch", t.Epoch, "generation", t.Generation, "listeners", len(fresh))
	if missing {
		r.bindSoon()
	}
}

// bindPossible binds what of t can be bound.
func (r *Router) bindPossible(t *model.Table) (fresh []*listener, missing bool) {
	lacking := map[string]string{}
	for _, address := range listenAddresses(t) {
		if r.listeners[address] != nil {
			continue
		}
		nl, err := r.binder.Listen(address)
		if err != nil {
			r.log.Error("cannot listen; trying again", "address", address, "error", err)
			lacking[address], missing = err.Error(), true
			continue
		}
		fresh = append(fresh, newListener(r, address, nl))
	}
	byName, noName := r.bindNames(t, lacking)
	return append(fresh, byName...), missing || noName
}

// bindAgain binds what can be bound by now.
func (r *Router) bindAgain() (missing bool) {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	if r.phase() == leaving {
		return false
	}
	t := r.current.Load().table
	fresh, missing := r.bindPossible(&t)
	for _, l := range fresh {
		r.listeners[l.address] = l
		r.startLocked(l)
	}
	return missing
}

// stop ends the router: no new connection, a moment for what is in flight.
// The sockets stay with the keeper, where connections wait for the next router.
func (r *Router) stop() {
	r.end()
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, l := range r.listeners {
		wg.Go(func() { l.stop(ctx) })
	}
	wg.Wait()
	r.serving.Wait()
	for _, s := range r.records() {
		s.upstream.close()
	}
}
