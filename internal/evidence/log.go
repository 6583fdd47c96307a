package evidence

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// stampLayout is that of the lines in an archive.
const stampLayout = "2006-01-02T15:04:05.000000000Z"

// logWriter writes lines into files of about logChunk bytes.
type logWriter struct {
	w     *Writer
	buf   bytes.Buffer
	files int
	lines int
}

func (l *logWriter) line(x engine.LogLine) error {
	l.buf.WriteString(x.At.UTC().Format(stampLayout))
	l.buf.WriteByte(' ')
	l.buf.WriteString(x.Stream)
	l.buf.WriteByte(' ')
	l.buf.WriteString(x.Text)
	l.buf.WriteByte('\n')
	l.lines++
	if l.buf.Len() < logChunk {
		return nil
	}
	return l.flush()
}

func (l *logWriter) flush() error {
	if l.buf.Len() == 0 {
		return nil
	}
	l.files++
	err := l.w.File(fmt.Sprintf("%s/%06d.log", logDir, l.files), &l.buf)
	l.buf.Reset()
	return err
}

// writeLog adds the whole log of the server. It says how many lines that had, and
// what kiln itself remarks at its beginning: how much of it is not kept.
func (s *Store) writeLog(ctx context.Context, w *Writer, id model.ServerID, secrets *Redactor) (lines int, remark string, err error) {
	out := &logWriter{w: w}
	stream := secrets.Stream()
	err = s.opts.Logs.Logs(ctx, id, engine.LogOptions{}, func(l engine.LogLine) error {
		if out.lines == 0 && l.Stream == engine.StreamKiln {
			remark = strings.TrimPrefix(l.Text, "kiln: ")
		}
		l.Text = stream.Line(l.Stream, l.Text)
		return out.line(l)
	})
	if err != nil {
		return out.lines, remark, err
	}
	return out.lines, remark, out.flush()
}

// writeLines adds lines that are redacted already.
func writeLines(w *Writer, lines []engine.LogLine) error {
	out := &logWriter{w: w}
	for _, l := range lines {
		if err := out.line(l); err != nil {
			return err
		}
	}
	return out.flush()
}

// parseLogLine reads a line of a log file; false if it is none.
func parseLogLine(s string) (engine.LogLine, bool) {
	stamp, rest, ok := strings.Cut(s, " ")
	stream, text, ok2 := strings.Cut(rest, " ")
	at, err := time.Parse(stampLayout, stamp)
	return engine.LogLine{At: at, Stream: stream, Text: text}, ok && ok2 && err == nil
}

// Log passes the lines of the log in the archive to sink, oldest first, until
// it returns an error.
func (x *Files) Log(ctx context.Context, o engine.LogOptions, sink func(engine.LogLine) error) error {
	var last []engine.LogLine
	err := x.lines(func(l engine.LogLine) error {
		switch {
		case l.At.Before(o.Since):
			return nil
		case o.Tail <= 0:
			if err := ctx.Err(); err != nil {
				return err
			}
			return sink(l)
		}
		if last = append(last, l); len(last) >= 2*o.Tail {
			last = append(last[:0], last[len(last)-o.Tail:]...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, l := range last[max(0, len(last)-o.Tail):] {
		if err := sink(l); err != nil {
			return err
		}
	}
	return nil
}

func (x *Files) lines(each func(engine.LogLine) error) error {
	if x.legacy {
		c, err := x.content()
		if err != nil {
			return err
		}
		for _, l := range c.Log {
			if err := each(l); err != nil {
				return err
			}
		}
		return nil
	}
	return x.each(func(h *tar.Header, r io.Reader) error {
		if !strings.HasPrefix(h.Name, logDir+"/") {
			return nil
		}
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, 4*logChunk)
		for scanner.Scan() {
			if l, ok := parseLogLine(scanner.Text()); ok {
				if err := each(l); err != nil {
					return err
				}
			}
		}
		return scanner.Err()
	})
}

// Content returns what the archive of a death record holds, of its log the last
// lines.
func (x *Files) Content(ctx context.Context) (Content, error) {
	if x.legacy {
		return x.content()
	}
	var c Content
	var ends sockets
	into := map[string]any{
		recordFile: &c, eventsFile: &c.Events, environFile: &c.Environment, processFile: &c.Processes,
		socketsFile: &ends, changesFile: &c.Changes, metricsFile: &c.Metrics,
	}
	err := x.each(func(h *tar.Header, r io.Reader) error {
		if h.Name == kernelFile {
			text := new(strings.Builder)
			_, err := io.Copy(text, r)
			c.Kernel = slices.Collect(strings.Lines(text.String()))
			for i := range c.Kernel {
				c.Kernel[i] = strings.TrimSuffix(c.Kernel[i], "\n")
			}
			return err
		}
		if v := into[h.Name]; v != nil {
			return json.NewDecoder(r).Decode(v)
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	c.Listening, c.Sockets = ends.Listening, ends.Sockets
	const shown = 1000
	err = x.Log(ctx, engine.LogOptions{Tail: shown}, func(l engine.LogLine) error {
		c.Log = append(c.Log, l)
		return nil
	})
	return c, err
}

// content is Content of an archive of the first kilns.
func (x *Files) content() (c Content, err error) {
	b, err := fs.ReadFile(x, contentFile)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	return c, err
}

// Read returns what the archive with the digest holds (Content), as JSON.
func (s *Store) Read(ctx context.Context, digest string) (json.RawMessage, error) {
	x, err := s.Open(digest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = x.Close() }() // it was read only
	if x.legacy {
		return fs.ReadFile(x, contentFile)
	}
	c, err := x.Content(ctx)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot unpack evidence %s: %w", digest, err)
	}
	return json.Marshal(c)
}
