// Package journaltest is the conformance suite of journals: what a writer and
// a reader may rely on, whatever the journal is kept in.
package journaltest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/journal"
	"kiln/internal/model"
)

// Journal is what the suite asks of a journal.
type Journal interface {
	Append(ctx context.Context, epoch, expectedSeq uint64, events []model.Event) error
	Load(ctx context.Context) (*model.State, error)
	Events(ctx context.Context, after uint64, limit int) ([]journal.Entry, error)
	Changed() <-chan struct{}
	Verify(ctx context.Context) (journal.Report, error)
}

// Run runs the suite. open returns an empty journal, and a function that
// closes it and opens it again.
func Run(t *testing.T, open func(t *testing.T) (j Journal, reopen func() Journal)) {
	for name, test := range map[string]func(*testing.T, Journal, func() Journal){
		"what is appended is read back":         readsBack,
		"events come in pages":                  paging,
		"an older epoch is refused":             olderEpoch,
		"a wrong sequence is refused":           wrongSequence,
		"a batch is stored whole or not at all": allOrNothing,
		"an event that says nothing is refused": saysNothing,
		"nothing to append is a check":          emptyBatch,
		"a follower is told":                    follower,
		"a state is the caller's own":           ownState,
		"an ended context stores nothing":       endedContext,
		"verification counts":                   verification,
		"readers see whole batches":             readers,
	} {
		t.Run(name, func(t *testing.T) {
			j, reopen := open(t)
			test(t, j, reopen)
		})
	}
}

// Script returns n valid events after event seq: the history of a service that
// is deployed, whose servers live and die.
func Script(epoch, seq uint64, n int) []model.Event {
	events := make([]model.Event, 0, n)
	for i := range n {
		events = append(events, event(epoch, seq+uint64(i)+1))
	}
	return events
}

func event(epoch, seq uint64) model.Event {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC).Add(time.Duration(seq) * time.Second)
	return model.Event{Seq: seq, Epoch: epoch, At: at, Elapsed: model.Instant(seq * 1e9), Actor: "kiln", Data: payload(epoch, seq)}
}

func payload(epoch, seq uint64) model.Payload {
	const instance = "aaaaaa"
	if seq == 1 {
		return model.InstanceCreated{Instance: instance}
	}
	if seq == 2 {
		return model.ReleaseCreated{Release: model.Release{
			Service: "shop", Number: 1, Author: "somebody", Reason: "the first",
			Template: model.Template{Service: "shop", Image: "sha256:0", Env: map[string]string{"A": "1"}, Port: 80},
			Policy:   model.Policy{Servers: 1, Routes: []model.Route{{Listen: ":80"}}},
		}}
	}
	round := (seq - 3) / 6
	id := model.ServerID("shop-" + model.Sixes(instance, round))
	exit := &model.Exit{Known: true, Code: int(round), At: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}
	switch (seq - 3) % 6 {
	case 0:
		return model.ServerCreated{ID: id, Service: "shop", Release: 1, TemplateHash: "h", Cause: fmt.Sprintf("round %d <&> \u2028", round)}
	case 1:
		return model.ServerHealth{ID: id, Status: model.Healthy, Detail: "10.0.0.1:80 answered 200 \"ok\""}
	case 2:
		return model.ServerAdvanced{ID: id, Phase: model.PhaseEnded, Reason: "it ended", Exit: exit}
	case 3:
		return model.ServerRecorded{Record: model.DeathRecord{Server: id, Service: "shop", Release: 1, Reason: "it ended", Exit: exit, Missing: []string{"logs"}}}
	case 4:
		return model.ServerAdvanced{ID: id, Phase: model.PhaseDestroyed}
	default:
		return model.DaemonStarted{Epoch: epoch, Version: "0", BootID: "b", BootOffset: model.Instant(round)}
	}
}

// Fold returns the state after the first n events of the script, all of one
// epoch, without any journal.
func Fold(t testing.TB, epoch uint64, n int) *model.State {
	t.Helper()
	s := model.NewState()
	for _, e := range Script(epoch, 0, n) {
		if err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// SameState fails the test if the states differ.
func SameState(t testing.TB, got, want *model.State) {
	t.Helper()
	if diff := cmp.Diff(text(t, want), text(t, got)); diff != "" {
		t.Fatalf("another state than expected (- want, + got):\n%s", diff)
	}
}

func text(t testing.TB, s *model.State) string {
	t.Helper()
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func appendScript(t *testing.T, j Journal, epoch, seq uint64, n int) {
	t.Helper()
	if err := j.Append(t.Context(), epoch, seq, Script(epoch, seq, n)); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, j Journal) *model.State {
	t.Helper()
	s, err := j.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantCode(t *testing.T, err error, code model.Code) {
	t.Helper()
	if model.CodeOf(err) != code {
		t.Fatalf("error %v has the code %q, want %q", err, model.CodeOf(err), code)
	}
}
