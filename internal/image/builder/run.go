// Package builder is the process that builds images, and the client by which
// the daemon asks it to.
//
// The process runs BuildKit on the instance's containerd. It has a network
// namespace of its own, so that what a Containerfile runs or fetches reaches
// the outside but neither the host nor its servers, and it holds no key and no
// journal. If it dies, the build fails and nothing else does.
package builder

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"kiln/internal/image"
	"kiln/internal/model"
)

// Config is what the process needs to know.
type Config struct {
	Instance model.InstanceID
	RunDir   string // holds containerd.sock; builder.sock is made in it
	DataDir  string // the cache is kept in buildkit/ below it
	ShimPath string // of containerd's shim; "": found in the PATH
	RuncPath string // "": found in the PATH

	// Network is the range from which the builder's own address is taken.
	Network string // "": 198.18.0.0/16
	// CacheLimit bounds the build cache in bytes; 0: 10 GiB.
	CacheLimit int64
	// Memory bounds what builds take together, in bytes; 0: nothing does.
	Memory int64
	// Idle is how long the process waits for a build before it ends by itself;
	// 0: for ever.
	Idle time.Duration
	Log  *slog.Logger
}

// Run is the builder process. It returns when ctx ends or it was idle for long
// enough, after removing what it made on the machine. Conflict: another builder
// of the instance runs.
//
// Run replaces the process by itself once (the same arguments, inside the
// network namespace), so it has to be called before anything else is started.
func Run(ctx context.Context, cfg Config) error {
	root := filepath.Join(cfg.DataDir, "buildkit")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return model.Errorf(model.Unavailable, "cannot start the builder: %w", err)
	}
	netns, err := enterNetwork(cfg, filepath.Join(root, "lock"))
	if err != nil {
		return err
	}
	defer netns.remove()
	stopDNS, err := netns.startDNS()
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot start the builder's name server: %w", err)
	}
	defer stopDNS()
	resolveInside()
	store, err := image.Open(ctx, image.Config{Instance: cfg.Instance, RunDir: cfg.RunDir, DataDir: cfg.DataDir, Log: cfg.Log})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // nothing is buffered in it
	if err := removeRemnants(ctx, cfg, store); err != nil {
		return err
	}
	removeTemporary(cfg.RunDir, caPattern)
	removeTemporary(root, bundlePattern)
	memory, err := limitMemory(cfg.Instance, cfg.Memory, cfg.Log)
	if err != nil {
		return err
	}
	// The worker outlives ctx, so that builds under way can be told why they end.
	workerCtx, stopWorker := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorker()
	open := opener(func(root string) (*worker, error) {
		w, err := newWorker(workerCtx, cfg, root, netns, store)
		if err == nil {
			w.memory, w.dirs = memory, []string{root, filepath.Join(cfg.DataDir, "containerd"), cfg.RunDir}
		}
		return w, err
	})
	w, err := open(root)
	if err != nil {
		return err
	}
	defer removeCgroups(cfg.Instance, cfg.Log)
	defer memory.leave()
	defer w.close()
	if err := open.leaveAll(ctx, root); err != nil {
		cfg.Log.Warn("what a killed builder has left cannot be removed", "error", err)
	}
	ln, err := listen(filepath.Join(cfg.RunDir, SocketName))
	if err != nil {
		return err
	}
	cfg.Log.Info("builder is ready", "address", netns.address)
	s := newServer(w, store, cfg)
	s.elsewhere = func() (*place, error) { return open.elsewhere(root) }
	return s.serve(ctx, ln)
}

// lockPatience is how long a builder waits for one that is about to end.
const lockPatience = 10 * time.Second

// takeLock takes the cache for this process, until the file is closed. One that
// does not answer any more at socket, but still holds the cache, is waited for.
func takeLock(path, socket string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start the builder: %w", err)
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 100) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		err = model.Errorf(model.Conflict, "cannot start the builder: another one uses %s", filepath.Dir(path))
		if conn, derr := net.Dial("unix", socket); derr == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			break
		}
	}
	f.Close()
	if _, ok := errors.AsType[*model.Error](err); ok {
		return nil, err
	}
	return nil, model.Errorf(model.Unavailable, "cannot lock %s: %w", path, err)
}

// listen binds the socket, over one that a killed builder left: the lock says
// that nobody listens there.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, model.Errorf(model.Unavailable, "cannot listen on %s: %w", path, err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, model.Errorf(model.Unavailable, "cannot listen on %s: %w", path, err)
	}
	return ln, nil
}
