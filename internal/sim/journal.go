package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"kiln/internal/model"
)

// journal is a journal in memory. It folds what it stores into a state of its
// own: what a replay gives. Every few runs each event goes through its stored
// bytes, which takes most of a run's time.
type journal struct {
	coded  bool // events go through their stored bytes
	stored []model.Event
	epoch  uint64
	replay *model.State
	before func() error                             // a fault before anything is stored
	after  func() error                             // a fault after everything is stored
	noted  func(e model.Event, before *model.State) // is told of every event before it is folded
}

func newJournal(coded bool) *journal { return &journal{coded: coded, replay: model.NewState()} }

// Append implements control.Journal.
func (j *journal) Append(_ context.Context, epoch, expectedSeq uint64, events []model.Event) error {
	if epoch < j.epoch {
		return model.Errorf(model.Conflict, "cannot append to the journal: epoch %d has taken over from epoch %d", j.epoch, epoch)
	}
	if have := uint64(len(j.stored)); have != expectedSeq {
		return model.Errorf(model.Conflict, "cannot append to the journal: it is at event %d, not %d", have, expectedSeq)
	}
	if err := j.before(); err != nil {
		return err
	}
	j.epoch = epoch
	for _, e := range events {
		if err := j.store(e); err != nil {
			return err
		}
	}
	return j.after()
}

func (j *journal) store(e model.Event) error {
	if j.coded {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		e = model.Event{}
		if err := json.Unmarshal(b, &e); err != nil {
			return err
		}
	}
	j.noted(e, j.replay)
	j.stored = append(j.stored, e)
	return j.replay.Apply(e)
}

// open replays the journal from its first event.
func (j *journal) open() (*model.State, error) {
	s := model.NewState()
	for _, e := range j.stored {
		if err := s.Apply(e); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// trace prints what the journal holds.
func (j *journal) trace() string {
	var b strings.Builder
	for _, e := range j.stored {
		fmt.Fprintf(&b, "%d\t%s\tepoch %d\t%s\t%+v\n", e.Seq, time.Duration(e.Elapsed), e.Epoch, e.Data.Kind(), e.Data)
	}
	return b.String()
}

// same reports whether two states are equal in all that is written of them.
func same(a, b *model.State) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return bytes.Equal(x, y), err
}
