package soak_test

import (
	"strconv"
	"testing"
	"time"
)

// TestManyServers scales the shop to 200 servers, each of which answers, and
// back; nothing is left of those that go.
func TestManyServers(t *testing.T) {
	s := open(t, "2s", "0s", min(*rate, 100))
	s.memory = "24MiB" // the sum of all limits has to be free
	s.deploy("2", "blue-green")
	began := time.Now()
	s.scale(*many)
	t.Logf("%d servers in service after %s", *many, time.Since(began).Truncate(time.Second))
	answered := map[string]bool{}
	for tries := 0; len(answered) < *many && tries < 40**many; tries++ {
		_, server, err := front(t.Context(), s.port)
		s.must(err)
		answered[server] = true
	}
	if len(answered) < *many {
		t.Errorf("%d of %d servers answer", len(answered), *many)
	}
	// The daemon finds them all again.
	s.must(s.kiln.Kill())
	s.must(s.kiln.Start(t.Context()))
	s.until(5*time.Minute, "settled after the daemon was killed", status.settled)
	began = time.Now()
	s.scale(3)
	s.orphans()
	t.Logf("3 servers and nothing else after %s", time.Since(began).Truncate(time.Second))
	s.judge(nil)
}

func (s *shop) scale(servers int) {
	s.Helper()
	if r := s.run("scale", "shop", strconv.Itoa(servers), "--timeout", "15m"); r.bad() {
		s.Fatalf("scale to %d: %s", servers, r)
	}
	s.count = servers
	s.until(5*time.Minute, strconv.Itoa(servers)+" servers", status.idle)
}
