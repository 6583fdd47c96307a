package router

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"kiln/internal/model"
)

// TestLatencyBounds: the router counts by the bounds that it tells.
func TestLatencyBounds(t *testing.T) {
	if got := latencyBounds[:]; !slices.Equal(got, model.LatencyBounds()) {
		t.Errorf("the router counts by %v and says %v", got, model.LatencyBounds())
	}
}

// TestBuckets: a duration goes into the first bucket whose bound is not less,
// and every request into one.
func TestBuckets(t *testing.T) {
	var ty tally
	for _, took := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 40 * time.Millisecond, 10 * time.Second, time.Hour} {
		ty.add(http.StatusOK, 0, 0, took)
	}
	c := ty.counter(tallyKey{"web", 1, "web-aaaaaa"})
	if want := []uint64{2, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1}; !slices.Equal(c.Buckets, want) {
		t.Errorf("the buckets are %v, want %v", c.Buckets, want)
	}
	if c.Requests != 6 || c.Status[2] != 6 {
		t.Errorf("%d requests, %d of them 2xx; want 6", c.Requests, c.Status[2])
	}
}

// TestInheritedBuckets: what a router of an older kiln counted is counted, and
// in no bucket.
func TestInheritedBuckets(t *testing.T) {
	ts := newTallies()
	k := tallyKey{"web", 1, "web-aaaaaa"}
	ts.inherit(Counters{Counters: []Counter{{Service: k.service, Release: k.release, Server: k.server, Requests: 5}}})
	ts.of(k).add(http.StatusOK, 0, 0, time.Millisecond)
	heir := newTallies()
	heir.inherit(Counters{Counters: []Counter{ts.of(k).counter(k)}})
	c := heir.of(k).counter(k)
	if c.Requests != 6 || c.Buckets[0] != 1 || c.Buckets[len(c.Buckets)-1] != 0 {
		t.Errorf("inherited %+v, want 6 requests, one of them in the first bucket", c)
	}
}

// TestFailedRequests: answers that a server breaks off, and those that it never
// begins, count as failed; what clients spoil does not.
func TestFailedRequests(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			r := startRouter(t, Limits{})
			r.serve(model.HTTP, backendServer(t, "web-aaaaaa", http.HandlerFunc(misbehave)))
			c := client(t, h2)
			for _, path := range []string{"/", "/break", "/silent", "/fail", "/missing"} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url(path), nil)
				if err != nil {
					t.Fatal(err)
				}
				if res, err := c.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body) // how it ends is what the router is asked about
					_ = res.Body.Close()
				}
			}
			eventually(t, "the failures are counted", func() bool {
				cs := r.Counters().Counters
				return len(cs) == 1 && cs[0].Requests == 5 && cs[0].Broken == 1 && cs[0].Failed() == 3
			})
		})
	}
}

func misbehave(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/break":
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "/silent":
		panic(http.ErrAbortHandler)
	case "/fail":
		w.WriteHeader(http.StatusInternalServerError)
	case "/missing":
		w.WriteHeader(http.StatusNotFound)
	}
}
