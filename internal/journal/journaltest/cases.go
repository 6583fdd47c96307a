package journaltest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/journal"
	"kiln/internal/model"
)

func readsBack(t *testing.T, j Journal, reopen func() Journal) {
	appendScript(t, j, 1, 0, 1)
	appendScript(t, j, 1, 1, 20)
	appendScript(t, j, 1, 21, 3)
	for range 2 {
		entries, err := j.Events(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		var events []model.Event
		prev := journal.Hash{}
		for _, e := range entries {
			events = append(events, e.Event)
			raw, err := json.Marshal(e.Event)
			if err != nil || string(raw) != string(e.Raw) {
				t.Fatalf("event %d is stored as %s, and written as %s (%v)", e.Event.Seq, e.Raw, raw, err)
			}
			if e.Hash == prev {
				t.Fatalf("event %d has the hash of the one before", e.Event.Seq)
			}
			prev = e.Hash
		}
		if diff := cmp.Diff(Script(1, 0, 24), events); diff != "" {
			t.Fatalf("other events than were appended:\n%s", diff)
		}
		SameState(t, load(t, j), Fold(t, 1, 24))
		j = reopen()
	}
	appendScript(t, j, 2, 24, 5)
}

func paging(t *testing.T, j Journal, _ func() Journal) {
	appendScript(t, j, 1, 0, 25)
	var seqs []uint64
	for after := uint64(0); ; {
		page, err := j.Events(t.Context(), after, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		if len(page) > 10 {
			t.Fatalf("a page of 10 holds %d events", len(page))
		}
		for _, e := range page {
			seqs = append(seqs, e.Event.Seq)
		}
		after = page[len(page)-1].Event.Seq
	}
	if len(seqs) != 25 || seqs[0] != 1 || seqs[24] != 25 {
		t.Fatalf("paging found the events %v", seqs)
	}
	if page, err := j.Events(t.Context(), 99, 10); err != nil || len(page) != 0 {
		t.Fatalf("behind the end: %v, %v", page, err)
	}
}

func olderEpoch(t *testing.T, j Journal, reopen func() Journal) {
	appendScript(t, j, 5, 0, 3)
	wantCode(t, j.Append(t.Context(), 4, 3, Script(4, 3, 1)), model.Conflict)
	j = reopen()
	wantCode(t, j.Append(t.Context(), 4, 3, Script(4, 3, 1)), model.Conflict)
	appendScript(t, j, 6, 3, 1)
	wantCode(t, j.Append(t.Context(), 5, 4, Script(5, 4, 1)), model.Conflict)
	if s := load(t, j); s.Seq != 4 || s.Epoch != 6 {
		t.Fatalf("the journal ends at event %d of epoch %d, want 4 of 6", s.Seq, s.Epoch)
	}
}

func wrongSequence(t *testing.T, j Journal, _ func() Journal) {
	appendScript(t, j, 1, 0, 3)
	wantCode(t, j.Append(t.Context(), 1, 2, Script(1, 2, 1)), model.Conflict)
	wantCode(t, j.Append(t.Context(), 1, 4, Script(1, 4, 1)), model.Conflict)
	wantCode(t, j.Append(t.Context(), 1, 3, Script(1, 4, 1)), model.Internal) // carries another number
	wantCode(t, j.Append(t.Context(), 1, 3, Script(2, 3, 1)), model.Internal) // carries another epoch
	appendScript(t, j, 1, 3, 1)
}

func allOrNothing(t *testing.T, j Journal, reopen func() Journal) {
	appendScript(t, j, 1, 0, 4)
	batch := Script(1, 4, 3)
	batch[2].Data = model.ServerDrained{ID: "shop-zzzzzz"} // there is no such server
	wantCode(t, j.Append(t.Context(), 1, 4, batch), model.Internal)
	SameState(t, load(t, j), Fold(t, 1, 4))
	appendScript(t, j, 1, 4, 3)
	SameState(t, load(t, reopen()), Fold(t, 1, 7))
}

func saysNothing(t *testing.T, j Journal, _ func() Journal) {
	wantCode(t, j.Append(t.Context(), 1, 0, []model.Event{{Seq: 1, Epoch: 1}}), model.Internal)
	appendScript(t, j, 1, 0, 1)
}

func emptyBatch(t *testing.T, j Journal, _ func() Journal) {
	appendScript(t, j, 2, 0, 3)
	appendScript(t, j, 2, 3, 0)
	wantCode(t, j.Append(t.Context(), 1, 3, nil), model.Conflict)
	wantCode(t, j.Append(t.Context(), 2, 2, nil), model.Conflict)
}

func follower(t *testing.T, j Journal, _ func() Journal) {
	changed := j.Changed()
	select {
	case <-changed:
		t.Fatal("told before anything was appended")
	default:
	}
	appendScript(t, j, 1, 0, 1)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("not told of an append")
	}
	select {
	case <-j.Changed():
		t.Fatal("told twice of one append")
	default:
	}
}

func ownState(t *testing.T, j Journal, _ func() Journal) {
	appendScript(t, j, 1, 0, 9)
	mine := load(t, j)
	mine.Services["shop"].Releases[0].Template.Env["A"] = "changed"
	delete(mine.Services, "shop")
	mine.Seq = 77
	appendScript(t, j, 1, 9, 9)
	SameState(t, load(t, j), Fold(t, 1, 18))
}

func endedContext(t *testing.T, j Journal, _ func() Journal) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, j.Append(ctx, 1, 0, Script(1, 0, 1)), model.Unavailable)
	appendScript(t, j, 1, 0, 1)
}

func verification(t *testing.T, j Journal, reopen func() Journal) {
	for range 2 {
		report, err := j.Verify(t.Context())
		if err != nil || !report.Whole() || report.Events != 0 {
			t.Fatalf("an empty journal: %+v, %v", report, err)
		}
		j = reopen()
	}
	appendScript(t, j, 1, 0, 12)
	for range 2 {
		report, err := j.Verify(t.Context())
		if err != nil || !report.Whole() {
			t.Fatalf("%+v, %v", report, err)
		}
		script := Script(1, 0, 12)
		if report.Events != 12 || report.First.Seq != 1 || report.Last.Seq != 12 ||
			!report.First.At.Equal(script[0].At) || !report.Last.At.Equal(script[11].At) {
			t.Fatalf("12 events were appended, and verified were %+v", report)
		}
		j = reopen()
	}
}

// readers reads while somebody writes: what is seen is always whole.
func readers(t *testing.T, j Journal, _ func() Journal) {
	const events = 120
	var reading sync.WaitGroup
	written := make(chan struct{})
	until := func(look func() error) {
		reading.Go(func() {
			for {
				if err := look(); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-written:
					return
				default:
				}
			}
		})
	}
	until(func() error {
		report, err := j.Verify(t.Context())
		if err == nil && !report.Whole() {
			err = fmt.Errorf("%v", report.Problems)
		}
		return err
	})
	until(func() error {
		s, err := j.Load(t.Context())
		if err == nil && s.Seq%4 != 0 {
			err = fmt.Errorf("a state in the middle of a batch: %d", s.Seq)
		}
		return err
	})
	until(func() error { return followTo(t.Context(), j, events) })
	for seq := 0; seq < events; seq += 4 {
		appendScript(t, j, 1, uint64(seq), 4)
	}
	close(written)
	reading.Wait()
}

// followTo reads the journal from its beginning as it grows.
func followTo(ctx context.Context, j Journal, end uint64) error {
	for after := uint64(0); after < end; {
		changed := j.Changed()
		entries, err := j.Events(ctx, after, 7)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Event.Seq != after+1 {
				return fmt.Errorf("event %d follows event %d", e.Event.Seq, after)
			}
			after++
		}
		if len(entries) == 0 {
			<-changed
		}
	}
	return nil
}
