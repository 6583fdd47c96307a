package router

import (
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"kiln/internal/model"
)

// windowed returns a router by TLS whose server answers as many bytes as the
// path says.
func windowed(t *testing.T, limit time.Duration) (*testRouter, *testAuthority) {
	r := startRouter(t, Limits{BodyIdle: limit})
	ca := newAuthority(t)
	answer := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n, err := strconv.Atoi(strings.TrimPrefix(req.URL.Path, "/size/"))
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(make([]byte, n))
	})
	svc := r.secureService("web", "shop.test", ca.issue(model.TLS{}, "shop.test"), backendServer(t, "web-aaaaaa", answer))
	svc.Routes[0].Path = "/size"
	r.apply([]model.TableService{svc})
	return r, ca
}

// TestWindowThatStaysShut: a client that lets nothing of an answer move loses the
// stream, be the answer large or small, and keeps the connection.
func TestWindowThatStaysShut(t *testing.T) {
	r, ca := windowed(t, 100*time.Millisecond)
	c := dialH2(t, ca, r.address)
	if err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	for i, n := range []string{"/size/10", "/size/100000", "/" + strings.Repeat("x", 10_000)} { // the last is refused by the router itself
		stream := uint32(2*i + 1)
		c.path = n
		if err := c.request(stream); err != nil {
			t.Fatal(err)
		}
		err := c.until(func(f http2.Frame) bool {
			reset, ok := f.(*http2.RSTStreamFrame)
			return ok && reset.StreamID == stream
		})
		if err != nil {
			t.Fatalf("an answer to %.20s that the client does not let move: %v", n, err)
		}
	}
}

// TestWindowThatOpensSlowly: a client that takes a little now and then gets the
// whole answer, however long that takes.
func TestWindowThatOpensSlowly(t *testing.T) {
	const idle, size, step = 80 * time.Millisecond, 24 << 10, 2 << 10
	const limit = 5 * idle
	r, ca := windowed(t, idle)
	c := dialH2(t, ca, r.address)
	if err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	c.path = "/size/" + strconv.Itoa(size)
	if err := c.request(1); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range size / step { // 12 steps of a quarter of the limit: three times the limit
			time.Sleep(limit / 4)
			if c.framer.WriteWindowUpdate(1, step) != nil {
				return
			}
		}
	}()
	got := 0
	err := c.until(func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.DataFrame:
			got += len(f.Data())
			return f.StreamEnded()
		case *http2.RSTStreamFrame:
			t.Errorf("the stream is reset after %d bytes: %v", got, f.ErrCode)
			return true
		}
		return false
	})
	if err != nil || got != size {
		t.Errorf("%d bytes of %d came (%v)", got, size, err)
	}
}

// TestStallIsOverAtItsEnd: nobody is given up after the handler has returned, when
// net/http has taken its writer away.
func TestStallIsOverAtItsEnd(t *testing.T) {
	const limit = 50 * time.Microsecond
	tripped := 0
	for range 2000 {
		var over, late atomic.Bool
		var trips atomic.Int32
		s := newStall(limit, func() {
			trips.Add(1)
			late.Store(late.Load() || over.Load())
		})
		s.during(func() { time.Sleep(limit) })
		s.end()
		over.Store(true)
		runtime.Gosched()
		if late.Load() {
			t.Fatal("a client is given up after the end")
		}
		tripped += int(trips.Load())
	}
	if tripped == 0 {
		t.Error("nobody was ever given up")
	}
}
