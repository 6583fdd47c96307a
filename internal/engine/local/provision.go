package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sync/errgroup"

	"kiln/internal/engine"
	"kiln/internal/engine/local/exitfile"
	"kiln/internal/engine/local/logfile"
	"kiln/internal/model"
)

const cleanupLimit = 30 * time.Second

// Provision implements engine.Engine.
func (e *Engine) Provision(ctx context.Context, ref engine.Ref, t model.Template) error {
	return e.provision(ctx, ref, t, false)
}

// provision makes a server, or a trial.
func (e *Engine) provision(ctx context.Context, ref engine.Ref, t model.Template, trial bool) error {
	asked := time.Now()
	ctx = e.scoped(ctx)
	done, err := e.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	hash := t.Hash()
	if s, r := e.lookup(ref.ID); r != nil {
		if r.Hash != hash || r.Trial != trial {
			return model.Errorf(model.Conflict, "cannot start %s: it exists with another template", ref.ID)
		}
		return e.touch(s, ref)
	}
	p, err := e.plan(ctx, t)
	if err != nil {
		return startError(ref.ID, err)
	}
	r := &record{ID: ref.ID, Epoch: ref.Epoch, Template: t, Hash: hash, Trial: trial, StopSignal: p.stopSignal, CreatedAt: time.Now().UTC()}
	s := &server{record: r, exited: make(chan struct{}), reaped: make(chan struct{})}
	e.mu.Lock()
	if err := e.mayHaveLocked(ref.ID, t); err != nil {
		e.mu.Unlock()
		return startError(ref.ID, err)
	}
	r.IDs = e.idsLocked(ref.ID, t)
	e.servers[ref.ID] = s
	e.mu.Unlock()
	e.hints.give()
	// What it is going to stand on is looked at while the rest of it is made.
	var looking errgroup.Group
	looking.Go(func() error { return e.wholeRoot(ctx, asked, ref.ID, t, p, p.lowers) })
	err = e.start(ctx, s, p, looking.Wait)
	if looked := looking.Wait(); err != nil {
		err = cmp.Or(looked, err) // what is not whole is why the rest failed
		// What fails leaves nothing behind, whatever became of the context.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		if removing := e.remove(ctx, ref.ID); removing != nil {
			err = errors.Join(err, removing)
		}
		return startError(ref.ID, err)
	}
	e.watchers.Go(func() { e.watch(s) }) //nolint:contextcheck // it is watched as long as the engine is open
	return nil
}

// startError names the server, and keeps the class and the hint of err.
func startError(id model.ServerID, err error) error {
	return model.Errorf(model.CodeOf(err), "cannot start %s: %w", id, err).WithHint("%s", model.HintOf(err))
}

// touch notes who was the last to change the server.
func (e *Engine) touch(s *server, ref engine.Ref) error {
	r := e.recordOf(s)
	if r.Epoch == ref.Epoch {
		return nil
	}
	r = e.change(s, func(r *record) { r.Epoch = ref.Epoch })
	if err := writeRecord(e.serverDir(ref.ID), r); err != nil {
		return fmt.Errorf("cannot record the writer of %s: %w", ref.ID, err)
	}
	return nil
}

// start makes everything that the server needs, when it is its turn, and its
// process, once what it stands on is found to be whole.
func (e *Engine) start(ctx context.Context, s *server, p *plan, whole func() error) error {
	select {
	case e.starts <- struct{}{}:
		defer func() { <-e.starts }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r := e.recordOf(s)
	if err := e.makeDirs(r); err != nil {
		return err
	}
	// The network, the names and the file system do not need each other.
	var address netip.Addr
	var mounts []mount.Mount
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		address, err = e.network.attach(r.ID, r.IDs, r.Trial)
		if errors.Is(err, errNoAddress) {
			return model.Errorf(model.Unavailable, "no address of %s is free", e.ServerNet)
		}
		return err
	})
	if len(r.Template.Connects) > 0 {
		both.Go(func() error { return e.network.names.update(e.records, r.Template.Connects) })
	}
	both.Go(func() (err error) {
		mounts, err = e.makeContainer(bothCtx, r, p)
		return err
	})
	both.Go(func() error { return e.giveValues(bothCtx, r, p) })
	if err := both.Wait(); err != nil {
		return err
	}
	upper, lowers := overlayDirs(mounts)
	if !slices.Equal(lowers, p.lowers) { // the snapshots were made anew meanwhile
		e.plans.forget(r.Hash)
		whole = func() error { return e.wholeRoot(ctx, time.Now(), r.ID, r.Template, p, lowers) }
	}
	r = e.change(s, func(r *record) {
		r.Address, r.Upper, r.Lowers = address.String(), upper, lowers
		r.User, r.Env, r.Cwd = p.user, p.env, p.cwd
	})
	if err := e.writeOwnFiles(r); err != nil {
		return err
	}
	mounts, release, err := e.mapIDs(r, mounts)
	if err != nil {
		return err
	}
	defer release()
	releaseVolumes, err := e.giveVolumes(ctx, r, p)
	if err != nil {
		return err
	}
	defer releaseVolumes()
	return e.startTask(ctx, s, r, mounts, whole)
}

// makeDirs makes the server's directories, and a record in it, before anything
// else: what is interrupted from here on is found again.
func (e *Engine) makeDirs(r *record) error {
	for _, dir := range []string{e.serverDir(r.ID), e.logDir(r.ID)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make a directory: %w", err)
		}
	}
	if err := exitfile.Create(e.exitFile(r.ID)); err != nil {
		return fmt.Errorf("cannot make the exit file: %w", err)
	}
	if err := writeRecord(e.serverDir(r.ID), r); err != nil {
		return fmt.Errorf("cannot write the record: %w", err)
	}
	return nil
}

func snapshotKey(id model.ServerID) string { return "kiln-server/" + string(id) }

// makeContainer makes the server's layer and has containerd know its
// configuration.
func (e *Engine) makeContainer(ctx context.Context, r *record, p *plan) ([]mount.Mount, error) {
	mounts, err := e.client.SnapshotService(snapshotter).Prepare(ctx, snapshotKey(r.ID), p.parent, rootLabels())
	if err != nil {
		return nil, containerdError(err, "make a file system")
	}
	spec, err := e.spec(ctx, r, p)
	if err != nil {
		return nil, err
	}
	packed, err := typeurl.MarshalAny(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the configuration: %w", err)
	}
	runtimeOptions, err := typeurl.MarshalAny(&options.Options{BinaryName: e.binaries.runc, Root: e.runcRoot()})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the runtime's options: %w", err)
	}
	_, err = e.client.ContainerService().Create(ctx, containers.Container{
		ID:          string(r.ID),
		Labels:      map[string]string{serverLabel: string(r.ID)},
		Spec:        packed,
		Snapshotter: snapshotter,
		SnapshotKey: snapshotKey(r.ID),
		Runtime:     containers.RuntimeInfo{Name: e.binaries.shim, Options: runtimeOptions},
	})
	if err != nil {
		return nil, containerdError(err, "make a container")
	}
	return mounts, nil
}

// writeOwnFiles writes what is mounted over the image's files of these names.
func (e *Engine) writeOwnFiles(r *record) error {
	var hosts strings.Builder
	fmt.Fprintf(&hosts, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s\t%s\n", r.Address, r.ID)
	for _, service := range r.Template.Connects {
		fmt.Fprintf(&hosts, "%s\t%s.kiln", e.nameAddress(service), service)
		if declared, here := strings.CutSuffix(service, "-"+r.Template.Environment); here && r.Template.Environment != "" {
			fmt.Fprintf(&hosts, "\t%s.kiln", declared)
		}
		hosts.WriteByte('\n')
	}
	resolve := resolvConf()
	if r.Trial {
		resolve = "# nothing is reached from here: an image is tried\n"
	}
	for name, content := range map[string]string{
		"hostname": string(r.ID) + "\n", "hosts": hosts.String(), "resolv.conf": resolve,
	} {
		if err := os.WriteFile(filepath.Join(e.serverDir(r.ID), name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("cannot write the server's %s: %w", name, err)
		}
	}
	return nil
}

// resolvConf is the machine's, without the name servers that only the machine
// can reach: those of its loopback.
func resolvConf() string {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		kept, servers := "", 0
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if len(words) >= 2 && words[0] == "nameserver" {
				if a, err := netip.ParseAddr(words[1]); err != nil || a.IsLoopback() || a.Is6() {
					continue
				}
				servers++
			}
			kept += line
		}
		if servers > 0 {
			return kept
		}
	}
	return "# the machine has no name server that servers can reach\n"
}

// startTask starts the server's process under a shim of its own: it is made, and runs
// nothing of the image before that is whole.
func (e *Engine) startTask(ctx context.Context, s *server, r *record, mounts []mount.Mount, whole func() error) error {
	logger := "binary://" + e.binaries.logger + "?" + loggerQuery(logfile.Args(e.logDir(r.ID), r.IDs+r.User.UID, r.IDs+r.User.GID))
	request := &tasks.CreateTaskRequest{ContainerID: string(r.ID), Stdout: logger, Stderr: logger}
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	service := e.client.TaskService()
	created, err := service.Create(ctx, request)
	if err != nil {
		return runtimeError(err)
	}
	main, err := identify(int(created.Pid), e.boot)
	if err != nil {
		return fmt.Errorf("cannot find the server's process: %w", err)
	}
	if err := e.takeBaseline(r.ID, main.PID); err != nil {
		return fmt.Errorf("cannot write down what the server was made with: %w", err)
	}
	parent, err := parentOf(main.PID)
	if err != nil {
		return fmt.Errorf("cannot find the server's shim: %w", err)
	}
	shim, err := identify(parent, e.boot)
	if err != nil {
		return fmt.Errorf("cannot find the server's shim: %w", err)
	}
	if err := whole(); err != nil {
		return err
	}
	if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: string(r.ID)}); err != nil {
		return runtimeError(err)
	}
	r = e.change(s, func(r *record) { r.Process, r.Shim, r.StartedAt = main, shim, time.Now().UTC() })
	if err := writeRecord(e.serverDir(r.ID), r); err != nil {
		return fmt.Errorf("cannot write the record: %w", err)
	}
	return nil
}
