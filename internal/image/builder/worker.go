package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	ctd "github.com/containerd/containerd/v2/client"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor/containerdexecutor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	bkworker "github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	bkcontainerd "github.com/moby/buildkit/worker/containerd"

	"kiln/internal/image"
	"kiln/internal/model"
)

const (
	runtimeName       = "io.containerd.runc.v2"
	defaultCacheLimit = 10 << 30
	cacheKept         = 60 * 24 * time.Hour
)

// worker is BuildKit, in this process, on the instance's containerd.
type worker struct {
	control   *control.Controller
	sessions  *session.Manager
	frontends *frontends
	memory    *memoryGroup
	networks  *networks // of the builds that are not open
	runDir    string
	root      string
	dirs      []string // that builds write
}

func newWorker(ctx context.Context, cfg Config, root string, netns *netns, store *image.Store) (*worker, error) {
	fail := func(err error) (*worker, error) {
		return nil, model.Errorf(model.Unavailable, "cannot start BuildKit: %w", err)
	}
	nets := newNetworks()
	opt, err := workerOpt(cfg, root, netns, nets)
	if err != nil {
		return fail(err)
	}
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		return fail(err)
	}
	if err := attachSources(w, nets, store); err != nil {
		return fail(errors.Join(err, w.Close()))
	}
	all := &bkworker.Controller{}
	if err := all.Add(w); err != nil {
		return fail(errors.Join(err, w.Close()))
	}
	sessions, err := session.NewManager()
	if err != nil {
		return fail(errors.Join(err, all.Close()))
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(root, "cache.db"))
	if err != nil {
		return fail(errors.Join(err, all.Close()))
	}
	history, err := boltutil.SafeOpen(filepath.Join(root, "history.db"), 0o600, nil)
	if err != nil {
		return fail(errors.Join(err, all.Close(), cache.Close()))
	}
	front := newFrontends()
	ctl, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: all,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(all.Infos(), front.build),
		},
		CacheManager:   solver.NewCacheManager(ctx, "local", cache, bkworker.NewCacheResultStorage(all)),
		CacheStore:     cache,
		HistoryDB:      history,
		HistoryConfig:  &config.HistoryConfig{MaxEntries: 20},
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
	if err != nil {
		return fail(errors.Join(err, all.Close(), cache.Close(), history.Close()))
	}
	return &worker{control: ctl, sessions: sessions, frontends: front, networks: nets, runDir: cfg.RunDir, root: root}, nil
}

// workerOpt describes the worker. Its executor is made anew, because BuildKit's
// constructor offers no network of the caller's own.
func workerOpt(cfg Config, root string, netns *netns, nets *networks) (base.WorkerOpt, error) {
	opts := bkcontainerd.WorkerOptions{
		Root:            root,
		Address:         image.SocketPath(cfg.RunDir),
		SnapshotterName: image.Snapshotter,
		Namespace:       image.Namespace(cfg.Instance),
		CgroupParent:    cgroupParent(cfg.Instance),
		NetworkOpt:      netproviders.Opt{Mode: "host", CNI: cniprovider.Opt{Root: root}},
	}
	opt, err := bkcontainerd.NewWorkerOpt(opts)
	if err != nil {
		return opt, err
	}
	c, err := ctd.New(opts.Address, ctd.WithDefaultNamespace(opts.Namespace))
	if err != nil {
		return opt, err
	}
	opt.NetworkProviders = map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: netns,
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}
	opt.ImageStore = pinned{opt.ImageStore}
	opt.ProxyProvider = nil
	opt.Executor = &lockedExecutor{networks: nets, Executor: containerdexecutor.New(containerdexecutor.ExecutorOptions{
		Client:           c,
		Root:             opt.Root,
		CgroupParent:     opts.CgroupParent,
		NetworkProviders: opt.NetworkProviders,
		DNSConfig:        netns.dns(),
		Runtime: &containerdexecutor.RuntimeInfo{
			Name:    runtimeName,
			Path:    cfg.ShimPath,
			Options: &runcoptions.Options{BinaryName: cfg.RuncPath, Root: filepath.Join(cfg.RunDir, "runc")},
		},
	})}
	opt.RegistryHosts = registryHosts(netns)
	limit := cfg.CacheLimit
	if limit == 0 {
		limit = defaultCacheLimit
	}
	opt.GCPolicy = []client.PruneInfo{
		{KeepDuration: cacheKept, MaxUsedSpace: limit}, // what nobody used for long goes first
		{All: true, MaxUsedSpace: limit},
	}
	return opt, os.MkdirAll(opt.Root, 0o700)
}

func (w *worker) close() { _ = w.control.Close() }
