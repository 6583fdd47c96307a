package router

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/keeper"
	"kiln/internal/model"
)

// stopGrace is how long a router that is told to end waits for requests.
const stopGrace = 3 * time.Second

// Run is the router process: it serves the last table from disk at once, takes
// new ones through RunDir/router.sock, and returns nil when ctx has ended.
func Run(ctx context.Context, cfg Config) error {
	for _, dir := range []string{cfg.RunDir, filepath.Join(cfg.DataDir, "router")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return model.Errorf(model.Unavailable, "cannot start router: %w", err)
		}
	}
	unlock, err := lockOnly(filepath.Join(cfg.RunDir, "router.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	limits := cfg.Limits.withDefaults()
	access, err := openAccessLog(filepath.Join(cfg.DataDir, "router", "access.log"), limits.AccessLogBytes, cfg.Log)
	if err != nil {
		return err
	}
	defer access.close()
	sockets := keeper.NewSockets(cfg.RunDir, cfg.Log)
	defer sockets.Close()
	r := newRouter(cfg, sockets, access)

	ctl, err := newControl(r, filepath.Join(cfg.RunDir, "router.sock"))
	if err != nil {
		return err
	}
	defer ctl.close()
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
	cfg.Log.Info("router is serving", "router", r.id)
	<-ctx.Done()
	r.stop()
	ctl.close()
	return nil
}

// resume serves the last table. A listener that cannot be had now is tried
// again, so that one lost port does not keep the others from serving.
func (r *Router) resume() {
	t, err := r.store.load()
	if err != nil {
		r.log.Error("cannot read the last table; waiting for a new one", "error", err)
		return
	}
	if t == nil {
		r.binder.Retain(nil)
		return
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	r.binder.Retain(r.names.all(t))
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
	for _, address := range listenAddresses(t) {
		if r.listeners[address] != nil {
			continue
		}
		nl, err := r.binder.Listen(address)
		if err != nil {
			r.log.Error("cannot listen; trying again", "address", address, "error", err)
			missing = true
			continue
		}
		fresh = append(fresh, newListener(r, address, nl))
	}
	byName, noName := r.bindNames(t)
	return append(fresh, byName...), missing || noName
}

// bindAgain binds what can be bound by now.
func (r *Router) bindAgain() (missing bool) {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	t := r.current.Load().table
	fresh, missing := r.bindPossible(&t)
	for _, l := range fresh {
		r.listeners[l.address] = l
		r.serving.Go(l.serve)
	}
	return missing
}

// stop ends the router: no new connection, a moment for what is in flight.
// The sockets stay with the keeper, where connections wait for the next router.
func (r *Router) stop() {
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

// lockOnly takes the lock file or says that another process has it. The lock
// goes with the process, however it ends.
func lockOnly(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start router: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, model.Errorf(model.Conflict, "cannot start router: another one holds %s", path)
	}
	return func() { _ = f.Close() }, nil
}
