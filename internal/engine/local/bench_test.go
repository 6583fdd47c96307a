package local

import (
	"net"
	"strconv"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// BenchmarkProvision measures one server after the other, from the call until
// it accepts a connection.
func BenchmarkProvision(b *testing.B) {
	w := newWorld(b)
	e := w.open(b)
	image := w.addSuiteImage(b)
	if err := e.Prepare(b.Context(), image); err != nil {
		b.Fatal(err)
	}
	template := model.Template{
		Service: "bench", Image: image, Command: []string{"serve", "8080"},
		Resources: model.Resources{Memory: 64 << 20, CPU: 1000, PIDs: 64},
	}
	n := uint64(0)
	for b.Loop() {
		n++
		ref := engine.Ref{Epoch: 1, ID: model.ServerID("bench-" + model.Sixes("benchs", n))}
		if err := e.Provision(b.Context(), ref, template); err != nil {
			b.Fatal(err)
		}
		awaitPort(b, e, ref.ID, 8080)
	}
}

// BenchmarkTwenty measures, with twenty servers, an observation, and what a new
// daemon does before its first: opening the engine.
func BenchmarkTwenty(b *testing.B) {
	w := newWorld(b)
	e, err := New(b.Context(), w.Config)
	if err != nil {
		b.Fatal(err)
	}
	image := w.addSuiteImage(b)
	if err := e.Prepare(b.Context(), image); err != nil {
		b.Fatal(err)
	}
	template := model.Template{Service: "bench", Image: image, Command: []string{"serve", "8080"}}
	for n := range uint64(20) {
		ref := engine.Ref{Epoch: 1, ID: model.ServerID("bench-" + model.Sixes("benchs", n))}
		if err := e.Provision(b.Context(), ref, template); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("observe", func(b *testing.B) {
		for b.Loop() {
			if _, err := e.Observe(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if err := e.Close(); err != nil {
				b.Fatal(err)
			}
			if e, err = New(b.Context(), w.Config); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// awaitPort waits until the server accepts a connection.
func awaitPort(t testing.TB, e *Engine, id model.ServerID, port int) {
	t.Helper()
	_, r := e.lookup(id)
	if r == nil {
		t.Fatalf("%s does not exist", id)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := e.DialServer(t.Context(), id, net.JoinHostPort(r.Address, strconv.Itoa(port)))
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not accept a connection: %v", id, err)
		}
		time.Sleep(time.Millisecond)
	}
}
