package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"kiln/internal/model"
)

// Append stores the events behind event expectedSeq, all or none, and returns
// when they are durable. Each event carries its sequence number and the epoch.
//
// Conflict: another writer was first (a newer epoch, or other events behind
// expectedSeq). Unavailable: nothing was stored; it may work later. Internal:
// the writer must not go on, because the events cannot follow from the state,
// or because nobody knows whether they were stored; then every further append
// fails until the journal is opened again, which shows what became of them.
func (j *Journal) Append(ctx context.Context, epoch, expectedSeq uint64, events []model.Event) error {
	if err := ctx.Err(); err != nil {
		return model.Errorf(model.Unavailable, "cannot append to the journal: %w", err)
	}
	// What has begun is finished: a context that ends in the middle would make
	// the outcome unknown, and it takes milliseconds.
	ctx = context.WithoutCancel(ctx)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if err := j.refoldLocked(ctx); err != nil {
		return err
	}
	entries, err := j.ledger.admit(epoch, expectedSeq, events)
	if err != nil || len(entries) == 0 {
		return err
	}
	if err := j.storeLocked(ctx, entries); err != nil {
		return j.failLocked(entries, err)
	}
	close(j.changed)
	j.changed = make(chan struct{})
	if j.bare {
		j.retakeReserve()
	}
	j.snapshotIfDue(ctx)
	return nil
}

// storeLocked makes the entries durable, in the order the package describes.
func (j *Journal) storeLocked(ctx context.Context, entries []Entry) error {
	if err := j.opts.reach(stepAdmitted); err != nil {
		return err
	}
	err := j.store.insert(ctx, entries)
	if isFull(err) && j.giveUpReserve() {
		err = j.store.insert(ctx, entries)
	}
	if err != nil {
		return err
	}
	if err := j.opts.reach(stepCommitted); err != nil {
		return errors.Join(errUnknown, err)
	}
	if err := j.signDue(entries, nil); err != nil {
		return errors.Join(errUnknown, err)
	}
	if err := j.opts.reach(stepSigned); err != nil {
		return errors.Join(errUnknown, err)
	}
	last := entries[len(entries)-1]
	if err := j.headFile.write(Head{Seq: last.Event.Seq, Hash: last.Hash}); err != nil {
		return errors.Join(errUnknown, err)
	}
	if err := j.opts.reach(stepHead); err != nil {
		return errors.Join(errUnknown, err)
	}
	j.ledger.stored(entries)
	return nil
}

// failLocked turns an error of the store into the caller's, and stops further
// appends if nobody knows what was stored.
func (j *Journal) failLocked(entries []Entry, err error) error {
	first, last := entries[0].Event.Seq, entries[len(entries)-1].Event.Seq
	if !errors.Is(err, errUnknown) {
		return model.Errorf(model.Unavailable, "cannot append events %d to %d to the journal: %w", first, last, err).
			WithHint("Nothing was stored. Servers and traffic go on. Look at the disk that holds %s: is it full, or read-only?", j.dir)
	}
	j.failed = model.Errorf(model.Internal, "cannot append to the journal: it is unknown whether events %d to %d were stored: %w", first, last, err).
		WithHint("Start the daemon again: opening the journal shows what became of them.")
	return j.failed
}

// signDue signs the heads that are due within entries and not among those that
// are signed already.
func (j *Journal) signDue(entries []Entry, signed map[uint64]SignedHead) error {
	for _, e := range entries {
		if e.Event.Seq%signEvery != 0 {
			continue
		}
		if _, ok := signed[e.Event.Seq]; ok {
			continue
		}
		head := signHead(j.key, e)
		length, err := appendHead(j.dir, j.headsLength, head)
		if err != nil {
			return fmt.Errorf("cannot sign the head: %w", err)
		}
		j.headsLength = length
		j.growHeads()
		j.makeReserve()
		if j.opts.OnSignedHead != nil {
			j.opts.OnSignedHead(head)
		}
	}
	return nil
}

// refoldLocked brings the fold back to what is stored, after an append that
// was refused in the middle.
func (j *Journal) refoldLocked(ctx context.Context) error {
	if !j.ledger.ahead {
		return nil
	}
	start := snapshot{state: model.NewState()}
	if stored, found, err := j.store.snapshot(ctx); err == nil && found {
		if snap := decodeSnapshot(publicKey(j.key), j.build, stored); snap != nil && snap.head.Seq <= j.ledger.head.Seq {
			start = *snap
		}
	}
	at := start.head
	err := j.store.scan(ctx, at.Seq, int(j.ledger.head.Seq-at.Seq), func(_ uint64, hash, raw []byte) error {
		e, err := readEntry(hash, raw)
		if err != nil {
			return err
		}
		at = Head{Seq: e.Event.Seq, Hash: link(at.Hash, raw)}
		return start.state.Apply(e.Event)
	})
	if err == nil && at != j.ledger.head {
		err = fmt.Errorf("event %d is not the one that was acknowledged", at.Seq)
	}
	if err != nil {
		j.failed = model.Errorf(model.Internal, "cannot read the journal again: %w", err)
		return j.failed
	}
	j.ledger.state, j.ledger.ahead = start.state, false
	return nil
}

// snapshotIfDue stores a snapshot of the fold if the last one is old. Without
// it opening takes longer; nothing else depends on it.
func (j *Journal) snapshotIfDue(ctx context.Context) {
	head := j.ledger.head
	if j.build == "" || head.Seq < j.snapshotAt+j.opts.SnapshotEvery {
		return
	}
	j.snapshotAt = head.Seq // also if it fails: the next one is as good
	snap, err := encodeSnapshot(j.key, head, j.build, j.ledger.state)
	if err == nil {
		err = j.store.replaceSnapshot(ctx, snap)
	}
	if err == nil {
		err = j.opts.reach(stepSnapshot)
	}
	if err != nil {
		j.opts.Log.Warn("journal snapshot failed", "seq", head.Seq, "error", err)
	}
}

// readEntry decodes a stored event. The slices stay the caller's.
func readEntry(hash, raw []byte) (Entry, error) {
	var e Entry
	if copy(e.Hash[:], hash) != len(e.Hash) {
		return e, fmt.Errorf("a hash of %d bytes", len(hash))
	}
	e.Raw = append([]byte{}, raw...)
	return e, json.Unmarshal(raw, &e.Event)
}
