package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine/local"
	"kiln/internal/image/builder"
	"kiln/internal/keeper"
	"kiln/internal/model"
	"kiln/internal/router"
)

// Role says for which instance a process plays a part other than the daemon's.
type Role struct {
	Instance   model.InstanceID
	DataDir    string
	RunDir     string
	Executable string       // of this program
	ServerNet  netip.Prefix // where servers have their addresses; builder
	ServiceNet netip.Prefix // where the names of services have their addresses; keeper, router
	Memory     int64        // builder: the most that builds take together, in bytes; 0: half of the machine's
	Log        *slog.Logger
}

// RunKeeper is the process `kiln keeper`.
func RunKeeper(ctx context.Context, r Role) error {
	path, args, err := local.ContainerdCommand(local.Config{Instance: r.Instance, DataDir: r.DataDir, RunDir: r.RunDir})
	if err != nil {
		return err
	}
	return keeper.Run(ctx, keeper.Config{
		RunDir: r.RunDir, DataDir: r.DataDir, Build: buildOf(r.ServiceNet), Log: r.Log,
		Children: []keeper.Child{
			{Name: "containerd", Path: path, Args: append([]string{path}, args...)},
			{Name: "router", Path: r.Executable, Args: append([]string{"kiln"}, trafficArgs("router", r.Instance, r.DataDir, r.RunDir, r.ServiceNet)...)},
		},
	})
}

// RunRouter is the process `kiln router`.
func RunRouter(ctx context.Context, r Role) error {
	return router.Run(ctx, router.Config{
		DataDir: r.DataDir, RunDir: r.RunDir, Instance: r.Instance, ServiceNet: r.ServiceNet,
		Build: buildOf(r.ServiceNet), Log: r.Log,
	})
}

// builderIdle is how long a builder waits for the next build before it gives
// its memory back.
const builderIdle = 10 * time.Minute

// RunBuilder is the process `kiln builder`. It ends with the daemon that
// started it: its standard input is a pipe that the daemon holds.
func RunBuilder(ctx context.Context, r Role, stdin io.Reader) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		end()
	}()
	// The daemon may be protected from a lack of memory (OOMScoreAdjust); a build
	// is not. Where it may not be changed it was not changed either.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	shim, runc, err := local.Programs(r.DataDir)
	if err != nil {
		return err
	}
	network := ""
	if r.ServerNet.IsValid() {
		network = r.ServerNet.String()
	}
	return builder.Run(ctx, builder.Config{
		Network:  network,
		Instance: r.Instance, DataDir: r.DataDir, RunDir: r.RunDir, ShimPath: shim, RuncPath: runc,
		Memory: buildMemory(r.Memory), Idle: builderIdle, Log: r.Log,
	})
}

// buildMemory is what was asked for, or half of the machine's memory: servers
// and the rest of kiln live from the other half.
func buildMemory(asked int64) int64 {
	if asked > 0 {
		return asked
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0 // no limit
	}
	return int64(info.Totalram) * int64(info.Unit) / 2
}

// roleArgs are the arguments that start another role of the instance.
func roleArgs(name string, instance model.InstanceID, dataDir, runDir string) []string {
	return []string{name, "--instance", string(instance), "--data-dir", dataDir, "--run-dir", runDir}
}

// trafficArgs are the arguments that start keeper or router.
func trafficArgs(name string, instance model.InstanceID, dataDir, runDir string, serviceNet netip.Prefix) []string {
	args := roleArgs(name, instance, dataDir, runDir)
	if !serviceNet.IsValid() {
		return args
	}
	return append(args, "--service-net", serviceNet.String())
}

// ensureKeeper starts a keeper where none answers.
func (d *daemon) ensureKeeper(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := keeper.Ensure(ctx, d.runDir, d.cfg.Executable,
		append([]string{"kiln"}, trafficArgs("keeper", d.instance, d.cfg.DataDir, d.runDir, d.cfg.ServiceNet)...), nil,
		filepath.Join(d.cfg.DataDir, "keeper.log"))
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot start the keeper: %w", err).
			WithHint("its output is in %s", filepath.Join(d.cfg.DataDir, "keeper.log"))
	}
	return nil
}

// endInstance ends router, containerd and keeper and removes what the instance
// has on the machine. Images and history stay in the data directory.
func (d *daemon) endInstance(ctx context.Context) {
	builder.RemoveNetwork(d.instance, d.runDir, d.cfg.Log) // of one that was killed, and not needed again
	err := d.engine.Purge(ctx)
	err = errors.Join(err, d.images.Close(), d.engine.Close())
	d.images, d.engine = nil, nil
	err = errors.Join(err, keeper.NewClient(d.runDir).Shutdown(ctx), os.Remove(d.cfg.Socket), os.RemoveAll(d.runDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.cfg.Log.Error("not everything of the instance could be ended", "error", err)
	}
}
