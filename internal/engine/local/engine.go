package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kiln/internal/engine"
	"kiln/internal/engine/local/exitfile"
	"kiln/internal/model"
)

// An Engine is everything the port offers, and what the optional interfaces do.
var (
	_ engine.Engine  = (*Engine)(nil)
	_ engine.Watcher = (*Engine)(nil)
	_ engine.Dialer  = (*Engine)(nil)
	_ engine.Logger  = (*Engine)(nil)
	_ engine.Closer  = (*Engine)(nil)
	_ engine.Shells  = (*Engine)(nil)
	_ engine.Differ  = (*Engine)(nil)

	_ engine.Inspector = (*Engine)(nil)
	_ engine.Sentinel  = (*Engine)(nil)
	_ engine.Mender    = (*Engine)(nil)
)

// Engine runs servers on this machine.
type Engine struct {
	Config
	client   *client.Client
	binaries binaries
	boot     string
	network  *network
	hints    hints
	plans    planCache
	own      own
	drift    drift

	lifetime context.Context // of the goroutines that watch servers
	end      context.CancelFunc
	watchers sync.WaitGroup

	locks  keyedLocks    // one mutation of a server at a time
	starts chan struct{} // holds one for each server that is being started

	disturbances disturbances

	mounting sync.Mutex // held while the file system of secrets is mounted

	mu      sync.Mutex
	epoch   uint64
	servers map[model.ServerID]*server
}

// server is a server as the engine that observes it knows it.
type server struct {
	record *record       // guarded by Engine.mu; the value is immutable
	exited chan struct{} // closed when record.Exit is set
	reaped chan struct{} // closed when containerd has nothing of the process any more
	stats  *engine.Stats // guarded by Engine.mu; the last sample
}

// New opens the engine of the instance: it waits until containerd answers, finds
// the servers that are there, and removes what an interrupted call left.
func New(ctx context.Context, c Config) (*Engine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{Config: c, servers: map[model.ServerID]*server{}, starts: make(chan struct{}, startsAtOnce())}
	e.lifetime, e.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.open(ctx); err != nil {
		return nil, e.fail(err)
	}
	return e, nil
}

// startsAtOnce is how many servers are started at a time: a start waits for the
// disk and for other processes now and then, but two hundred at once would only
// take each other's memory and time.
func startsAtOnce() int { return 2*runtime.NumCPU() + 1 }

// fail closes what was opened and passes the error on.
func (e *Engine) fail(err error) error {
	if closing := e.Close(); closing != nil {
		e.Log.Warn("cannot close the engine", "error", closing)
	}
	return err
}

func (e *Engine) open(ctx context.Context) error {
	var err error
	if e.boot, err = bootID(); err != nil {
		return fmt.Errorf("cannot read the machine's boot id: %w", err)
	}
	for _, dir := range []string{e.serversDir(), e.logsDir(), e.netnsDir(), e.usernsDir(), e.mountsDir(), e.execDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make a directory of the engine: %w", err)
		}
	}
	if err := e.letServersPass(); err != nil {
		return err
	}
	if e.binaries, err = unpack(filepath.Join(e.DataDir, "bin")); err != nil {
		return fmt.Errorf("cannot unpack what servers run under: %w", err)
	}
	if e.Runtime != "" {
		e.binaries.runc = e.Runtime
	}
	if e.epoch, err = e.readEpoch(); err != nil {
		return err
	}
	if e.client, err = e.connect(ctx); err != nil {
		return err
	}
	records, strays, err := readRecords(e.serversDir())
	if err != nil {
		return fmt.Errorf("cannot read the servers' records: %w", err)
	}
	if e.network, err = openNetwork(e.Config, records); err != nil {
		return err
	}
	if err := e.recover(ctx, records, strays); err != nil {
		return err
	}
	e.removeOldBinaries(ctx)
	e.removeDrafts()
	return nil
}

// connect returns a client of containerd that has been answered.
func (e *Engine) connect(ctx context.Context) (*client.Client, error) {
	c, err := client.New(e.socket(),
		client.WithDefaultNamespace(e.namespace()),
		client.WithExtraDialOpts([]grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// A containerd that was restarted is found again at once.
			Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.1, MaxDelay: 250 * time.Millisecond},
		})}),
		client.WithCallOpts([]grpc.CallOption{grpc.WaitForReady(true)}))
	if err != nil {
		return nil, fmt.Errorf("cannot reach containerd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.Connect)
	defer cancel()
	_, err = c.Version(ctx)
	for ctx.Err() == nil && status.Code(err) == codes.Unavailable { // it is just starting: what it had accepted may be cut off
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
			_, err = c.Version(ctx)
		}
	}
	if err != nil {
		_ = c.Close()
		return nil, model.Errorf(model.Unavailable, "cannot reach containerd at %s within %s: %w", e.socket(), e.Connect, err).
			WithHint("see the keeper's log for what containerd says")
	}
	if err := e.ensureNamespace(ctx, c); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the watching. Servers go on.
func (e *Engine) Close() error {
	e.end()
	e.watchers.Wait()
	e.undisturbAll()
	if e.client == nil {
		return nil
	}
	return e.client.Close()
}

// recover takes over the servers that are recorded.
func (e *Engine) recover(ctx context.Context, records []*record, strays []string) error {
	e.unmountLeftovers()
	e.killLeftoverExecs()
	if err := e.undisturbLeftovers(records); err != nil {
		return err
	}
	for _, r := range records {
		if r.StartedAt.IsZero() || r.Trial {
			// The engine ended while it made this one; nobody was told of it. Whoever
			// made a trial has ended with it.
			strays = append(strays, string(r.ID))
			continue
		}
		e.adopt(r) //nolint:contextcheck // it is watched as long as the engine is open
	}
	for _, name := range strays {
		if !model.ValidServerID(name) {
			continue
		}
		e.Log.Info("removing what an interrupted call left", "server", name)
		if err := e.remove(ctx, model.ServerID(name)); err != nil {
			e.Log.Warn("cannot remove what an interrupted call left", "server", name, "error", err)
		}
	}
	if err := e.network.names.update(e.records, nil); err != nil {
		e.Log.Warn("not every service's name has its address", "error", err)
	}
	return e.sweep(ctx)
}

// adopt takes over a server that was started, by this engine or one before it.
func (e *Engine) adopt(r *record) {
	s := &server{record: r, exited: make(chan struct{}), reaped: make(chan struct{})}
	if err := e.endWritings(r.ID); err != nil {
		e.Log.Warn("cannot note that a session has ended", "server", r.ID, "error", err)
	}
	e.mu.Lock()
	e.servers[r.ID] = s
	e.mu.Unlock()
	if r.Exit != nil {
		close(s.exited)
	} else if !r.Process.runs(e.boot) {
		// It ended while nobody looked: its exit file says how, if anything.
		if exit := exitfile.Read(e.exitFile(r.ID)); exit != nil {
			e.setExit(s, exit)
		} else if r.Process.Boot != e.boot || !r.Shim.runs(e.boot) {
			e.setExit(s, &model.Exit{})
		}
	}
	e.watchers.Go(func() { e.watch(s) })
}

// begin admits a mutation: it waits for its turn and refuses the writer that was
// replaced. The caller calls the function it returns when it is done.
func (e *Engine) begin(ctx context.Context, ref engine.Ref) (func(), error) {
	if !model.ValidServerID(string(ref.ID)) {
		return nil, model.Errorf(model.Invalid, "%q is no server id", ref.ID)
	}
	unlock, err := e.locks.lock(ctx, ref.ID)
	if err != nil {
		return nil, fmt.Errorf("cannot wait for an earlier change of %s: %w", ref.ID, err)
	}
	if err := e.admit(ref.Epoch); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// admit remembers the highest epoch before anything is done under it.
func (e *Engine) admit(epoch uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case epoch < e.epoch:
		return model.Errorf(model.Conflict, "a writer of epoch %d has taken over from epoch %d", e.epoch, epoch)
	case epoch == e.epoch:
		return nil
	}
	if err := writeFile(e.epochFile(), strconv.AppendUint(nil, epoch, 10), true); err != nil {
		return fmt.Errorf("cannot write the epoch down: %w", err)
	}
	e.epoch = epoch
	return nil
}

func (c Config) epochFile() string { return filepath.Join(c.serversDir(), "epoch") }

func (e *Engine) readEpoch() (uint64, error) {
	b, err := os.ReadFile(e.epochFile())
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the epoch: %w", err)
	}
	epoch, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read the epoch: %w", err)
	}
	return epoch, nil
}

// records returns the records of the servers that there are.
func (e *Engine) records() []*record {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*record, 0, len(e.servers))
	for _, s := range e.servers {
		all = append(all, s.record)
	}
	return all
}

// lookup returns the server and its record, or nil.
func (e *Engine) lookup(id model.ServerID) (*server, *record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.servers[id]
	if s == nil {
		return nil, nil
	}
	return s, s.record
}

// change replaces the server's record by a copy that edit has changed.
func (e *Engine) change(s *server, edit func(*record)) *record {
	e.mu.Lock()
	r := *s.record
	edit(&r)
	s.record = &r
	e.mu.Unlock()
	e.drift.changes.Add(1)
	e.hints.give()
	return &r
}

// Watch implements engine.Watcher.
func (e *Engine) Watch(ctx context.Context) <-chan struct{} { return e.hints.subscribe(ctx) }
