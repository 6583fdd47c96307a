package alert

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kiln/internal/model"
)

// journal is a journal in memory.
type journal struct {
	mu      sync.Mutex
	events  []Event
	changed chan struct{}
	failed  []model.AlertFailed
}

func newJournal() *journal { return &journal{changed: make(chan struct{})} }

// add appends an event of the kind.
func (j *journal) add(kind model.Kind, service string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	seq := uint64(len(j.events) + 1)
	j.events = append(j.events, Event{
		Instance: "abcdef", Key: fmt.Sprintf("abcdef-%d", seq), Seq: seq, Kind: kind, Service: service, At: time.Now(), Text: "it happened",
	})
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) Entries(_ context.Context, after uint64, limit int) ([]Event, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := min(int(after), len(j.events))
	return j.events[from:min(from+limit, len(j.events))], nil
}

func (j *journal) Head() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return uint64(len(j.events))
}

func (j *journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

func (j *journal) Failed(_ context.Context, f model.AlertFailed) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = append(j.failed, f)
	return nil
}

func (j *journal) failures() []model.AlertFailed {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]model.AlertFailed(nil), j.failed...)
}

// hook is a receiver on the loopback that keeps what it is told.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	seqs   []uint64
	kinds  []model.Kind
	keys   []string
	tries  int
	answer func(try int, w http.ResponseWriter) bool // false: it was not told
}

func newHook(t *testing.T) *hook {
	h := &hook{answer: func(int, http.ResponseWriter) bool { return true }}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e Event
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &e) != nil || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		h.mu.Lock()
		h.tries++
		try := h.tries
		answer := h.answer
		h.mu.Unlock()
		if !answer(try, w) {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seqs, h.kinds, h.keys = append(h.seqs, e.Seq), append(h.kinds, e.Kind), append(h.keys, r.Header.Get("Idempotency-Key"))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) told() []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]uint64(nil), h.seqs...)
}

// world is Alerts over a journal, with their files.
type world struct {
	t    *testing.T
	dir  string
	j    *journal
	a    *Alerts
	stop func()
}

func newWorld(t *testing.T, file string) *world {
	w := &world{t: t, dir: t.TempDir(), j: newJournal()}
	w.declare(file)
	return w
}

// declare writes the file; that it is another can be seen by its time.
func (w *world) declare(text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, "alerts.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// start runs Alerts, as a new daemon would.
func (w *world) start() {
	w.t.Helper()
	w.a = New(Config{
		Instance: "abcdef", File: filepath.Join(w.dir, "alerts.hcl"), Dir: filepath.Join(w.dir, "alerts"), Journal: w.j,
		Look: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.a.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

// receivers waits until so many are told.
func (w *world) receivers(n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("there are %d receivers", n), func() bool {
		all, _ := w.a.Standing()
		for _, s := range all {
			if _, err := os.Stat(filepath.Join(w.dir, "alerts", s.Name+".json")); err != nil {
				return false
			}
		}
		return len(all) == n
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}
