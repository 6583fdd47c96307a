package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"kiln/internal/engine"
	"kiln/internal/engine/local/logfile"
	"kiln/internal/model"
)

// Bounds of evidence.
const (
	evidenceLines   = 1000
	evidenceBytes   = 256 << 10
	evidenceChanges = 10000
	evidenceSockets = 1000
	evidenceCommand = 4 << 10 // bytes of one command line
)

// Collect implements engine.Engine.
func (e *Engine) Collect(ctx context.Context, ref engine.Ref) (*engine.Evidence, error) {
	s, r := e.lookup(ref.ID)
	if r == nil {
		return nil, model.Errorf(model.NotFound, "cannot collect evidence of %s: there is no such server", ref.ID)
	}
	if r.Exit != nil {
		// Its last lines are in the log when the logger has ended.
		_, _ = await(ctx, s.reaped, 2*time.Second)
	}
	evidence := &engine.Evidence{Observed: r.observed()}
	var err error
	if evidence.Log, err = e.lastLines(ctx, ref.ID); err != nil {
		evidence.Missing = append(evidence.Missing, fmt.Sprintf("log: %v", err))
	}
	if evidence.Changes, err = changes(r); err != nil {
		evidence.Missing = append(evidence.Missing, fmt.Sprintf("changes: %v", err))
	}
	evidence.Environment, evidence.Secrets = r.Env, e.Secrets(ctx, ref.ID)
	for _, ref := range r.Template.Secrets {
		if ref.As == model.SecretEnv {
			evidence.Environment = append(slices.Clip(evidence.Environment), fmt.Sprintf("%s=(secret, version %d)", ref.Name, ref.Version))
		}
	}
	pids := []int{r.Process.PID}
	if r.state() == model.Running {
		group := e.cgroupDir(execController(), r.ID)
		pids = append(pids, processesIn(group)...)
		evidence.Processes = processes(group)
		if evidence.Sockets, err = socketsOf(r.Process.PID); err != nil {
			evidence.Missing = append(evidence.Missing, fmt.Sprintf("sockets: %v", err))
		}
		evidence.Listening = listeningAmong(evidence.Sockets)
		evidence.Sockets = evidence.Sockets[:min(len(evidence.Sockets), evidenceSockets)]
		e.keepSample(s, r, time.Now())
	} else {
		evidence.Missing = append(evidence.Missing, "processes and sockets: the server had ended")
	}
	if evidence.Kernel, err = kernelLines(naming{id: string(ref.ID), link: e.link(ref.ID), pids: pids, since: r.CreatedAt}); err != nil {
		evidence.Missing = append(evidence.Missing, fmt.Sprintf("messages of the kernel: %v", err))
	}
	e.mu.Lock()
	evidence.Stats = s.stats
	e.mu.Unlock()
	return evidence, ctx.Err()
}

// lastLines returns the last lines of the log, within the bounds of evidence.
func (e *Engine) lastLines(ctx context.Context, id model.ServerID) ([]engine.LogLine, error) {
	var lines []engine.LogLine
	err := e.Logs(ctx, id, engine.LogOptions{Tail: evidenceLines}, func(l engine.LogLine) error {
		lines = append(lines, l)
		return nil
	})
	size := 0
	for i, l := range slices.Backward(lines) {
		if size += len(l.Text); size > evidenceBytes {
			return lines[i+1:], err
		}
	}
	return lines, err
}

// Logs implements engine.Logger.
func (e *Engine) Logs(ctx context.Context, id model.ServerID, o engine.LogOptions, sink func(engine.LogLine) error) error {
	if _, r := e.lookup(id); r == nil {
		return model.Errorf(model.NotFound, "cannot read the log of %s: there is no such server", id)
	}
	options := logfile.Options{Since: o.Since, Tail: o.Tail, Follow: o.Follow}
	return logfile.Read(ctx, e.logDir(id), options, func(l logfile.Line) error {
		return sink(engine.LogLine{At: l.At, Stream: l.Stream.String(), Text: l.Text})
	})
}

// changes lists what differs from the image: the server's own layer was empty
// when it started.
func changes(r *record) ([]engine.Change, error) {
	var found []engine.Change
	err := filepath.WalkDir(r.Upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := "/" + strings.TrimPrefix(strings.TrimPrefix(path, r.Upper), "/")
		info, err := d.Info()
		if err != nil {
			return err
		}
		what, _ := otherThanImage(r, path, inside, info)
		change := engine.Change{Path: inside, Kind: "changed"}
		switch what {
		case "":
			return nil
		case fileRemoved:
			change.Kind = "removed"
		case fileAdded:
			change.Kind = "added"
		}
		if info.Mode().IsRegular() {
			change.Size = info.Size()
		}
		if found = append(found, change); len(found) >= evidenceChanges {
			return errTooMany
		}
		return nil
	})
	return found, err
}

var errTooMany = errors.New("there are more; these are the first")

// isWhiteout reports whether the overlay's entry says that something of the
// image was removed: it is a device with the number 0.
func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}
