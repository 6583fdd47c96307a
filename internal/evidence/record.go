package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

const (
	// formatVersion is that of the archives this program writes: 1 was one JSON
	// document, 2 is a tar.
	formatVersion = 2
	// maxChanges bounds how many changed paths an archive lists.
	maxChanges = 20_000
	// logChunk is about how much of a log is in one file of an archive.
	logChunk = 1 << 20
)

// The files of a death record's archive, in their order.
const (
	recordFile  = "record.json" // Content without what is in the other files
	eventsFile  = "events.json"
	kernelFile  = "kernel.log"
	environFile = "environment.json"
	processFile = "processes.json"
	socketsFile = "sockets.json"
	changesFile = "changes.json"
	metricsFile = "metrics.json"
	logDir      = "log" // of files 000001.log, …: a line is TIME STREAM TEXT
)

// History tells what led to the end of a server.
type History interface {
	// Chain returns the events that name the server, oldest first, with those
	// of the deployments that it was part of.
	Chain(ctx context.Context, id model.ServerID) ([]Event, error)
}

// Event is an entry of the journal.
type Event struct {
	Seq   uint64          `json:"seq"`
	Hash  string          `json:"hash"`
	Text  string          `json:"text"`
	Event json.RawMessage `json:"event"` // redacted as the rest is
}

// Metrics are measured while a server runs.
type Metrics interface {
	// Hour returns the last hour of what was measured of the server, as JSON.
	Hour(ctx context.Context, id model.ServerID) ([]byte, error)
}

// Content is what the archive of a death record holds. What a server was given
// in its environment is redacted, and so is its log; its files' contents are not
// part of it.
type Content struct {
	Version int               `json:"version"`
	Record  model.DeathRecord `json:"record"`
	// Taken says when evidence was collected: "alive", "dead" or both. What
	// only a live server shows (processes, sockets) is from then; the rest is
	// from after its end, where that could be had.
	Taken []string `json:"taken"`
	engine.Evidence
	Events  []Event         `json:"events,omitempty"`  // the chain that led there
	Metrics json.RawMessage `json:"metrics,omitempty"` // of the last hour
}

// merge makes one of what was collected before the end and after it. Either
// may be nil.
func merge(record model.DeathRecord, alive, dead *engine.Evidence) Content {
	c := Content{Version: formatVersion, Record: record, Taken: []string{}}
	if alive != nil {
		c.Taken = append(c.Taken, "alive")
		c.Evidence = *alive
		c.Missing = nil
		c.miss("before its end: ", alive.Missing)
	}
	if dead != nil {
		c.Taken = append(c.Taken, "dead")
		c.Observed = dead.Observed
		c.Log = longer(dead.Log, c.Log)
		c.Changes = longer(dead.Changes, c.Changes)
		c.Kernel = joined(c.Kernel, dead.Kernel)
		c.Environment = longer(dead.Environment, c.Environment)
		c.Secrets = append(slices.Clone(c.Secrets), dead.Secrets...)
		c.Processes = longer(c.Processes, dead.Processes)
		c.Listening = longer(c.Listening, dead.Listening)
		c.Sockets = longer(c.Sockets, dead.Sockets)
		if c.Stats == nil {
			c.Stats = dead.Stats
		}
		c.miss("after its end: ", dead.Missing)
	}
	if n := len(c.Changes); n > maxChanges {
		c.Changes = c.Changes[:maxChanges]
		c.miss("", []string{fmt.Sprintf("%d of %d changed paths", n-maxChanges, n)})
	}
	return c
}

func (c *Content) miss(when string, what []string) {
	for _, m := range what {
		c.Missing = append(c.Missing, when+m)
	}
}

// joined returns the lines of a, then those of b that are not among them. Both
// are of one log, of which either may have lost the beginning.
func joined(a, b []string) []string {
	out := slices.Clone(a)
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, l)
		}
	}
	return out
}

// longer returns a, or b where a is empty.
func longer[T any](a, b []T) []T {
	if len(a) > 0 {
		return a
	}
	return b
}

// Write keeps the evidence of a server that has ended, durably, and returns
// its record with the archive's digest. Either evidence may be nil. What could
// not be kept is in the record's Missing, and is no error: the only error is
// that ctx has ended.
//
// On a full disk it gives up the reserve; then it keeps the last lines of the
// log alone, in the place of the oldest archives.
func (s *Store) Write(ctx context.Context, record model.DeathRecord, alive, dead *engine.Evidence) (model.DeathRecord, error) {
	if err := ctx.Err(); err != nil {
		return record, model.Errorf(model.Unavailable, "cannot keep the evidence of server %s: %w", record.Server, err)
	}
	content := merge(record, alive, dead)
	if alive == nil && dead == nil {
		if len(record.Missing) == 0 {
			record.Missing = []string{"evidence: none was collected"}
		}
		return record, nil
	}
	secrets := NewRedactor(content.Environment, content.Secrets...)
	s.ask(ctx, &content)
	content.redact(secrets)
	digest, missing, err := s.keep(ctx, content, secrets)
	record.Missing = append(slices.Clone(record.Missing), content.Missing...)
	record.Missing = append(record.Missing, missing...)
	if err != nil {
		s.opts.Log.Warn("evidence not kept", "server", string(record.Server), "error", err)
		record.Missing = append(record.Missing, "the archive of its evidence: "+inWords(err))
		return record, nil
	}
	record.Evidence = digest
	return record, nil
}

// ask adds what others than the engine know of the server.
func (s *Store) ask(ctx context.Context, c *Content) {
	const patience = 5 * time.Second // of each: an end waits for neither
	within := func(part string, f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := f(ctx); err != nil {
			c.miss("", []string{part + ": " + err.Error()})
		}
	}
	if s.opts.History != nil {
		within("the events that led there", func(ctx context.Context) (err error) {
			c.Events, err = s.opts.History.Chain(ctx, c.Record.Server)
			return err
		})
	}
	if s.opts.Metrics != nil {
		within("the last hour of metrics", func(ctx context.Context) (err error) {
			c.Metrics, err = s.opts.Metrics.Hour(ctx, c.Record.Server)
			return err
		})
	}
}

// keep writes the archive, with the whole log if there is room for it.
func (s *Store) keep(ctx context.Context, c Content, secrets *Redactor) (digest string, missing []string, err error) {
	name := string(c.Record.Server)
	short := s.opts.Logs == nil
	digest, err = s.Put(ctx, name, c.Record.EndedAt, func(w *Writer) error {
		if err := c.write(w); err != nil {
			return err
		}
		if short {
			return writeLines(w, c.Log)
		}
		kept, remark, err := s.writeLog(ctx, w, c.Record.Server, secrets)
		if kept == 0 && err != nil && !full(err) {
			missing = []string{"the whole log (these are its last lines): " + err.Error()}
			return writeLines(w, c.Log)
		}
		if remark != "" {
			missing = []string{"the beginning of its log: " + remark}
		}
		return err
	})
	if err == nil || short || ctx.Err() != nil {
		return digest, missing, err
	}
	missing = []string{"the whole log (these are its last lines): " + inWords(err)}
	digest, err = s.keepShort(ctx, c)
	return digest, missing, err
}

// keepShort writes the archive with the last lines of the log only, and where
// the disk is full in the place of the oldest archives.
func (s *Store) keepShort(ctx context.Context, c Content) (string, error) {
	write := func(w *Writer) error { return errors.Join(c.write(w), writeLines(w, c.Log)) }
	digest, err := s.Put(ctx, string(c.Record.Server), c.Record.EndedAt, write)
	if !full(err) {
		return digest, err
	}
	var size bytes.Buffer
	if pack(&size, c.Record.EndedAt, s.spool, write) != nil {
		return "", err
	}
	s.room.Lock()
	kept := int64(0)
	for _, a := range s.list() {
		kept += a.Size
	}
	const slack = 64 << 10 // blocks of the directory, and what else the file system wants
	need := int64(size.Len()) + slack
	if kept > 0 {
		s.makeRoomLocked(ctx, need, max(kept, need), "the disk is full, and the newest takes the place of the oldest")
	}
	s.room.Unlock()
	return s.Put(ctx, string(c.Record.Server), c.Record.EndedAt, write)
}

// write adds all but the log.
func (c Content) write(w *Writer) error {
	head := c
	head.Log, head.Changes, head.Processes, head.Listening, head.Sockets = nil, nil, nil, nil, nil
	head.Kernel, head.Environment, head.Events, head.Metrics = nil, nil, nil, nil
	parts := []struct {
		name  string
		value any
		some  bool
	}{
		{recordFile, head, true},
		{eventsFile, c.Events, len(c.Events) > 0},
		{environFile, c.Environment, len(c.Environment) > 0},
		{processFile, c.Processes, len(c.Processes) > 0},
		{socketsFile, sockets{c.Listening, c.Sockets}, len(c.Listening)+len(c.Sockets) > 0},
		{changesFile, c.Changes, len(c.Changes) > 0},
		{metricsFile, c.Metrics, len(c.Metrics) > 0},
	}
	for _, p := range parts {
		if !p.some {
			continue
		}
		text, err := json.MarshalIndent(p.value, "", "  ")
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := w.File(p.name, bytes.NewReader(append(text, '\n'))); err != nil {
			return err
		}
	}
	if len(c.Kernel) == 0 {
		return nil
	}
	return w.File(kernelFile, strings.NewReader(strings.Join(c.Kernel, "\n")+"\n"))
}

// sockets is what socketsFile holds.
type sockets struct {
	Listening []engine.Socket `json:"listening"`
	Sockets   []engine.Socket `json:"sockets"`
}

func inWords(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "the disk is full"
	case errors.Is(err, unix.EROFS):
		return "the disk is read-only"
	default:
		return err.Error()
	}
}
