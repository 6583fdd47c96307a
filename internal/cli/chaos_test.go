package cli

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
)

var picture = flag.String("picture", "", "write the picture of the test to this file, to look at")

func recovered(after time.Duration) api.Experiment {
	d := model.Duration(after)
	return api.Experiment{Kind: model.ChaosKill, Outcome: model.ChaosRecovered, RecoveredAfter: &d, DetectedAfter: &d}
}

// TestRecoveryPicture: the picture is well-formed, and its bars count every
// experiment that recovered, once.
func TestRecoveryPicture(t *testing.T) {
	for name, list := range map[string][]api.Experiment{
		"none": {{Kind: model.ChaosCPU, Outcome: model.ChaosWithstood}},
		"one":  {recovered(1500 * time.Millisecond)},
		"zero": {recovered(0), recovered(0)},
		"long": {recovered(time.Hour), recovered(time.Millisecond)},
		"many": many(),
	} {
		t.Run(name, func(t *testing.T) {
			b := recoveryPicture("shop<&>", list)
			if *picture != "" && name == "many" {
				if err := os.WriteFile(*picture, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			counted := 0
			for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
				token, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("it is not well-formed: %v\n%s", err, b)
				}
				if text, ok := token.(xml.CharData); ok && strings.Contains(string(text), " to ") {
					n := 0
					if _, err := fmt.Sscan(string(text[strings.LastIndexByte(string(text), ' '):]), &n); err == nil {
						counted += n
					}
				}
			}
			want := len(list)
			if name == "none" {
				want = 0
			}
			if counted != want || strings.Contains(string(b), "NaN") || !strings.Contains(string(b), "shop&lt;&amp;&gt;") {
				t.Errorf("it counts %d, want %d\n%s", counted, want, b)
			}
		})
	}
}

func many() []api.Experiment {
	var list []api.Experiment
	for i := range 240 {
		u := (float64(i) + 0.5) / 240
		list = append(list, recovered(time.Duration((1.2-1.9*math.Log(1-u))*float64(time.Second))))
	}
	return list
}

func TestNiceAbove(t *testing.T) {
	for x, want := range map[float64]float64{0.03: 0.05, 0.1: 0.1, 1: 1, 1.1: 2, 3: 5, 6: 10, 47: 50} {
		if got := niceAbove(x); math.Abs(got-want) > 1e-9 {
			t.Errorf("%g gives %g, want %g", x, got, want)
		}
	}
}
