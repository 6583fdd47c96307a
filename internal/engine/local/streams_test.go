package local

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// stuck takes nothing until it is let go.
type stuck struct {
	until chan struct{}
	mu    sync.Mutex
	got   bytes.Buffer
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.until
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

func copying(t *testing.T, to io.Writer) (*streams, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &streams{ours: []*os.File{r}, sources: []io.Writer{to}}
	s.started()
	return s, w
}

// Somebody who takes nothing more does not hold up the end of a session that is
// over.
func TestDrainEndsWithTheSession(t *testing.T) {
	to := &stuck{until: make(chan struct{})}
	defer close(to.until)
	s, w := copying(t, to)
	_, _ = io.WriteString(w, "more than is taken")
	_ = w.Close()
	over, end := context.WithCancel(t.Context())
	end()
	ended := make(chan struct{})
	go func() { s.drain(over); close(ended) }()
	select {
	case <-ended:
	case <-time.After(4 * drainLimit):
		t.Fatal("it waits for whoever takes nothing")
	}
}

// Somebody who is slow gets everything that a command has written, though it has
// ended long ago.
func TestDrainWaitsForTheSlow(t *testing.T) {
	to := &stuck{until: make(chan struct{})}
	s, w := copying(t, to)
	text := strings.Repeat("x", 48<<10) // longer than one read
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	time.AfterFunc(drainLimit+time.Second, func() { close(to.until) })
	s.drain(t.Context())
	if got := to.got.Len(); got != len(text) {
		t.Errorf("%d of %d bytes came", got, len(text))
	}
}
