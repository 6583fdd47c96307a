package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kiln/internal/engine"
	"kiln/internal/evidence"
	"kiln/internal/model"
	"kiln/internal/reconcile"
)

const (
	castLimit   = 64 << 20 // bytes of a recording
	finishLimit = time.Minute
)

// work is what is kept of a session while it runs.
type work struct {
	runner  *Runner
	session model.Session
	before  before
	cast    *cast
}

func (w *work) path(ext string) string {
	return filepath.Join(w.runner.cfg.Dir, string(w.session.ID)+ext)
}

func (w *work) miss(format string, args ...any) {
	w.before.Missing = append(w.before.Missing, fmt.Sprintf(format, args...))
}

// begin notes what had changed before the session, and begins the recording.
// What cannot be had is missing, and does not keep the session from being run.
func (w *work) begin(ctx context.Context, t Terminal) {
	r := w.runner
	if found, more, err := w.differences(ctx); err != nil {
		w.miss("what had changed before it: %v", err)
	} else if w.before.Stamps = stamps(found); more > 0 {
		w.miss("%d paths that had changed before it may be among its changes", more)
	}
	header := castHeader{
		Width: int(t.Size.Columns), Height: int(t.Size.Rows), Command: strings.Join(w.session.Command, " "),
		Title: title(w.session),
	}
	if t.TTY {
		header.Env = map[string]string{"TERM": t.Term}
	} else {
		header.Width, header.Height = 80, 24 // the format wants some
	}
	var err error
	if w.cast, err = newCast(w.path(".cast"), header, castLimit, func() time.Time { return r.cfg.Clock.Now().Wall }); err != nil {
		w.miss("the recording: %v", err)
	}
	if w.cast != nil {
		w.cast.conceal(evidence.Forms(w.secrets(ctx)))
	}
	if err := writeJSON(w.path(".json"), w.before); err != nil {
		r.cfg.Log.Warn("cannot note how a server was before a session", "session", string(w.session.ID), "error", err)
	}
}

func title(x model.Session) string {
	text := fmt.Sprintf("%s %s in %s by %s", x.Kind, x.ID, x.Server, x.By)
	if x.Reason != "" {
		text += ": " + x.Reason
	}
	return text
}

// resume takes up the work of a daemon that was killed.
func (w *work) resume() {
	b, err := os.ReadFile(w.path(".json"))
	if err == nil {
		err = json.Unmarshal(b, &w.before)
	}
	if err != nil {
		w.miss("what had changed before it: %v", err)
	}
}

// differences lists what differs from the image; nothing where the engine does
// not tell.
func (w *work) differences(ctx context.Context) ([]engine.Difference, int, error) {
	if w.runner.differ == nil {
		return nil, 0, errors.New("the engine does not tell")
	}
	return w.runner.differ.Differences(ctx, w.session.Server, maxChanges)
}

// secrets are the values that the server was given, as far as the engine tells.
func (w *work) secrets(ctx context.Context) []string {
	confidant, ok := w.runner.cfg.Engine.(engine.Confidant)
	if !ok {
		return nil
	}
	return confidant.Secrets(ctx, w.session.Server)
}

// shell is what the engine is asked for.
func (w *work) shell(t Terminal) engine.Shell {
	sh := t.Shell
	sh.Session, sh.Command = w.session.ID, w.session.Command
	hotfix := w.session.Kind == model.SessionHotfix
	sh.Writable, sh.Root = hotfix, hotfix
	if w.cast == nil {
		return sh
	}
	sh.Stdout = w.cast.stream("stdout", sh.Stdout)
	if sh.Stderr != nil {
		sh.Stderr = w.cast.stream("stderr", sh.Stderr)
	}
	if sh.Resize != nil {
		sh.Resize = w.recordSizes(sh.Resize)
	}
	return sh
}

// recordSizes passes sizes on until the channel is closed.
func (w *work) recordSizes(from <-chan engine.WindowSize) <-chan engine.WindowSize {
	to := make(chan engine.WindowSize, 1)
	go func() {
		defer close(to)
		for size := range from {
			w.cast.resize(size.Columns, size.Rows)
			select {
			case <-to: // what nobody has taken is out of date
			default:
			}
			to <- size
		}
	}()
	return to
}

// finish keeps what the session leaves, and journals its end. The context may
// have ended.
func (w *work) finish(ctx context.Context, end model.SessionEnd) model.SessionEnd {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishLimit)
	defer cancel()
	r := w.runner
	c := &collection{missing: w.before.Missing, secrets: evidence.Forms(w.secrets(ctx))}
	now, more, err := w.differences(ctx)
	switch {
	case err != nil:
		c.miss("what it has changed: %v", err)
	case more > 0:
		c.miss("%d more paths that have changed", more)
	}
	c.differences = taken(w.before.Stamps, now)
	c.count(&end)
	if w.cast != nil {
		if missing := w.cast.close(); missing != "" {
			c.miss("the rest of the recording: %s", missing)
		}
	}
	if end.Evidence, err = r.cfg.Archives.Put(ctx, string(w.session.ID), time.Now(), func(out *evidence.Writer) error { return w.write(out, c, end) }); err != nil {
		r.cfg.Log.Warn("what a session leaves is not kept", "session", string(w.session.ID), "error", err)
		c.miss("the archive of what it leaves: %v", err)
	}
	end.Missing = inShort(c.missing)
	err = r.cfg.Control.Do(ctx, w.session.By, func(s *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		return reconcile.EndSession(s, w.session.ID, w.session.Server, end)
	})
	if err != nil {
		r.cfg.Log.Error("the end of a session is not journalled", "session", string(w.session.ID), "error", err)
		return end
	}
	_ = os.Remove(w.path(".cast"))
	_ = os.Remove(w.path(".json"))
	return end
}

// What a session's end says of what is missing: the list of its changes has
// the rest.
const (
	missingShown  = 20
	missingLength = 400 // bytes of one
)

// inShort leaves of a long list its beginning and how much more there was.
func inShort(missing []string) []string {
	var short []string
	for i, m := range missing {
		if i == missingShown {
			return append(short, fmt.Sprintf("and %d more: %s of the archive says which contents were kept", len(missing)-i, FileChanges))
		}
		if len(m) > missingLength {
			m = strings.ToValidUTF8(m[:missingLength], "") + "…"
		}
		short = append(short, m)
	}
	return short
}

// write writes the archive.
func (w *work) write(out *evidence.Writer, c *collection, end model.SessionEnd) error {
	x := w.session
	x.Ended = &end
	text, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	if err := out.File(FileSession, bytes.NewReader(text)); err != nil {
		return err
	}
	recording, err := os.Open(w.path(".cast"))
	switch {
	case err == nil:
		defer recording.Close()
		if err := out.File(FileRecording, recording); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		c.miss("the recording: %v", err)
	}
	if err := c.write(out); err != nil {
		return err
	}
	return out.File(FileContainerfile, strings.NewReader(containerfile(w.image(), title(x), c.changes)))
}

// image names the image that the server runs as FROM takes it.
func (w *work) image() string {
	name := ""
	w.runner.cfg.Control.View(func(s *model.State, _ *model.Snapshot) {
		srv, svc := s.Server(w.session.Server), s.Services[w.session.Server.Service()]
		if srv == nil || svc == nil {
			return
		}
		release := svc.Release(srv.Release)
		if release == nil {
			return
		}
		name = "kiln/" + string(release.Template.Image)
	})
	return name
}

var _ io.Writer = (*recorded)(nil)
