package local

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// BenchmarkProvision measures one server after the other, from the call until
// it accepts a connection, by turns in a user namespace of its own and with the
// machine's users: "ms/plain" is the latter, "ratio" that of the medians.
func BenchmarkProvision(b *testing.B) {
	w := newWorld(b)
	e := w.open(b)
	image := w.addSuiteImage(b)
	if err := e.Prepare(b.Context(), image); err != nil {
		b.Fatal(err)
	}
	n := uint64(0)
	provision := func(userNamespace bool) time.Duration {
		n++
		ref := engine.Ref{Epoch: 1, ID: model.ServerID("bench-" + model.Sixes("benchs", n))}
		template := model.Template{
			Service: "bench", Image: image, Command: []string{"serve", "8080"}, UserNamespace: userNamespace,
			Resources: model.Resources{Memory: 64 << 20, CPU: 1000, PIDs: 64},
		}
		began := time.Now()
		if err := e.Provision(b.Context(), ref, template); err != nil {
			b.Fatal(err)
		}
		awaitPort(b, e, ref.ID, 8080)
		took := time.Since(began)
		if err := errors.Join(e.Stop(b.Context(), ref, "", 0), e.Destroy(b.Context(), ref)); err != nil {
			b.Fatal(err)
		}
		return took
	}
	provision(true)
	provision(false) // the first of each look into the image
	var own, plain []time.Duration
	for b.Loop() {
		if n%4 == 2 { // neither always comes after the other
			own, plain = append(own, provision(true)), append(plain, provision(false))
		} else {
			plain, own = append(plain, provision(false)), append(own, provision(true))
		}
	}
	slices.Sort(own)
	slices.Sort(plain)
	median := func(d []time.Duration) float64 { return float64(d[len(d)/2].Microseconds()) / 1000 }
	b.ReportMetric(median(own), "ms")
	b.ReportMetric(median(plain), "ms/plain")
	b.ReportMetric(median(own)/median(plain), "ratio")
}

// BenchmarkServers measures, with so many servers, an observation, and what a
// new daemon does before its first: opening the engine; and beside them how long
// all take to be started at once, and to be removed.
func BenchmarkServers(b *testing.B) {
	for _, count := range []uint64{20, 200} {
		b.Run(strconv.FormatUint(count, 10), func(b *testing.B) { benchmarkServers(b, count) })
	}
}

func benchmarkServers(b *testing.B, count uint64) {
	w := newWorld(b)
	e, err := New(b.Context(), w.Config)
	if err != nil {
		b.Fatal(err)
	}
	image := w.addSuiteImage(b)
	if err := e.Prepare(b.Context(), image); err != nil {
		b.Fatal(err)
	}
	template := model.Template{Service: "bench", Image: image, Command: []string{"serve", "8080"}, UserNamespace: true}
	ref := func(n uint64) engine.Ref {
		return engine.Ref{Epoch: 1, ID: model.ServerID("bench-" + model.Sixes("benchs", n))}
	}
	each := func(do func(engine.Ref) error) time.Duration {
		began := time.Now()
		var all sync.WaitGroup
		for n := range count {
			all.Go(func() {
				if err := do(ref(n)); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
		return time.Since(began)
	}
	started := each(func(r engine.Ref) error { return e.Provision(b.Context(), r, template) })
	for n := range count {
		awaitPort(b, e, ref(n).ID, 8080)
	}
	b.Run("observe", func(b *testing.B) {
		for b.Loop() {
			if s, err := e.Observe(b.Context()); err != nil || uint64(len(s.Servers)) != count || len(s.Orphans) != 0 {
				b.Fatal(s, err)
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
	removed := each(func(r engine.Ref) error {
		return errors.Join(e.Stop(b.Context(), r, "", 0), e.Destroy(b.Context(), r))
	})
	b.Logf("%d servers: started in %s, removed in %s", count, started.Round(time.Millisecond), removed.Round(time.Millisecond))
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
