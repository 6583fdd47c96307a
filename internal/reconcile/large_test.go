package reconcile

import (
	"strings"
	"testing"

	"kiln/internal/model"
)

// A decision about many servers takes few turns: the shell gives up on one that
// does not settle.
func TestLargeSettlesSoon(t *testing.T) {
	for name, script := range map[string][]string{
		"a scale that is aborted": {"deploy shop image=1 servers=3 drain=0s", "image 1 stuck", "scale shop servers=150", "abort shop wait=no"},
		"fewer servers":           {"deploy shop image=1 servers=150 unavailable=100% drain=0s", "scale shop servers=2 wait=no"},
		"a rolling deployment": {
			"deploy shop image=1 servers=120 drain=0s", "deploy shop image=2 servers=120 strategy=rolling unavailable=50% surge=0 drain=0s", "wait 2s",
			"wait 2s", "wait 2s", "wait 2s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			inARow, most := 0, 0 // turns that wrote something down
			w.check = func(_ *model.State, d Decision) {
				inARow++
				if len(d.Events) == 0 {
					inARow = 0
				}
				most = max(most, inARow)
			}
			for _, line := range script {
				if err := w.command(strings.Fields(line)); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
			w.run()
			if most > 30 {
				t.Errorf("it takes %d turns", most)
			}
		})
	}
}
