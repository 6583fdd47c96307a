package builder

import (
	"bytes"
	"context"
	"regexp"
	"strconv"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/metadata"
)

// keptOutput bounds what is remembered of a step's output for an error.
const keptOutput = 8 << 10

// trace turns BuildKit's status into events and remembers what an error needs.
type trace struct {
	mu    sync.Mutex
	emit  func(Event)
	steps map[string]*step // by the vertex's digest
}

// step is what is known of one vertex.
type step struct {
	Event
	started time.Time
	shown   Status
	output  []byte // the last of it
}

func newTrace(emit func(Event)) *trace {
	return &trace{emit: emit, steps: map[string]*step{}}
}

// note emits a remark.
func (t *trace) note(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emit(Event{Status: Note, Log: text})
}

// update takes in one message of BuildKit's.
func (t *trace) update(resp *controlapi.StatusResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range resp.Vertexes {
		t.vertexLocked(v)
	}
	for _, l := range resp.Logs {
		s, ok := t.steps[l.Vertex]
		if !ok {
			continue
		}
		s.output = append(s.output, l.Msg...)
		if over := len(s.output) - keptOutput; over > 0 {
			s.output = append([]byte(nil), s.output[over:]...)
		}
		e := s.Event
		e.Status, e.Log = Output, string(l.Msg)
		t.emit(e)
	}
	for _, w := range resp.Warnings {
		t.emit(Event{Status: Note, Log: string(w.Short)})
	}
}

func (t *trace) vertexLocked(v *controlapi.Vertex) {
	s, ok := t.steps[v.Digest]
	if !ok {
		s = &step{Event: parseName(v.Name)}
		t.steps[v.Digest] = s
	}
	if v.Started != nil && s.shown == "" {
		s.started = v.Started.AsTime()
		if !v.Cached {
			t.showLocked(s, Started, 0)
		}
	}
	if v.Completed == nil || ended(s.shown) {
		return
	}
	took := time.Duration(0)
	if !s.started.IsZero() {
		took = v.Completed.AsTime().Sub(s.started)
	}
	switch {
	case v.Error != "":
		t.showLocked(s, Failed, took)
	case v.Cached:
		t.showLocked(s, Cached, took)
	default:
		t.showLocked(s, Done, took)
	}
}

func (t *trace) showLocked(s *step, status Status, took time.Duration) {
	s.shown = status
	e := s.Event
	e.Status, e.Duration = status, took.Milliseconds()
	t.emit(e)
}

func ended(s Status) bool { return s == Done || s == Cached || s == Failed }

// tail returns the last output of the step that failed, or nil.
func (t *trace) tail() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.steps {
		if s.shown == Failed && len(s.output) > 0 {
			return bytes.TrimRight(s.output, "\n")
		}
	}
	return nil
}

// stepName matches how BuildKit names the steps of a Containerfile: an
// optional stage, the step's number and their total, and the instruction.
var stepName = regexp.MustCompile(`^\[(?:(\S+) +)?(\d+)/(\d+)\] (.*)$`)

func parseName(name string) Event {
	m := stepName.FindStringSubmatch(name)
	if m == nil {
		return Event{Name: name}
	}
	n, err1 := strconv.Atoi(m[2])
	total, err2 := strconv.Atoi(m[3])
	if err1 != nil || err2 != nil {
		return Event{Name: name}
	}
	return Event{Stage: m[1], Step: n, Total: total, Name: m[4]}
}

// statusStream is the end of BuildKit's status stream that takes messages.
type statusStream struct {
	ctx  context.Context
	sink func(*controlapi.StatusResponse)
}

// Send implements grpc.ServerStreamingServer.
func (s *statusStream) Send(r *controlapi.StatusResponse) error { s.sink(r); return nil }

// SendMsg implements grpc.ServerStream.
func (s *statusStream) SendMsg(m any) error {
	if r, ok := m.(*controlapi.StatusResponse); ok {
		s.sink(r)
	}
	return nil
}

// Context implements grpc.ServerStream.
func (s *statusStream) Context() context.Context { return s.ctx }

// SetHeader implements grpc.ServerStream: there is nobody to send headers to.
func (s *statusStream) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream.
func (s *statusStream) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream.
func (s *statusStream) SetTrailer(metadata.MD) {}

// RecvMsg implements grpc.ServerStream: nothing comes from the client.
func (s *statusStream) RecvMsg(any) error { return nil }
