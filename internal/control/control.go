// Package control is the shell around reconcile: the only place where a
// decision becomes a call. It observes the world, asks reconcile, makes the
// events durable and folds them, carries the actions out, and observes again.
package control

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

// Journal makes events durable. An event is in force once Append has returned.
type Journal interface {
	Append(ctx context.Context, epoch, expectedSeq uint64, events []model.Event) error
}

// Router is every router of the instance.
type Router interface {
	// Apply gives the table to every live router and returns when each has
	// acknowledged it, or with the first refusal.
	Apply(ctx context.Context, table model.Table) error
	// Status asks every live router; silent counts those that did not answer.
	Status(ctx context.Context) (answered []model.RouterStatus, silent int, err error)
}

// Prober keeps the health of servers.
type Prober interface {
	Sync(targets []reconcile.ProbeTarget)
	Health() map[model.ServerID]model.HealthObserved
}

// Validator asks the validations of one server, in order, once.
type Validator interface {
	Validate(ctx context.Context, ref engine.Ref, t model.Template, address string, validations []model.Validation) error
}

// Recorder makes a death record durable, with what evidence there is, and
// returns it completed.
type Recorder interface {
	Write(ctx context.Context, record model.DeathRecord, alive, dead *engine.Evidence) (model.DeathRecord, error)
}

// Clock tells the time.
type Clock interface {
	Now() model.Now
}

// Drift keeps what the latest inspections of servers and fleet have found.
type Drift interface {
	Standing() model.Inspections
}

// Failed counts the requests to each server that failed, over all routers.
type Failed interface {
	Failed() map[model.ServerID]uint64
}

// Zones knows time zones by their IANA names; nil: it does not know this one.
type Zones interface {
	Zone(name string) *time.Location
}

// Disk looks at the room where kiln writes; nil: not known.
type Disk interface {
	Room() *model.Disk
}

// Trust says whether servers may be started from an image.
type Trust interface {
	// Trusted returns nil if they may, and else why not. Unavailable: that is not
	// known now.
	Trusted(ctx context.Context, image model.Digest) error
}

// Config is what a Control works with. State and Epoch are its own from then
// on: nobody else appends to the journal or folds into the state.
type Config struct {
	Engine    engine.Engine
	Journal   Journal
	Router    Router
	Prober    Prober
	Validator Validator
	Recorder  Recorder
	Clock     Clock
	Spawn     func(func())    // runs an action on its own
	Context   context.Context // of the actions: its end makes their outcome unknown; nil: they run to their deadlines
	State     *model.State
	Epoch     uint64
	Log       *slog.Logger

	// What is nil here is not observed.
	Drift  Drift
	Failed Failed
	Zones  Zones
	Disk   Disk
	Trust  Trust // nil: whatever is whole may be started
}

// Control drives one instance. Its methods may be called at once.
type Control struct {
	cfg  Config
	kick chan struct{}

	stepping sync.Mutex // one step at a time

	looked     chan struct{} // closed after the first step of Run
	lookedOnce sync.Once

	mu       sync.Mutex // guards what follows
	state    *model.State
	snapshot *model.Snapshot // the last complete one
	observed reconcile.Observation
	outcomes []reconcile.Outcome
	underWay map[reconcile.Key]bool
	holds    holds
	troubles []model.Trouble                     // that routers told of when they were last asked
	alive    map[model.ServerID]*engine.Evidence // collected before the end, until it is recorded
	changed  chan struct{}                       // closed at the next append
	mended   model.Instant                       // when the fleet was last mended: what was seen before says nothing any more
	broken   error                               // the state can no longer be trusted
}

// New returns a Control over the state that the journal folded to.
func New(cfg Config) *Control {
	if cfg.Context == nil {
		cfg.Context = context.Background()
	}
	return &Control{
		cfg: cfg, state: cfg.State, kick: make(chan struct{}, 1), looked: make(chan struct{}), changed: make(chan struct{}),
		underWay: map[reconcile.Key]bool{}, holds: holds{}, alive: map[model.ServerID]*engine.Evidence{},
	}
}

// Run steps until ctx ends or the state cannot be trusted any more. hints say
// that a step is worth while; without any it steps at least every second.
func (c *Control) Run(ctx context.Context, hints <-chan struct{}) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.kick:
		case <-hints:
		case <-timer.C:
		}
		wake, err := c.Step(ctx)
		c.lookedOnce.Do(func() { close(c.looked) })
		if broken := c.brokenErr(); broken != nil {
			return broken
		}
		if err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("step failed", "error", err)
		}
		timer.Reset(c.pause(wake))
	}
}

// Looked returns a channel that is closed when Run has seen what is for the
// first time: until then the state is what an earlier daemon saw last.
func (c *Control) Looked() <-chan struct{} { return c.looked }

// pause is how long to wait for a hint: at most a second, less when a
// deadline comes earlier.
func (c *Control) pause(wake model.Instant) time.Duration {
	const most, least = time.Second, 5 * time.Millisecond
	if wake == 0 {
		return most
	}
	return min(most, max(least, wake.Sub(c.cfg.Clock.Now().Elapsed)))
}

// Step does one round: observe, decide, write down, act. It returns when the
// next is due by time (0: not by time). The actions run on their own.
func (c *Control) Step(ctx context.Context) (model.Instant, error) {
	c.stepping.Lock()
	defer c.stepping.Unlock()
	obs, held := c.observe(ctx)
	decision, targets, err := c.decide(ctx, obs)
	if err != nil {
		return 0, err
	}
	if held != 0 && (decision.Wake == 0 || held < decision.Wake) {
		decision.Wake = held
	}
	c.cfg.Prober.Sync(targets)
	for _, a := range decision.Actions {
		c.cfg.Spawn(func() { c.finish(c.perform(c.cfg.Context, a)) })
	}
	return decision.Wake, nil
}

// observe takes what has ended first and looks afterwards: an action that
// ends in between still counts as under way, so that no observation is older
// than an outcome that is decided on. It returns when the next action that is
// held back comes free, too.
func (c *Control) observe(ctx context.Context) (reconcile.Observation, model.Instant) {
	c.mu.Lock()
	obs := reconcile.Observation{Outcomes: c.outcomes, UnderWay: make(map[reconcile.Key]bool, len(c.underWay))}
	c.outcomes = nil
	for k := range c.underWay {
		obs.UnderWay[k] = true
	}
	held := c.holds.active(obs.UnderWay, c.cfg.Clock.Now().Elapsed)
	obs.Failing = c.holds.failing()
	c.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	snapshot, err := c.cfg.Engine.Observe(ctx)
	if err != nil {
		c.cfg.Log.Warn("cannot observe the engine", "error", err)
	}
	obs.Snapshot = snapshot
	obs.Routers, obs.RoutersSilent, err = c.cfg.Router.Status(ctx)
	if err != nil {
		c.cfg.Log.Warn("cannot ask the routers", "error", err)
	}
	c.noteTroubles(obs.Routers)
	obs.Health = c.cfg.Prober.Health()
	c.observeUpkeep(&obs)
	return obs, held
}

// noteTroubles keeps what routers tell of, of several the same once.
func (c *Control) noteTroubles(routers []model.RouterStatus) {
	var all []model.Trouble
	for _, r := range routers {
		for _, t := range r.Troubles {
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
	}
	c.mu.Lock()
	c.troubles = all
	c.mu.Unlock()
}

// Troubles returns what keeps routers from serving what their table says, as
// they told when they were last asked. The caller does not change it.
func (c *Control) Troubles() []model.Trouble {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.troubles
}

// decide asks reconcile until nothing more has to be written down. It is told
// the same outcomes again: what stands in the state already has no other
// consequence.
func (c *Control) decide(ctx context.Context, obs reconcile.Observation) (reconcile.Decision, []reconcile.ProbeTarget, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rounds := 100 // far more than any state needs: a decision that never settles is a defect
	for _, svc := range c.state.Services {
		rounds += 4 * len(svc.Servers)
	}
	if obs.Snapshot != nil {
		c.snapshot = obs.Snapshot
	}
	c.observed = obs
	if c.broken != nil {
		return reconcile.Decision{}, nil, c.broken
	}
	for range rounds {
		now := c.cfg.Clock.Now()
		decision := reconcile.Step(c.state, obs, now)
		if len(decision.Events) == 0 {
			for _, a := range decision.Actions {
				c.underWay[a.Key] = true
			}
			return decision, reconcile.ProbeTargets(c.state), nil
		}
		if err := c.appendLocked(ctx, "kiln", now, decision.Events); err != nil {
			c.outcomes = append(obs.Outcomes, c.outcomes...)
			return reconcile.Decision{}, nil, err
		}
	}
	c.broken = model.Errorf(model.Internal, "cannot settle: reconcile still has events after %d rounds", rounds)
	return reconcile.Decision{}, nil, c.broken
}

// Command is a decision that a person asks for: reconcile's answer to it.
type Command func(s *model.State, snapshot *model.Snapshot, now model.Now) ([]model.Payload, error)

// Do carries a command out: when it returns nil the command is durable, and
// what follows from it goes on by itself.
func (c *Control) Do(ctx context.Context, actor string, command Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	now := c.cfg.Clock.Now()
	events, err := command(c.state, c.snapshot, now)
	if err != nil || len(events) == 0 {
		return err
	}
	if err := c.appendLocked(ctx, actor, now, events); err != nil {
		return err
	}
	c.Kick()
	return nil
}

// appendLocked makes events durable, folds them, and tells who waits.
func (c *Control) appendLocked(ctx context.Context, actor string, now model.Now, payloads []model.Payload) error {
	if c.broken != nil {
		return c.broken
	}
	events := make([]model.Event, len(payloads))
	for i, p := range payloads {
		events[i] = model.Event{
			Seq: c.state.Seq + uint64(i) + 1, Epoch: c.cfg.Epoch, At: now.Wall, Elapsed: now.Elapsed, Actor: actor, Data: p,
		}
	}
	// A client that goes away must not leave it open whether its command is
	// durable, so the append is not bound to its context.
	if err := c.cfg.Journal.Append(context.WithoutCancel(ctx), c.cfg.Epoch, c.state.Seq, events); err != nil {
		if code := model.CodeOf(err); code == model.Conflict || code == model.Internal {
			// Another daemon writes, or nobody knows what is stored: this one
			// must not act any more.
			c.broken = err
		}
		return err
	}
	for _, e := range events {
		if err := c.state.Apply(e); err != nil {
			c.broken = model.Errorf(model.Internal, "cannot fold what was just written: %w", err)
			return c.broken
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// View calls f with the state, which f must neither keep nor change.
func (c *Control) View(f func(s *model.State, snapshot *model.Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.state, c.snapshot)
}

// Observed returns what was observed last. It is not to be changed.
func (c *Control) Observed() reconcile.Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.observed
}

// Changed returns a channel that is closed at the next append. Take it before
// looking at the state.
func (c *Control) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Kick asks for a step soon.
func (c *Control) Kick() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *Control) brokenErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}
