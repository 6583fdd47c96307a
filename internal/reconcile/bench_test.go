package reconcile

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkStep is a decision in steady state: it is asked at least every
// second, and thousands of times a second by the simulation.
func BenchmarkStep(b *testing.B) {
	w := newWorld()
	w.play(b, "deploy shop image=1 servers=5", "deploy shop image=2 servers=5", "deploy web image=3 servers=5")
	rest(b, w)
}

// BenchmarkStepOfMany is the same for one service of so many servers.
func BenchmarkStepOfMany(b *testing.B) {
	for _, n := range []int{50, 100, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newWorld()
			w.play(b, fmt.Sprintf("deploy shop image=1 servers=%d", n))
			rest(b, w)
		})
	}
}

// BenchmarkRolling is every decision of a rolling deployment of 200 servers.
func BenchmarkRolling(b *testing.B) {
	for b.Loop() {
		w := newWorld()
		w.play(b, "deploy shop image=1 servers=200 keep_warm=0s", "deploy shop image=2 servers=200 strategy=rolling keep_warm=0s deadline=1h", "wait 1m")
		if w.s.Services["shop"].InService != 2 {
			b.Fatal("release 2 is not in service")
		}
	}
}

func (w *world) play(b *testing.B, lines ...string) {
	b.Helper()
	for _, line := range lines {
		if err := w.command(strings.Fields(line)); err != nil {
			b.Fatal(err)
		}
	}
	w.wait(0)
}

func rest(b *testing.B, w *world) {
	b.Helper()
	obs := w.observe()
	b.ReportAllocs()
	for b.Loop() {
		if d := Step(w.s, obs, w.now); len(d.Events)+len(d.Actions) > 0 {
			b.Fatal("not at rest")
		}
	}
}
