package session

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"kiln/internal/evidence"
)

// castHeader is the first line of a recording.
type castHeader struct {
	Version   int               `json:"version"`
	Width     int               `json:"width"`
	Height    int               `json:"height"`
	Timestamp int64             `json:"timestamp"`
	Command   string            `json:"command,omitempty"`
	Title     string            `json:"title,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// cast is a recording in the format asciicast v2: what was to be seen, and
// when. What was typed is in it as far as it was to be seen: no passwords.
// Errors of writing end the recording, not the session.
type cast struct {
	now   func() time.Time
	began time.Time
	limit int64

	mu      sync.Mutex
	f       *os.File
	size    int64
	rest    map[string][]byte // of each stream: the beginning of a character
	missing string            // why it is not whole
	secrets []string          // what is not recorded
	hide    *strings.Replacer // takes that out
}

// newCast begins a recording in the file.
func newCast(path string, header castHeader, limit int64, now func() time.Time) (*cast, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	c := &cast{now: now, began: now(), limit: limit, f: f, rest: map[string][]byte{}, hide: strings.NewReplacer()}
	header.Version, header.Timestamp = 2, c.began.Unix()
	c.line(header)
	return c, nil
}

// conceal has the recording leave out what is known to be secret.
func (c *cast) conceal(secrets []string) {
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) }) // of two that begin alike the longer is found
	var pairs []string
	for _, s := range secrets {
		pairs = append(pairs, s, evidence.Redacted)
	}
	c.secrets, c.hide = secrets, strings.NewReplacer(pairs...)
}

// line writes one line, whole or not at all as far as the bound goes.
func (c *cast) line(v any) {
	if c.missing != "" {
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		c.missing = err.Error()
		return
	}
	if c.size += int64(len(b)) + 1; c.size > c.limit {
		c.missing = fmt.Sprintf("it is longer than the %d MiB that are kept", c.limit>>20)
		return
	}
	if _, err := c.f.Write(append(b, '\n')); err != nil {
		c.missing = err.Error()
	}
}

func (c *cast) event(code, data string) {
	c.line([]any{json.Number(fmt.Sprintf("%.6f", c.now().Sub(c.began).Seconds())), code, data})
}

// resize records a change of the terminal's size.
func (c *cast) resize(columns, rows uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.event("r", fmt.Sprintf("%dx%d", columns, rows))
}

// close ends the recording and returns why it is not whole, if it is not.
func (c *cast) close() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rest := range c.rest {
		if len(rest) > 0 {
			c.event("o", string(rest))
		}
	}
	if err := c.f.Close(); err != nil && c.missing == "" {
		c.missing = err.Error()
	}
	return c.missing
}

// stream returns a writer that records what passes on its way to w.
func (c *cast) stream(name string, w io.Writer) io.Writer {
	return &recorded{cast: c, name: name, to: w}
}

type recorded struct {
	cast *cast
	name string
	to   io.Writer
}

// Write implements io.Writer. Characters are recorded whole, and secrets not at
// all: what may be the beginning of one waits for what follows.
func (r *recorded) Write(b []byte) (int, error) {
	c := r.cast
	c.mu.Lock()
	text := []byte(c.hide.Replace(string(append(c.rest[r.name], b...))))
	whole := len(text) - max(incomplete(text), begun(text, c.secrets))
	c.rest[r.name] = append([]byte(nil), text[whole:]...)
	if whole > 0 {
		c.event("o", string(text[:whole]))
	}
	c.mu.Unlock()
	return r.to.Write(b)
}

// begun returns how many bytes at the end may be the beginning of a secret.
func begun(b []byte, secrets []string) int {
	most := 0
	for _, s := range secrets {
		for n := min(len(b), len(s)-1); n > most; n-- {
			if string(b[len(b)-n:]) == s[:n] {
				most = n
			}
		}
	}
	return most
}

// incomplete returns how many bytes at the end begin a character that is not
// whole yet.
func incomplete(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if at := b[len(b)-n:]; utf8.RuneStart(at[0]) {
			if utf8.FullRune(at) {
				return 0
			}
			return n
		}
	}
	return 0
}
