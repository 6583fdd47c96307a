package journal

import (
	"encoding/json"

	"kiln/internal/model"
)

// ledger is what every journal checks before it stores: the writer's epoch, the
// sequence, and that what is stored can be read back and folded. An event that
// cannot is refused now rather than at the next start.
type ledger struct {
	head  Head
	state *model.State // the fold up to head
	// ahead: state holds events that were not stored; it has to be folded
	// again from what is stored before it is used.
	ahead bool
}

// admit checks a batch, folds it and returns it as it is to be stored. After
// an error, or if the entries are not stored, the ledger may be ahead.
func (l *ledger) admit(epoch, expectedSeq uint64, events []model.Event) ([]Entry, error) {
	if epoch < l.state.Epoch {
		return nil, model.Errorf(model.Conflict, "cannot append to the journal as epoch %d: epoch %d has taken over", epoch, l.state.Epoch).
			WithHint("Another kiln daemon owns this journal now; this one has to end.")
	}
	if expectedSeq != l.head.Seq {
		return nil, model.Errorf(model.Conflict, "cannot append to the journal after event %d: its last is event %d", expectedSeq, l.head.Seq)
	}
	entries := make([]Entry, 0, len(events))
	prev := l.head
	for _, e := range events {
		entry, err := encode(prev, epoch, e)
		if err != nil {
			return nil, err
		}
		l.ahead = true
		if err := l.state.Apply(entry.Event); err != nil {
			return nil, model.Errorf(model.Internal, "cannot append to the journal: %w", err)
		}
		prev = Head{Seq: entry.Event.Seq, Hash: entry.Hash}
		entries = append(entries, entry)
	}
	return entries, nil
}

// stored tells that the entries of the last admit are stored.
func (l *ledger) stored(entries []Entry) {
	last := entries[len(entries)-1]
	l.head = Head{Seq: last.Event.Seq, Hash: last.Hash}
	l.ahead = false
}

// encode returns the event as it is stored after prev. The event of the entry
// is the one that was read back from the stored bytes.
func encode(prev Head, epoch uint64, e model.Event) (Entry, error) {
	if e.Data == nil {
		return Entry{}, model.Errorf(model.Internal, "cannot append event %d to the journal: it says nothing", e.Seq)
	}
	if e.Seq != prev.Seq+1 || e.Epoch != epoch {
		return Entry{}, model.Errorf(model.Internal, "cannot append event %d of epoch %d (%s) to the journal: event %d of epoch %d is due",
			e.Seq, e.Epoch, e.Data.Kind(), prev.Seq+1, epoch)
	}
	raw, err := e.MarshalJSON() // as json.Marshal, without its second look at the result
	if err != nil {
		return Entry{}, model.Errorf(model.Internal, "cannot encode event %d (%s): %w", e.Seq, e.Data.Kind(), err)
	}
	entry := Entry{Hash: link(prev.Hash, raw), Raw: raw}
	if err := entry.Event.UnmarshalJSON(raw); err != nil {
		return Entry{}, model.Errorf(model.Internal, "cannot read back event %d (%s): %w", e.Seq, e.Data.Kind(), err)
	}
	return entry, nil
}

// copyState returns a state that shares nothing with s.
func copyState(s *model.State) (*model.State, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot encode the state: %w", err)
	}
	return decodeState(b)
}

func decodeState(b []byte) (*model.State, error) {
	s := model.NewState()
	if err := json.Unmarshal(b, s); err != nil {
		return nil, model.Errorf(model.Internal, "cannot decode the state: %w", err)
	}
	return s, nil
}
