package reconcile

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/model"
)

// TestDiagram holds the diagram in ARCHITECTURE.md to the transition table.
func TestDiagram(t *testing.T) {
	const file, begin, end = "../../ARCHITECTURE.md", "<!-- deployment-diagram:begin -->\n", "<!-- deployment-diagram:end -->"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the diagram: %s…%s", file, begin, end)
	}
	want := "\n" + Diagram() + "\n"
	if *rewrite {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("%s does not show the transition table; go test ./internal/reconcile -rewrite (-want +got):\n%s", file, diff)
	}
}

// TestTransitionsAreWhole finds phases that nothing leads to, or out of.
func TestTransitionsAreWhole(t *testing.T) {
	for _, p := range phases {
		in, out := p.Phase == model.DeployPreparing || p.Phase == model.DeployQueued, p.Phase == model.DeployEnded
		for _, tr := range transitions {
			in = in || tr.To == p.Phase
			out = out || tr.From == p.Phase
			if tr.Doc == "" {
				t.Errorf("the transition %s → %s is not documented", tr.From, tr.To)
			}
		}
		if !in || !out || p.Doc == "" {
			t.Errorf("phase %s: reached %t, left %t, documented %t", p.Phase, in, out, p.Doc != "")
		}
	}
}

// TestImpossibleMoves shows that a move the tables do not list panics.
func TestImpossibleMoves(t *testing.T) {
	w := newWorld()
	if err := w.command(strings.Fields("deploy shop image=1 wait=no")); err != nil {
		t.Fatal(err)
	}
	v := &service{step: &step{s: w.s, now: w.now}, svc: w.s.Services["shop"]}
	mustPanic(t, "preparing → checking", v.becomeChecking)
	srv := &model.Server{ID: "shop-aaaaaa", Service: "shop", Release: 1, Phase: model.PhaseEnded}
	mustPanic(t, "ended → serving", func() { v.becomeServing(srv, 1) })
	mustPanic(t, "ended → stopping", func() { v.becomeStopping(srv, "") })
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s does not panic", what)
		}
	}()
	f()
}
