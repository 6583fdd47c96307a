package router

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"kiln/internal/model"
)

// accessLine is one line of the access log.
type accessLine struct {
	Time    time.Time
	Service string
	Release int
	Server  model.ServerID
	Method  string
	Host    string
	Path    string
	Client  string
	Class   string
	Status  int
	Bytes   int64
	BytesIn int64
	Took    time.Duration
	Cut     bool
}

// accessLog writes lines to a file of bounded size, and its predecessor. It
// never blocks those who serve: they leave their lines in a batch, which the
// log's own goroutine takes away ten times a second. What does not fit the
// batch, or the disk does not take, is dropped and counted.
type accessLog struct {
	path    string
	max     int64
	log     *slog.Logger
	dropped atomic.Uint64
	stop    chan struct{}
	ended   chan struct{}

	mu    sync.Mutex
	batch []accessLine

	followMu  sync.Mutex
	followers map[chan []byte]struct{}
}

const (
	accessBatch = 16 << 10 // lines
	accessEvery = 100 * time.Millisecond
)

func openAccessLog(path string, maxBytes int64, log *slog.Logger) (*accessLog, error) {
	f, err := openAppend(path)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot open access log: %w", err)
	}
	a := &accessLog{
		path: path, max: maxBytes, log: log,
		stop: make(chan struct{}), ended: make(chan struct{}), followers: map[chan []byte]struct{}{},
	}
	go a.write(f)
	return a, nil
}

func openAppend(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func (a *accessLog) put(l accessLine) {
	a.mu.Lock()
	full := len(a.batch) >= accessBatch
	if !full {
		a.batch = append(a.batch, l)
	}
	a.mu.Unlock()
	if full {
		a.dropped.Add(1)
	}
}

// close writes what waits and ends the log.
func (a *accessLog) close() {
	close(a.stop)
	<-a.ended
}

// write is the log's own goroutine. A disk that fails costs lines, and only
// that: it is said once, and each line that is lost is counted.
func (a *accessLog) write(f *os.File) {
	defer close(a.ended)
	defer func() { _ = f.Close() }()
	tick := time.NewTicker(accessEvery)
	defer tick.Stop()
	size := fileSize(f)
	failing, stopping := false, false
	var spare []accessLine
	var text []byte
	for !stopping {
		select {
		case <-tick.C:
		case <-a.stop:
			stopping = true
		}
		a.mu.Lock()
		lines := a.batch
		a.batch = spare[:0]
		a.mu.Unlock()
		text = a.encode(text[:0], lines)
		_, err := f.Write(text)
		if err != nil {
			a.dropped.Add(uint64(len(lines)))
			if !failing {
				a.log.Error("cannot write access log; lines are dropped", "error", err)
			}
		}
		failing = err != nil
		if size += int64(len(text)); size > a.max {
			f, size = a.rotate(f), 0
		}
		clear(lines) // they hold on to requests' strings
		spare = lines
	}
}

// encode appends the lines, and gives them to those who follow.
func (a *accessLog) encode(text []byte, lines []accessLine) []byte {
	for i := range lines {
		from := len(text)
		text = lines[i].appendJSON(text)
		a.tell(text[from:])
	}
	return text
}

// rotate makes the file the predecessor. If that fails it is emptied: the
// bound on the disk's use holds either way.
func (a *accessLog) rotate(f *os.File) *os.File {
	if err := os.Rename(a.path, a.path+".1"); err == nil {
		if next, err := openAppend(a.path); err == nil {
			_ = f.Close()
			return next
		}
	}
	_ = f.Truncate(0)
	return f
}

func fileSize(f *os.File) int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// tell gives a line to those who follow; who is slow misses lines.
func (a *accessLog) tell(line []byte) {
	a.followMu.Lock()
	defer a.followMu.Unlock()
	if len(a.followers) == 0 {
		return
	}
	shared := append([]byte(nil), line...)
	for ch := range a.followers {
		select {
		case ch <- shared:
		default:
		}
	}
}

// copyTo writes the last n lines to w and, if follow is set, all that come
// until ctx ends.
func (a *accessLog) copyTo(ctx context.Context, w io.Writer, n int, follow bool, flush func()) error {
	ch := make(chan []byte, 1024)
	if follow {
		a.followMu.Lock()
		a.followers[ch] = struct{}{}
		a.followMu.Unlock()
		defer func() {
			a.followMu.Lock()
			delete(a.followers, ch)
			a.followMu.Unlock()
		}()
	}
	last, err := lastLines(n, a.path+".1", a.path)
	if err != nil {
		return err
	}
	if _, err := w.Write(last); err != nil || !follow {
		return err
	}
	for {
		flush()
		select {
		case <-ctx.Done():
			return nil
		case line := <-ch:
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}
}

// lastLines returns the last n lines of the files taken as one, at most their
// last 8 MB.
func lastLines(n int, paths ...string) ([]byte, error) {
	const most = 8 << 20
	var all []byte
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		from := max(0, fileSize(f)-most)
		part, err := io.ReadAll(io.NewSectionReader(f, from, most))
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	at := len(all)
	for i := len(all) - 2; i >= 0 && n > 0; i-- {
		if all[i] == '\n' {
			at = i + 1
			n--
		}
	}
	if n > 0 {
		at = 0
	}
	return all[at:], nil
}

// appendJSON appends the line. It is written by hand because it is written for
// every request.
func (l *accessLine) appendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = l.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","service":`...)
	b = appendQuoted(b, l.Service)
	b = append(b, `,"release":`...)
	b = strconv.AppendInt(b, int64(l.Release), 10)
	for _, f := range [...]struct{ key, value string }{
		{`,"server":`, string(l.Server)},
		{`,"method":`, l.Method},
		{`,"host":`, l.Host},
		{`,"path":`, l.Path},
		{`,"client":`, l.Client},
		{`,"class":`, l.Class},
	} {
		b = append(b, f.key...)
		b = appendQuoted(b, f.value)
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(l.Status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, l.Bytes, 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, l.BytesIn, 10)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(l.Took)/float64(time.Millisecond), 'f', 3, 64)
	if l.Cut {
		b = append(b, `,"cut":true`...)
	}
	return append(b, "}\n"...)
}

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf || c == 0x7f {
			plain = false
			break
		}
	}
	if plain {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	q, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(b, `""`...)
	}
	return append(b, q...)
}

func quoteJSON(s string) string { return string(appendQuoted(nil, s)) }
