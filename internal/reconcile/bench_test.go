package reconcile

import (
	"strings"
	"testing"
)

// BenchmarkStep is a decision in steady state: it is asked at least every
// second, and thousands of times a second by the simulation.
func BenchmarkStep(b *testing.B) {
	w := newWorld()
	for _, line := range []string{"deploy shop image=1 servers=5", "deploy shop image=2 servers=5", "deploy web image=3 servers=5"} {
		if err := w.command(strings.Fields(line)); err != nil {
			b.Fatal(err)
		}
	}
	w.wait(0)
	obs := w.observe()
	b.ReportAllocs()
	for b.Loop() {
		if d := Step(w.s, obs, w.now); len(d.Events)+len(d.Actions) > 0 {
			b.Fatal("not at rest")
		}
	}
}
