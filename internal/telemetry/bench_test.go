package telemetry

import (
	"fmt"
	"testing"
	"time"

	"kiln/internal/model"
)

// BenchmarkKeep is one collection of so many servers, stored: of every ten seconds
// it takes so much.
func BenchmarkKeep(b *testing.B) {
	for _, servers := range []int{1, 10, 50, 100} {
		b.Run(fmt.Sprint(servers), func(b *testing.B) {
			w := newWorld(b)
			var all model.RouterTraffic
			for i := range servers {
				id := model.ServerID("shop-" + model.Sixes("bench", uint64(i)))
				w.server(id)
				all.Counters = append(all.Counters, counted("r1", id, 1000).Counters...)
			}
			w.traffic = []model.RouterTraffic{all}
			tl, st := w.telemetry(b.TempDir())
			defer st.close()
			b.ReportAllocs()
			for b.Loop() {
				w.pass(10 * time.Second)
				tl.keep(b.Context(), st)
			}
		})
	}
}
