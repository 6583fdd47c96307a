package telemetry

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// Clock tells the time.
type Clock interface {
	Now() model.Now
}

// Config is what a Telemetry works with.
type Config struct {
	Dir       string // of the database; made if absent
	Meter     engine.Meter
	Traffic   Traffic
	State     State
	Clock     Clock
	Version   string
	Every     time.Duration // from one collection to the next; 0: DefaultEvery
	Retention time.Duration // how long samples are kept; 0: DefaultRetention
	MaxBytes  int64         // how much room they may take; 0: DefaultMaxBytes
	Log       *slog.Logger
}

// The defaults.
const (
	DefaultEvery     = 10 * time.Second
	DefaultRetention = 15 * 24 * time.Hour
	DefaultMaxBytes  = 1 << 30
)

// Bounds of what one question may cost.
const (
	queryTimeout  = 30 * time.Second
	querySamples  = 2_000_000
	queriesAtOnce = 4
	lookback      = time.Minute // how long a sample stands for the present
)

// fresh is how young a collection has to be to answer another who asks.
const fresh = time.Second

// Telemetry keeps the metrics of one instance.
type Telemetry struct {
	cfg     Config
	engine  *promql.Engine
	store   atomic.Pointer[store] // nil until it is opened, and once it is closed
	asking  chan struct{}         // a place for each question
	jumped  atomic.Int64          // model.Instant when the wall clock was last seen to jump
	opening sync.RWMutex          // held for reading by those who ask, for writing by whoever closes

	mu        sync.Mutex // guards what follows: one collection at a time
	collector collector
	last      *families
	lastAt    time.Time
	failing   atomic.Pointer[string] // why the last collection could not be kept; nil: it was
}

// New returns a Telemetry, which keeps nothing until it runs.
func New(cfg Config) *Telemetry {
	if cfg.Every == 0 {
		cfg.Every = DefaultEvery
	}
	if cfg.Retention == 0 {
		cfg.Retention = DefaultRetention
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	return &Telemetry{
		cfg:    cfg,
		asking: make(chan struct{}, queriesAtOnce),
		engine: promql.NewEngine(promql.EngineOpts{
			Logger: quiet(cfg.Log), MaxSamples: querySamples, Timeout: queryTimeout, LookbackDelta: lookback,
			EnableAtModifier: true, EnableNegativeOffset: true,
		}),
		collector: collector{
			meter: cfg.Meter, traffic: cfg.Traffic, state: cfg.State, version: cfg.Version, since: cfg.Clock.Now().Wall,
		},
	}
}

// Run opens the database and keeps metrics until ctx ends. Without a database it
// returns an error, and what is asked of the present is still answered.
func (t *Telemetry) Run(ctx context.Context) error {
	st, err := t.open(ctx)
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot keep metrics: %w", err)
	}
	if st == nil {
		return nil
	}
	t.store.Store(st)
	tick := time.NewTicker(t.cfg.Every)
	defer tick.Stop()
	for {
		t.keep(ctx, st)
		select {
		case <-ctx.Done():
			t.opening.Lock() // those who ask have their answer first
			defer t.opening.Unlock()
			t.store.Store(nil)
			if err := st.close(); err != nil {
				return model.Errorf(model.Unavailable, "cannot close the metrics: %w", err)
			}
			return nil
		case <-tick.C:
		}
	}
}

// open returns the database; nil when ctx has ended before there was room for it.
func (t *Telemetry) open(ctx context.Context) (*store, error) {
	again := time.NewTicker(t.cfg.Every)
	defer again.Stop()
	for {
		st, err := openStore(t.cfg.Dir, t.cfg.Retention, t.cfg.MaxBytes, t.clockJumped, t.cfg.Log)
		if !full(err) {
			return st, err
		}
		t.note([]error{err})
		select {
		case <-ctx.Done():
			return nil, nil
		case <-again.C:
		}
	}
}

// clockJumped reports whether the wall clock has jumped within the hour: until
// then nothing is deleted for its age.
func (t *Telemetry) clockJumped() bool {
	at := model.Instant(t.jumped.Load())
	return at != 0 && t.cfg.Clock.Now().Elapsed.Sub(at) < time.Hour
}

// keep collects once and appends. A failure is said once, until it works again.
func (t *Telemetry) keep(ctx context.Context, st *store) {
	t.cfg.State.View(func(s *model.State, _ *model.Snapshot) { t.jumped.Store(int64(s.ClockJumped)) })
	t.mu.Lock()
	defer t.mu.Unlock()
	fs, errs := t.collectLocked(ctx, 0)
	if ctx.Err() != nil {
		return
	}
	if err := st.append(ctx, t.cfg.Clock.Now().Wall, fs); err != nil {
		errs = append(errs, err)
	}
	t.note(errs)
}

// note remembers what went wrong, and says it once.
func (t *Telemetry) note(errs []error) {
	var now *string
	if len(errs) > 0 {
		why := "cannot keep all metrics: " + errs[0].Error()
		now = &why
	}
	switch before := t.failing.Swap(now); {
	case now != nil && before == nil:
		t.cfg.Log.Warn("cannot keep all metrics", "error", errs[0])
	case now == nil && before != nil:
		t.cfg.Log.Info("metrics are kept again")
	}
}

// Trouble says why metrics are not kept, not all of them; "": they are.
func (t *Telemetry) Trouble() string {
	if why := t.failing.Load(); why != nil {
		return *why
	}
	return ""
}

// collectLocked returns what there is now, at most age old.
func (t *Telemetry) collectLocked(ctx context.Context, age time.Duration) (*families, []error) {
	if t.last != nil && time.Since(t.lastAt) < age {
		return t.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Every)
	defer cancel()
	fs, errs := t.collector.collect(ctx)
	t.last, t.lastAt = fs, time.Now()
	return fs, errs
}

// Text returns the present values in Prometheus' text format.
func (t *Telemetry) Text(ctx context.Context) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	fs, _ := t.collectLocked(ctx, fresh)
	return fs.text()
}

// Failed returns how many requests to each server have failed, over all routers.
func (t *Telemetry) Failed(ctx context.Context) (map[model.ServerID]uint64, error) {
	traffic, err := t.cfg.Traffic.Traffic(ctx)
	if err != nil {
		return nil, err
	}
	failed := map[model.ServerID]uint64{}
	for _, r := range traffic {
		for _, c := range r.Counters {
			failed[c.Server] += c.Failed()
		}
	}
	return failed, nil
}

// Hour returns what was measured of the server in the last hour, as Prometheus'
// JSON: {"resultType": "matrix", "result": [{"metric": {…}, "values": [[t, "v"], …]}, …]}.
func (t *Telemetry) Hour(ctx context.Context, server model.ServerID) ([]byte, error) {
	matcher := `{server="` + string(server) + `"}`
	if _, err := parser.ParseExpr(matcher); err != nil {
		return nil, model.Errorf(model.Invalid, "cannot look for the metrics of %q: that is no server's name", server)
	}
	end := t.cfg.Clock.Now().Wall
	answer, err := t.Query(ctx, matcher+"[1h]", end)
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}
