package alert

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"kiln/internal/model"
)

// Journal is what receivers are told of.
type Journal interface {
	// Entries returns at most limit events after the sequence number.
	Entries(ctx context.Context, after uint64, limit int) ([]Event, error)
	// Head is the number of the last event; Changed is closed at the next.
	Head() uint64
	Changed() <-chan struct{}
	// Failed writes down that an alert could not be delivered.
	Failed(ctx context.Context, failed model.AlertFailed) error
}

// Config is what Alerts works with.
type Config struct {
	Instance model.InstanceID
	File     string // declares the receivers; absent: there are none
	Dir      string // of the cursors; made if absent
	Journal  Journal
	Look     time.Duration // how often the file is looked at; 0: 2 s
	Log      *slog.Logger
}

// Alerts tells receivers.
type Alerts struct {
	cfg Config

	mu      sync.Mutex // guards what follows
	workers map[string]*worker
	err     error // of the file, when it was last read
}

// New returns Alerts that tell nobody until they run.
func New(cfg Config) *Alerts {
	if cfg.Look == 0 {
		cfg.Look = 2 * time.Second
	}
	return &Alerts{cfg: cfg, workers: map[string]*worker{}}
}

// Run tells receivers until ctx ends. It follows changes of the file; while that
// is wrong, what was right before holds.
func (a *Alerts) Run(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return model.Errorf(model.Unavailable, "cannot keep alerts: %w", err)
	}
	look := time.NewTicker(a.cfg.Look)
	defer look.Stop()
	taken := stampOf(a.cfg.File)
	a.read(ctx)
	for last := taken; ; {
		// A file that is being written is not taken up before it stays as it is:
		// half of it would make receivers go, and with them their places.
		now := stampOf(a.cfg.File)
		if now == last && now != taken {
			taken = now
			a.read(ctx)
		}
		last = now
		select {
		case <-ctx.Done():
			a.mu.Lock()
			workers := a.workers
			a.workers = map[string]*worker{}
			a.mu.Unlock()
			for _, w := range workers {
				w.end()
			}
			return nil
		case <-look.C:
		}
	}
}

// stamp tells one content of a file from another.
type stamp struct {
	at   time.Time
	size int64
	mode os.FileMode
}

func stampOf(file string) stamp {
	st, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{st.ModTime(), st.Size(), st.Mode()}
}

// read takes up what the file says.
func (a *Alerts) read(ctx context.Context) {
	declared, err := readConfig(a.cfg.File)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	if err != nil {
		a.cfg.Log.Error("cannot take up the alerts; what was declared before holds", "error", err, "hint", model.HintOf(err))
		return
	}
	next := map[string]*worker{}
	for _, r := range declared {
		if w := a.workers[r.name]; w != nil && reflect.DeepEqual(w.receiver, r) {
			next[r.name] = w
		}
	}
	for name, w := range a.workers {
		if next[name] != w {
			w.end()
		}
	}
	if err := forget(a.cfg.Dir, declared); err != nil {
		a.cfg.Log.Warn("cannot forget receivers that are gone", "error", err)
	}
	for _, r := range declared {
		if next[r.name] == nil {
			next[r.name] = a.start(ctx, r)
		}
	}
	a.workers = next
	if len(declared) > 0 {
		a.cfg.Log.Info("alerts are told", "receivers", len(declared))
	}
}

func (a *Alerts) start(ctx context.Context, r receiver) *worker {
	ctx, stop := context.WithCancel(ctx)
	w := &worker{
		receiver: r, cursor: cursorOf(a.cfg.Dir, r.name), journal: a.cfg.Journal, log: a.cfg.Log, stop: stop, ended: make(chan struct{}),
		status: Status{Name: r.name, Kind: r.kind(), Target: r.target(), Events: r.events, Services: r.services},
	}
	go w.run(ctx)
	return w
}

// end stops the worker and waits for it.
func (w *worker) end() {
	w.stop()
	<-w.ended
}

// Standing returns how every receiver stands, by name, and what is wrong with the
// file.
func (a *Alerts) Standing() ([]Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []Status{}
	for _, w := range a.workers {
		all = append(all, w.standing())
	}
	slices.SortFunc(all, func(x, y Status) int { return cmp.Compare(x.Name, y.Name) })
	return all, a.err
}

// Troubles says of which receivers it cannot be written down how far they were told.
func (a *Alerts) Troubles() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for _, w := range a.workers {
		if why := w.lagging(); why != "" {
			all = append(all, "cannot write down how far receiver "+w.name+" of alerts has been told; it may be told again: "+why)
		}
	}
	slices.Sort(all)
	return all
}

// Tested is what came of a test call.
type Tested struct {
	Name   string `json:"name"`
	TookMS int64  `json:"took_ms"`
	Error  string `json:"error,omitempty"` // "": it was acknowledged
}

// Test tells the receiver of the name, or with "" every one, that this is a test:
// once each.
func (a *Alerts) Test(ctx context.Context, name string, by string) ([]Tested, error) {
	a.mu.Lock()
	var chosen []receiver
	var names []string
	for _, w := range a.workers {
		names = append(names, w.name)
		if name == "" || w.name == name {
			chosen = append(chosen, w.receiver)
		}
	}
	wrong := a.err
	a.mu.Unlock()
	slices.Sort(names)
	if len(chosen) == 0 {
		err := model.Errorf(model.NotFound, "cannot test alerts: there is no receiver %q", name)
		switch {
		case wrong != nil:
			return nil, wrong
		case name == "":
			err = model.Errorf(model.NotFound, "cannot test alerts: no receiver is declared")
			return nil, err.WithHint("declare one in %s: docs/alerts.md shows how", a.cfg.File)
		case len(names) > 0:
			return nil, err.WithHint("there are: %s", strings.Join(names, ", "))
		}
		return nil, err
	}
	now := time.Now().UTC()
	e := Event{
		Instance: a.cfg.Instance, Key: string(a.cfg.Instance) + "-test-" + now.Format(time.RFC3339Nano), Kind: TestKind, At: now, Actor: by,
		Text: "This is a test of kiln's alerts, asked for by " + cmp.Or(by, "somebody") + ".",
	}
	out := make([]Tested, len(chosen))
	var all sync.WaitGroup
	for i, r := range chosen {
		all.Go(func() {
			began := time.Now()
			err := r.send(ctx, e)
			out[i] = Tested{Name: r.name, TookMS: time.Since(began).Milliseconds()}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	all.Wait()
	slices.SortFunc(out, func(x, y Tested) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}
