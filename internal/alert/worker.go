package alert

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"kiln/internal/model"
)

// The pauses between tries, and how many tries an event has however old it is.
const (
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	fewestTries  = 3
	batch        = 256
	storeEvery   = 1000            // events that were passed over
	storeAgain   = 5 * time.Second // after a failure to write down how far the receiver was told
)

// worker tells one receiver, in a goroutine of its own.
type worker struct {
	receiver
	cursor  cursor
	journal Journal
	log     *slog.Logger
	stop    context.CancelFunc
	ended   chan struct{}

	mu      sync.Mutex // guards what follows
	status  Status
	trouble string // why it cannot be written down how far the receiver was told; "": it can
}

// Status is how a receiver stands.
type Status struct {
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`   // webhook or command
	Target    string    `json:"target"` // without what may be secret
	Events    []string  `json:"events"`
	Services  []string  `json:"services,omitempty"`
	Seq       uint64    `json:"seq"`       // told up to this event
	Behind    uint64    `json:"behind"`    // events after that which are still to be looked at
	Delivered uint64    `json:"delivered"` // since the daemon started
	Failed    uint64    `json:"failed"`    // given up since the daemon started
	LastAt    time.Time `json:"last_at,omitzero"`
	Tries     int       `json:"tries,omitempty"` // that have failed for the present event
	Error     string    `json:"error,omitempty"` // of the last try, while it fails
}

// run follows the journal until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer close(w.ended)
	seq := w.begin()
	passed := 0
	for ctx.Err() == nil {
		changed := w.journal.Changed()
		events, err := w.journal.Entries(ctx, seq, batch)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("cannot read the journal for alerts", "receiver", w.name, "error", err)
			pause(ctx, longestPause/10)
			continue
		}
		for _, e := range events {
			told := w.wants(e)
			if told && !w.deliver(ctx, e) {
				return
			}
			seq = e.Seq
			w.note(func(s *Status) { s.Seq = seq })
			if passed++; told || passed >= storeEvery {
				passed = 0
				w.store(seq)
			}
		}
		if len(events) == 0 {
			w.wait(ctx, changed, seq)
		}
	}
	w.store(seq)
}

// wait returns when the journal has changed or ctx has ended. What could not be
// written down meanwhile is tried again.
func (w *worker) wait(ctx context.Context, changed <-chan struct{}, seq uint64) {
	var again <-chan time.Time
	if w.lagging() != "" {
		again = time.After(storeAgain)
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-again:
		w.store(seq)
	}
}

// begin returns where to begin: after what it was told last, or for a new receiver
// after what is there. A journal that was restored may be shorter than what it was
// told.
func (w *worker) begin() uint64 {
	head := w.journal.Head()
	seq, known := w.cursor.load()
	if !known || seq > head {
		seq = head
		w.store(seq)
	}
	w.note(func(s *Status) { s.Seq = seq })
	return seq
}

// store writes down how far the receiver was told. A failure is said once, until
// it works again.
func (w *worker) store(seq uint64) {
	err := w.cursor.store(seq)
	w.mu.Lock()
	before := w.trouble
	w.trouble = ""
	if err != nil {
		w.trouble = err.Error()
	}
	w.mu.Unlock()
	switch {
	case err != nil && before == "":
		w.log.Warn("cannot write down how far a receiver has been told; it may be told again", "receiver", w.name, "error", err)
	case err == nil && before != "":
		w.log.Info("how far a receiver has been told is written down again", "receiver", w.name)
	}
}

// lagging says why it is not on disk how far the receiver was told; "": it is.
func (w *worker) lagging() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trouble
}

// deliver tries until the event is told or given up; false when ctx has ended first.
func (w *worker) deliver(ctx context.Context, e Event) bool {
	wait := firstPause
	for try := 1; ; try++ {
		err := w.send(ctx, e)
		if ctx.Err() != nil {
			return err == nil // it may be told again
		}
		if err == nil {
			w.note(func(s *Status) { s.Delivered, s.LastAt, s.Tries, s.Error = s.Delivered+1, time.Now().UTC(), 0, "" })
			return true
		}
		w.note(func(s *Status) { s.Tries, s.Error = try, err.Error() })
		if try == 1 {
			w.log.Warn("cannot deliver an alert; trying again", "receiver", w.name, "seq", e.Seq, "error", err)
		}
		if try >= fewestTries && time.Since(e.At) > w.giveUp {
			return w.give(ctx, e, try, err)
		}
		next := wait
		if l := (*later)(nil); errors.As(err, &l) {
			next = l.wait
		}
		pause(ctx, next)
		wait = min(2*wait, longestPause/5)
	}
}

// give writes down that the event could not be told.
func (w *worker) give(ctx context.Context, e Event, tries int, err error) bool {
	w.note(func(s *Status) { s.Failed++ })
	failed := model.AlertFailed{Name: w.name, Seq: e.Seq, Reason: err.Error()}
	w.log.Error("an alert is given up", "receiver", w.name, "seq", e.Seq, "tries", tries, "error", err)
	for {
		err := w.journal.Failed(ctx, failed)
		if err == nil {
			return true
		}
		w.log.Warn("cannot write down that an alert is given up", "receiver", w.name, "error", err)
		if pause(ctx, longestPause/10); ctx.Err() != nil {
			return false
		}
	}
}

func (w *worker) note(f func(*Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.status)
}

func (w *worker) standing() Status {
	head := w.journal.Head()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	s.Behind = head - min(head, s.Seq)
	return s
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
