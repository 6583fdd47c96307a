package enginetest

import (
	"fmt"
	"strconv"
	"testing"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// meter checks that what servers use is measured: only of those that run, and
// growing as they work.
func meter(t *testing.T, s *suite) {
	m, ok := s.Engine.(engine.Meter)
	if !ok {
		t.Log("the engine measures nothing")
		return
	}
	ref := s.running(t, "serve", strconv.Itoa(servePort))
	address := s.observe(t, ref.ID).Address
	before := usage(t, m, ref.ID)
	if before.Memory <= 0 || before.MemoryLimit != 64<<20 || before.PIDs < 1 || before.At.IsZero() {
		t.Errorf("a server with a limit of 64 MiB uses %+v", before)
	}
	d, ok := s.Engine.(engine.Dialer)
	if ok {
		eventually(t, "it is asked", func() error { return get(t.Context(), d, ref.ID, address) })
		eventually(t, "work shows", func() error {
			if err := ask(t, d, ref.ID, address); err != nil {
				return err
			}
			now := usage(t, m, ref.ID)
			if now.CPU <= before.CPU || now.ReceivedBytes <= before.ReceivedBytes || now.SentBytes <= before.SentBytes {
				return fmt.Errorf("it was %+v and is %+v", before, now)
			}
			return nil
		})
	}
	if err := s.Engine.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	all, err := m.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u, there := all[ref.ID]; there {
		t.Errorf("a server that has ended uses %+v", u)
	}
}

// ask makes the server work.
func ask(t *testing.T, d engine.Dialer, id model.ServerID, address string) error {
	t.Helper()
	for range 20 {
		if err := get(t.Context(), d, id, address); err != nil {
			return err
		}
	}
	return nil
}

func usage(t *testing.T, m engine.Meter, id model.ServerID) engine.Usage {
	t.Helper()
	all, err := m.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u, there := all[id]
	if !there {
		t.Fatalf("of %s, which runs, nothing is measured", id)
	}
	return u
}
