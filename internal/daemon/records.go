package daemon

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"kiln/internal/evidence"
	"kiln/internal/journal"
	"kiln/internal/model"
	"kiln/internal/server"
)

// chain finds in the journal what led to the end of a server.
type chain struct{ j *journal.Journal }

// Bounds of what chain looks at and returns.
const (
	chainPage   = 512
	chainLooked = 16 * chainPage // events, from the newest back
	chainKept   = 500
)

// Chain implements evidence.History. It reads the journal backwards to where the
// server was made.
func (c chain) Chain(ctx context.Context, id model.ServerID) ([]evidence.Event, error) {
	var found []evidence.Event // newest first
	head := c.j.Head().Seq
	for before := head + 1; before > 1 && len(found) < chainKept; {
		if head+1-before >= chainLooked {
			return oldestFirst(found), model.Errorf(model.Precondition, "there are so many events since it was made that those before event %d were not looked at", before)
		}
		after := before - 1 - min(chainPage, before-1)
		entries, err := c.j.Events(ctx, after, int(before-1-after))
		if err != nil {
			return oldestFirst(found), err
		}
		before = after + 1
		for _, e := range slices.Backward(entries) {
			if !concerns(e, id) {
				continue
			}
			_, text := server.InWords(e.Event)
			found = append(found, evidence.Event{Seq: e.Event.Seq, Hash: e.Hash.String(), Text: text, Event: e.Raw})
			if made, ok := e.Event.Data.(model.ServerCreated); ok && made.ID == id {
				return oldestFirst(found), nil
			}
		}
	}
	return oldestFirst(found), nil
}

func oldestFirst(events []evidence.Event) []evidence.Event {
	events = events[:min(len(events), chainKept)]
	slices.Reverse(events)
	return events
}

// concerns reports whether the event names the server, is about a deployment of
// its service, or about what it ran on.
func concerns(e journal.Entry, id model.ServerID) bool {
	kind := string(e.Event.Data.Kind())
	switch {
	case bytes.Contains(e.Raw, []byte(`"`+string(id)+`"`)):
		return true
	case strings.HasPrefix(kind, "deployment."):
		service, _ := server.InWords(e.Event)
		return service == id.Service()
	default:
		return slices.Contains([]string{"daemon.started", "host.changed", "clock.jumped", "disk.changed", "fleet.drifted"}, kind)
	}
}

// announce writes down that evidence is going to be removed.
func (d *daemon) announce(ctx context.Context, removed model.ObjectsRemoved) error {
	return d.control.Do(ctx, "kiln", func(*model.State, *model.Snapshot, model.Now) ([]model.Payload, error) {
		return []model.Payload{removed}, nil
	})
}

// trimEvidence removes what is too old now and then. After the wall clock has
// jumped nothing is too old for a while: ages are told by it.
func (d *daemon) trimEvidence(ctx context.Context) {
	const every, wary = time.Hour, time.Hour
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		now := d.clock.Now()
		jumped := false
		d.control.View(func(s *model.State, _ *model.Snapshot) {
			jumped = s.ClockJumped != 0 && now.Elapsed.Sub(s.ClockJumped) < wary
		})
		if !jumped {
			d.evidence.Trim(ctx, now.Wall, evidence.DefaultMaxAge)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
