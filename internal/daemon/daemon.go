// Package daemon builds, starts and stops everything that `kiln daemon` is
// made of, from one configuration.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"kiln/internal/alert"
	"kiln/internal/api"
	"kiln/internal/control"
	"kiln/internal/drift"
	"kiln/internal/engine/local"
	"kiln/internal/evidence"
	"kiln/internal/image"
	"kiln/internal/image/builder"
	"kiln/internal/journal"
	"kiln/internal/keeper"
	"kiln/internal/model"
	"kiln/internal/probe"
	"kiln/internal/registry"
	"kiln/internal/server"
	"kiln/internal/session"
	"kiln/internal/telemetry"
	"kiln/internal/vault"
)

// Config says where a daemon lives.
type Config struct {
	DataDir    string       // absolute; made if absent
	Socket     string       // of the API; "": kiln.sock in DataDir
	Version    string       // of this program
	Executable string       // of this program, for its other roles
	ServerNet  netip.Prefix // servers' addresses; zero: 198.18.0.0/16
	ServiceNet netip.Prefix // addresses of services' names; zero: 198.19.0.0/16
	Runtime    string       // another OCI runtime; "": the embedded runc
	// BuildMemory is the most that builds take together, in bytes; 0: half of
	// the machine's.
	BuildMemory   int64
	EvidenceBound int64         // bytes of what is kept of ended servers; 0: evidence's default
	EvidenceAge   time.Duration // how long it is kept; 0: evidence's default
	// MetricsListen is an address on which metrics are served, for reading
	// only; "": on the API's socket alone.
	MetricsListen     string
	MetricsRetention  time.Duration // 0: telemetry's default
	SigningKey        string        // what images are signed with; "": signing.key in DataDir, which is made where it is missing
	SigningPassphrase string        // the file with the key's passphrase; "": it has none
	Publish           string        // the registry into which what is built here is put for others; "": none
	PublishLogin      string        // a file with credentials of registries, as docker's config.json; "": those of the daemon's user
	RequireSignature  bool          // images from elsewhere start only if a key that is trusted has signed them
	RegistryFile      string        // how the registry is kept, and who else is served; "": registry.yml in DataDir
	AgeIdentity       string        // the file with what secrets in repositories are encrypted for; "": none
	AlertsFile        string        // declares who is told what; "": alerts.hcl in DataDir
	MetricsSize       int64         // bytes; 0: telemetry's default
	Manager           Manager       // that hears when the daemon is ready
	BootIDFile        string        // names the machine's boot; "": the kernel's
	// HandOver asks for the router to be handed over to a new process. That of
	// another build is without being asked.
	HandOver <-chan struct{}
	Log      *slog.Logger
}

// RunDir returns the run directory of the instance: sockets and state that a
// reboot ends.
func RunDir(id model.InstanceID) string { return filepath.Join("/run/kiln", string(id)) }

// daemon is one running daemon.
type daemon struct {
	cfg      Config
	instance model.InstanceID
	runDir   string
	claimed  *os.File // holds the instance on this machine
	journal  *journal.Journal
	state    *model.State
	epoch    uint64
	clock    clock

	engine    *local.Engine
	images    *image.Store
	prober    *probe.Prober
	evidence  *evidence.Store
	builds    *builds
	control   *control.Control
	sessions  *session.Runner
	retain    *control.Retention
	metrics   *telemetry.Telemetry
	drift     *drift.Watcher
	alerts    *alert.Alerts
	registry  *registry.Registry
	signer    *signer
	sources   *sources
	publisher *publisher
	vault     *vault.Vault
	values    values
	inside    inside
	checks    *checks

	registryFile *registry.File // nil: there is none
	running      sync.WaitGroup // actions, loops
}

// Run is the daemon: it returns nil when ctx has ended and everything that
// shall not outlive the daemon has ended too. ready is called once the API
// answers.
func Run(ctx context.Context, cfg Config, ready func()) error {
	if os.Geteuid() != 0 {
		return model.Errorf(model.Denied, "cannot start the daemon: it must run as root, since it makes namespaces, mounts and links").
			WithHint("sudo kiln daemon")
	}
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(cfg.DataDir, "kiln.sock")
	}
	if cfg.BootIDFile == "" {
		cfg.BootIDFile = kernelBootID
	}
	d := &daemon{cfg: cfg}
	if err := d.readRegistryFile(); err != nil {
		return err
	}
	if err := d.openVault(); err != nil {
		return err
	}
	if err := d.openPublisher(); err != nil {
		return err
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	defer d.close()
	if err := d.connect(ctx); err != nil {
		return err
	}
	if err := d.takeOver(ctx); err != nil {
		return err
	}
	return d.serve(ctx, ready)
}

// open makes the directories and opens what the instance is: its id and its
// journal. The journal's lock keeps a second daemon out.
func (d *daemon) open(ctx context.Context) error {
	if err := os.MkdirAll(d.cfg.DataDir, 0o711); err != nil {
		return model.Errorf(model.Unavailable, "cannot make the data directory: %w", err)
	}
	if err := journalThere(d.cfg.DataDir); err != nil {
		return err
	}
	j, err := journal.Open(filepath.Join(d.cfg.DataDir, "journal"), journal.Options{
		Log: d.cfg.Log,
		OnSignedHead: func(h journal.SignedHead) {
			d.cfg.Log.Info("journal head signed", "seq", h.Seq, "hash", h.Hash.String(), "signature", fmt.Sprintf("%x", h.Signature))
		},
	})
	if err != nil {
		return err
	}
	d.journal = j
	if d.state, err = j.Load(ctx); err != nil {
		return errors.Join(err, j.Close())
	}
	if err := d.identify(); err != nil {
		return errors.Join(err, j.Close())
	}
	if err := d.openSigner(); err != nil {
		return errors.Join(err, j.Close())
	}
	if d.clock, err = newClock(d.state, d.cfg.BootIDFile); err != nil {
		return errors.Join(err, j.Close())
	}
	return nil
}

// identify finds out which instance this is.
func (d *daemon) identify() error {
	id, err := instanceOf(d.cfg.DataDir, d.state.Instance)
	if err != nil {
		return err
	}
	if d.state.Instance != "" && d.state.Instance != id {
		return model.Errorf(model.Conflict, "cannot start: the journal is of instance %s, but %s says %s",
			d.state.Instance, filepath.Join(d.cfg.DataDir, "instance"), id).
			WithHint("put %q into that file", d.state.Instance)
	}
	d.instance, d.runDir = id, RunDir(id)
	if err := os.MkdirAll(d.runDir, 0o711); err != nil {
		return model.Errorf(model.Unavailable, "cannot make the run directory: %w", err)
	}
	// Servers are nobody on the machine and have to pass on the way to their
	// root file systems. An earlier version let nobody pass.
	if err := os.Chmod(filepath.Dir(d.runDir), 0o711); err != nil {
		return model.Errorf(model.Unavailable, "cannot let servers pass the run directory: %w", err)
	}
	return d.claim()
}

// connect sees to it that the processes of the instance run, and connects to
// them.
func (d *daemon) connect(ctx context.Context) (err error) {
	ec := local.Config{
		Instance: d.instance, DataDir: d.cfg.DataDir, RunDir: d.runDir,
		ServerNet: d.cfg.ServerNet, ServiceNet: d.cfg.ServiceNet, Runtime: d.cfg.Runtime, Vault: d.vault, Log: d.cfg.Log,
	}
	if err := d.ensureKeeper(ctx); err != nil {
		return err
	}
	if d.engine, err = local.New(ctx, ec); err != nil {
		return err
	}
	if d.images, err = image.Open(ctx, image.Config{Instance: d.instance, RunDir: d.runDir, DataDir: d.cfg.DataDir, Keys: d.publisher.keys, Log: d.cfg.Log}); err != nil {
		return err
	}
	if d.inside, err = d.openInside(); err != nil {
		return err
	}
	d.checks = newChecks(d)
	d.takeIn(ctx)
	d.complainOfImages(ctx)
	d.tidyVault(ctx)
	if d.evidence, err = evidence.Open(filepath.Join(d.cfg.DataDir, "evidence"), evidence.Options{
		Announce: d.announce, Logs: d.engine, History: chain{d.journal}, Metrics: hour{d}, Log: d.cfg.Log, Quota: d.cfg.EvidenceBound,
	}); err != nil {
		return err
	}
	d.prober = probe.New(probe.Config{
		Dialer: d.engine, Exec: d.engine, Now: func() model.Instant { return d.clock.Now().Elapsed }, Log: d.cfg.Log,
	})
	d.builds = &builds{
		client: builder.NewClient(d.runDir), executable: d.cfg.Executable,
		args:    d.builderArgs(),
		logPath: filepath.Join(d.cfg.DataDir, "builder.log"),
	}
	return nil
}

// builderArgs are the arguments that start a builder.
func (d *daemon) builderArgs() []string {
	args := append(roleArgs("builder", d.instance, d.cfg.DataDir, d.runDir), "--memory", strconv.FormatInt(d.cfg.BuildMemory, 10))
	if d.cfg.ServerNet.IsValid() {
		args = append(args, "--server-net", d.cfg.ServerNet.String())
	}
	return args
}

// takeOver raises the epoch: from here on no other daemon's writes count.
func (d *daemon) takeOver(ctx context.Context) error {
	d.epoch = d.state.Epoch + 1
	now := d.clock.Now()
	var news []model.Payload
	if d.state.Seq == 0 {
		news = append(news, model.InstanceCreated{Instance: d.instance})
	}
	news = append(news, model.DaemonStarted{Epoch: d.epoch, Version: d.cfg.Version, BootID: now.BootID, BootOffset: d.clock.offset})
	if d.state.Format < model.JournalFormat {
		news = append(news, model.JournalUpgraded{Format: model.JournalFormat, Version: d.cfg.Version})
	}
	news = append(news, d.adoptKey()...)
	if d.engine.IPForwardWasSet() {
		news = append(news, model.HostChanged{Setting: "net.ipv4.ip_forward", From: "0", To: "1"})
		d.cfg.Log.Warn("net.ipv4.ip_forward was 0 and is 1 now: servers need it to be reached and to reach others")
	}
	var events []model.Event
	for i, p := range news {
		events = append(events, model.Event{
			Seq: d.state.Seq + uint64(i) + 1, Epoch: d.epoch, At: now.Wall, Elapsed: now.Elapsed, Actor: "kiln", Data: p,
		})
	}
	if err := d.journal.Append(ctx, d.epoch, d.state.Seq, events); err != nil {
		return err
	}
	for _, e := range events {
		if err := d.state.Apply(e); err != nil {
			return model.Errorf(model.Internal, "cannot fold what was just written: %w", err)
		}
	}
	return nil
}

// serve runs the control loop and the API until ctx ends.
func (d *daemon) serve(ctx context.Context, ready func()) error {
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	failed := &failures{}
	d.drift = d.newDrift()
	d.control = control.New(control.Config{
		Engine: d.engine, Journal: d.journal, Router: newRouters(d.runDir), Prober: prober{d.prober, d.epoch},
		Validator: validator{d.engine}, Recorder: d.evidence, Clock: d.clock,
		Spawn: func(f func()) { d.running.Go(f) }, Context: work, State: d.state, Epoch: d.epoch, Log: d.cfg.Log,
		Failed: failed, Drift: d.drift, Zones: &zones{}, Trust: d.signer,
	})
	d.retain = d.newRetention()
	d.metrics = d.newMetrics(d.control)
	failed.metrics = d.metrics
	if err := d.newSessions(ctx); err != nil {
		return err
	}
	d.alerts = d.newAlerts()
	if err := d.openRegistry(work); err != nil {
		return err
	}
	listener, err := listen(d.cfg.Socket)
	if err != nil {
		return err
	}
	httpServer := &http.Server{
		Handler: d.handler(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return work },
		ErrorLog: slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelDebug), ConnContext: withPeer,
	}
	d.running.Go(func() { d.cfg.Manager.watch(work, d.cfg.Log, d.answers) })
	d.running.Go(func() { keeper.NewCopies(d.runDir, d.ensureKeeper, d.cfg.Log).Run(work) })
	d.running.Go(func() { d.handOver(work) })
	d.startRetention(work)
	d.startMetrics(work)
	d.running.Go(func() { d.drift.Run(work) })
	d.startAlerts(work)
	d.startRegistry(work)
	d.running.Go(func() {
		if err := d.control.Run(work, d.hints(work)); err != nil {
			stop(err)
		}
	})
	d.awaitFirstLook(work)
	d.running.Go(func() {
		if err := httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			stop(model.Errorf(model.Internal, "cannot serve the API: %w", err))
		}
	})
	d.cfg.Log.Info("kiln is ready", "instance", string(d.instance), "socket", d.cfg.Socket, "epoch", d.epoch, "version", d.cfg.Version)
	ready()
	d.cfg.Manager.tell(d.cfg.Log, "READY=1", "STATUS=instance "+string(d.instance)+", epoch "+strconv.FormatUint(d.epoch, 10))
	<-work.Done()
	d.cfg.Manager.tell(d.cfg.Log, "STOPPING=1")
	cause := context.Cause(work)
	d.stop(ctx, httpServer)
	if errors.Is(cause, context.Canceled) {
		return nil
	}
	return cause
}

// firstLook is how long clients wait at most for what the daemon sees first.
const firstLook = 5 * time.Second

// awaitFirstLook waits until the state says what is, and not what an earlier
// daemon saw last: before a reboot, for one. Clients wait meanwhile.
func (d *daemon) awaitFirstLook(ctx context.Context) {
	select {
	case <-d.control.Looked():
	case <-time.After(firstLook):
	case <-ctx.Done():
	}
}

func (d *daemon) handler() http.Handler {
	return server.New(server.Config{
		Inputs:  inputs{d.images},
		Version: api.Version{Version: d.cfg.Version, Instance: d.instance, PID: os.Getpid(), Epoch: d.epoch},
		Control: d.control, Observer: d.control, Clock: d.clock, Engine: d.engine, Logs: d.engine, History: history{d.journal},
		Images: images{d.images}, Builder: &seal{Builder: d.builds, store: d.images}, Evidence: d.evidence, Archives: archives{d.evidence}, Verifier: d.drift,
		Backups: backups{d.source(d.journal)}, Sessions: d.sessions, Metrics: d.metrics.Handler(), Alerts: alerts{d.alerts, d.cfg.AlertsFile},
		Registry: d.registry.Handler(), Signer: d.signer, Word: d.signer, Witness: d.signer, Keys: d.signer, Bringer: d.publisher, Values: d.values, Contents: d.inside, Checks: d.checks, Lists: d.checks.lists, Sources: d.sources,
		Retention: d.retain, Admission: d.retain, Rooms: rooms(d.cfg.DataDir), Troubles: d.troubles, Log: d.cfg.Log,
	})
}

// troubles are what is not kept, for people to know: traffic goes on without it.
func (d *daemon) troubles() []string {
	all := d.alerts.Troubles()
	if t := d.metrics.Trouble(); t != "" {
		all = append(all, t)
	}
	return all
}

// hints merges what says that a step is worth while.
func (d *daemon) hints(ctx context.Context) <-chan struct{} {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	}
	for _, source := range []<-chan struct{}{d.engine.Watch(ctx), d.prober.Changes(), d.drift.Changes()} {
		d.running.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case _, open := <-source:
					if !open {
						return
					}
					hint()
				}
			}
		})
	}
	return hints
}

// stop ends the daemon's own: servers and traffic go on. Where no service is
// declared any more it ends everything of the instance.
func (d *daemon) stop(ctx context.Context, httpServer *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	grace, cut := context.WithTimeout(ctx, time.Second)
	defer cut()
	if httpServer.Shutdown(grace) != nil {
		_ = httpServer.Close() // streams that nobody ends
	}
	d.sessions.Wait(ctx)
	d.running.Wait()
	d.prober.Close()
	d.builds.stop()
	if !d.idle() {
		d.cfg.Log.Info("the daemon ends; servers and traffic go on")
		return
	}
	d.cfg.Log.Info("no service is declared: everything of the instance ends", "instance", string(d.instance))
	d.endInstance(ctx)
}

// idle reports whether no service is declared and no server is left.
func (d *daemon) idle() bool {
	idle := true
	d.control.View(func(s *model.State, _ *model.Snapshot) {
		for _, svc := range s.Services {
			idle = idle && svc.Destroyed && len(svc.Servers) == 0
		}
	})
	return idle
}

// close releases what the daemon holds.
func (d *daemon) close() {
	if d.images != nil {
		_ = d.images.Close()
	}
	if d.engine != nil {
		_ = d.engine.Close()
	}
	_ = d.claimed.Close() // a lock, nothing was written late
	if err := d.journal.Close(); err != nil {
		d.cfg.Log.Error("cannot close the journal", "error", err)
	}
}

// listen opens the API's socket. Nobody else can hold it: the journal's lock
// is ours, so what is there is a dead daemon's.
func listen(path string) (net.Listener, error) {
	const longest = 107 // struct sockaddr_un, unix(7)
	if len(path) > longest {
		return nil, model.Errorf(model.Invalid, "cannot listen on %s: a socket's path has at most %d bytes, this has %d", path, longest, len(path)).
			WithHint("choose a shorter one: --socket /run/kiln.sock")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot make the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, model.Errorf(model.Unavailable, "cannot remove the old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
