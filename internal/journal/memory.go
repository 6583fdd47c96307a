package journal

import (
	"context"
	"sync"

	"kiln/internal/model"
)

// Fault is a point of an append at which a simulation can make it fail.
type Fault string

// The faults of a Memory. After either, the outcome is unknown to the writer.
const (
	FaultBefore Fault = "before" // nothing is stored
	FaultAfter  Fault = "after"  // everything is stored, and not acknowledged
)

// Memory is a journal that lives in memory and makes the same checks. It reads
// no clock and starts no goroutine: what it does depends on its calls alone.
type Memory struct {
	mu      sync.Mutex
	entries []Entry
	ledger  ledger
	failed  error
	changed chan struct{}
	fault   func(at Fault, first, last uint64) error
}

// NewMemory returns an empty journal. fault is asked at each point of each
// append whether to fail there; nil: never.
func NewMemory(fault func(at Fault, first, last uint64) error) *Memory {
	if fault == nil {
		fault = func(Fault, uint64, uint64) error { return nil }
	}
	return &Memory{ledger: ledger{state: model.NewState()}, changed: make(chan struct{}), fault: fault}
}

// Append is as Journal.Append.
func (m *Memory) Append(ctx context.Context, epoch, expectedSeq uint64, events []model.Event) error {
	if err := ctx.Err(); err != nil {
		return model.Errorf(model.Unavailable, "cannot append to the journal: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return m.failed
	}
	if err := m.refoldLocked(); err != nil {
		return err
	}
	entries, err := m.ledger.admit(epoch, expectedSeq, events)
	if err != nil || len(entries) == 0 {
		return err
	}
	first, last := entries[0].Event.Seq, entries[len(entries)-1].Event.Seq
	if err := m.fault(FaultBefore, first, last); err != nil {
		return m.failLocked(first, last, err)
	}
	m.entries = append(m.entries, entries...)
	m.ledger.stored(entries)
	if err := m.fault(FaultAfter, first, last); err != nil {
		return m.failLocked(first, last, err)
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *Memory) failLocked(first, last uint64, err error) error {
	m.failed = model.Errorf(model.Internal, "cannot append to the journal: it is unknown whether events %d to %d were stored: %w", first, last, err)
	return m.failed
}

// Reopen is what closing a journal and opening it again is: after it the
// journal takes appends, and shows what became of those that failed.
func (m *Memory) Reopen() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = nil
	return m.refoldLocked()
}

func (m *Memory) refoldLocked() error {
	if !m.ledger.ahead {
		return nil
	}
	state := model.NewState()
	for _, e := range m.entries {
		if err := state.Apply(e.Event); err != nil {
			return model.Errorf(model.Internal, "cannot fold the journal: %w", err)
		}
	}
	m.ledger.state, m.ledger.ahead = state, false
	return nil
}

// Load is as Journal.Load.
func (m *Memory) Load(context.Context) (*model.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.refoldLocked(); err != nil {
		return nil, err
	}
	return copyState(m.ledger.state)
}

// Head is as Journal.Head.
func (m *Memory) Head() Head {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ledger.head
}

// Changed is as Journal.Changed.
func (m *Memory) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Events is as Journal.Events.
func (m *Memory) Events(_ context.Context, after uint64, limit int) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after >= uint64(len(m.entries)) || limit <= 0 {
		return nil, nil
	}
	rest := m.entries[after:]
	return append([]Entry{}, rest[:min(limit, len(rest))]...), nil
}

// Verify is as Journal.Verify. A journal in memory has no signed heads.
func (m *Memory) Verify(context.Context) (Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := newExaminer(0)
	for _, e := range m.entries {
		if err := x.row(e.Event.Seq, e.Hash[:], e.Raw); err != nil {
			return Report{}, err
		}
	}
	x.finish(nil)
	x.foldProblem()
	return x.report, nil
}

// Close is as Journal.Close.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = model.Errorf(model.Unavailable, "cannot append to the journal: %w", errClosed)
	return nil
}
