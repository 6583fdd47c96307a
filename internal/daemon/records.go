package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/engine"
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

// hour is the last hour of a server, from the metrics that are there once the
// daemon decides.
type hour struct{ d *daemon }

// Hour implements evidence.Metrics.
func (h hour) Hour(ctx context.Context, id model.ServerID) ([]byte, error) {
	return h.d.metrics.Hour(ctx, id)
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
			d.evidence.Trim(ctx, now.Wall, cmp.Or(d.cfg.EvidenceAge, evidence.DefaultMaxAge))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// archives shows the evidence to the API.
type archives struct{ s *evidence.Store }

// List implements server.Archives.
func (a archives) List(ctx context.Context) ([]api.Archive, error) {
	kept, err := a.s.List(ctx)
	out := make([]api.Archive, len(kept))
	for i, k := range kept {
		out[i] = api.Archive{Name: k.Name, Digest: k.Digest, Size: k.Size, At: k.At}
	}
	return out, err
}

// Raw implements server.Archives.
func (a archives) Raw(_ context.Context, digest string) (io.ReadCloser, error) {
	files, err := a.s.Open(digest)
	if err != nil {
		return nil, err
	}
	return rawArchive{files.Raw(), files}, nil
}

type rawArchive struct {
	*io.SectionReader
	io.Closer
}

// Log implements server.Archives.
func (a archives) Log(ctx context.Context, digest string, opts engine.LogOptions, sink func(engine.LogLine) error) error {
	files, err := a.s.Open(digest)
	if err != nil {
		return err
	}
	return errors.Join(files.Log(ctx, opts, sink), files.Close())
}
