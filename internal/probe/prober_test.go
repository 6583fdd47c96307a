package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

const server = model.ServerID("shop-aaaaaa")

// loopback dials as an engine with a network does.
type loopback struct{}

func (loopback) DialServer(ctx context.Context, _ model.ServerID, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// dialFunc answers dials without a network.
type dialFunc func(ctx context.Context) (net.Conn, error)

func (f dialFunc) DialServer(ctx context.Context, _ model.ServerID, _ string) (net.Conn, error) {
	return f(ctx)
}

type execFunc func(ctx context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error)

func (f execFunc) Exec(ctx context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error) {
	return f(ctx, ref, x)
}

func tcpTarget(interval time.Duration, passes, fails int) Target {
	return Target{
		Ref: engine.Ref{Epoch: 1, ID: server}, Address: "198.18.0.2:80",
		Health: model.Health{Kind: model.CheckTCP, Interval: model.Duration(interval), Timeout: model.Duration(time.Second), Passes: passes, Fails: fails},
	}
}

// refusing returns a dialer that refuses while refuse is set, and counts.
func refusing(refuse *atomic.Bool, dials *atomic.Int64) Dialer {
	return dialFunc(func(context.Context) (net.Conn, error) {
		dials.Add(1)
		if refuse.Load() {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		near, far := net.Pipe()
		_ = far.Close()
		return near, nil
	})
}

func bubble(t *testing.T, d Dialer, test func(p *Prober, elapsed func() time.Duration)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := New(Config{Dialer: d, Now: func() model.Instant { return model.Instant(time.Since(began)) }})
		defer p.Close()
		test(p, func() time.Duration { return time.Since(began) })
	})
}

func status(p *Prober) model.HealthStatus { return p.Health()[server].Status }

func TestUnknownUntilPassesInARow(t *testing.T) {
	var refuse atomic.Bool
	var dials atomic.Int64
	bubble(t, refusing(&refuse, &dials), func(p *Prober, elapsed func() time.Duration) {
		p.Sync([]Target{tcpTarget(time.Second, 3, 2)})
		time.Sleep(500 * time.Millisecond)
		if status(p) != model.HealthUnknown || dials.Load() != 1 {
			t.Fatalf("after one pass of three it is %s, %d dials", status(p), dials.Load())
		}
		<-p.Changes()
		if got := elapsed(); status(p) != model.Healthy || got < 1800*time.Millisecond || got > 2200*time.Millisecond {
			t.Fatalf("it became %s after %s; three passes an interval apart take 2 s", status(p), got)
		}
		if seen := p.Health()[server]; seen.At != model.Instant(elapsed()) || !strings.Contains(seen.Detail, "198.18.0.2:80 took a connection") {
			t.Fatalf("seen is %+v at %s", seen, elapsed())
		}
	})
}

func TestUnhealthyAfterFailsInARow(t *testing.T) {
	var refuse atomic.Bool
	var dials atomic.Int64
	bubble(t, refusing(&refuse, &dials), func(p *Prober, _ func() time.Duration) {
		p.Sync([]Target{tcpTarget(time.Second, 1, 3)})
		<-p.Changes()
		refuse.Store(true)
		time.Sleep(1500 * time.Millisecond)
		if status(p) != model.Healthy || !strings.Contains(p.Health()[server].Detail, "refused the connection") {
			t.Fatalf("after one failure of three: %+v", p.Health()[server])
		}
		refuse.Store(false) // the row is broken
		time.Sleep(time.Second)
		refuse.Store(true)
		before := dials.Load()
		<-p.Changes()
		if status(p) != model.Unhealthy || dials.Load()-before != 3 {
			t.Fatalf("it is %s after %d failures in a row, want unhealthy after 3", status(p), dials.Load()-before)
		}
		refuse.Store(false)
		<-p.Changes()
		if status(p) != model.Healthy {
			t.Fatalf("it is %s after it came back", status(p))
		}
	})
}

func TestStartingServerStaysUnknownAndIsAskedSoon(t *testing.T) {
	var refuse atomic.Bool
	var dials atomic.Int64
	refuse.Store(true)
	bubble(t, refusing(&refuse, &dials), func(p *Prober, elapsed func() time.Duration) {
		p.Sync([]Target{tcpTarget(time.Second, 1, 1)})
		time.Sleep(60 * time.Millisecond)
		if status(p) != model.HealthUnknown || dials.Load() < 3 {
			t.Fatalf("after 60 ms it is %s and was asked %d times", status(p), dials.Load())
		}
		if !strings.Contains(p.Health()[server].Detail, "nothing listens there") {
			t.Fatalf("the detail of the last failure is lost: %+v", p.Health()[server])
		}
		time.Sleep(20 * time.Second)
		before := dials.Load()
		time.Sleep(10 * time.Second)
		if n := dials.Load() - before; n < 9 || n > 11 {
			t.Fatalf("a server that does not start is asked %d times in 10 s, want once an interval", n)
		}
		if status(p) != model.HealthUnknown {
			t.Fatalf("a server that was never healthy is %s", status(p))
		}
		refuse.Store(false)
		<-p.Changes()
		if status(p) != model.Healthy {
			t.Fatalf("%s after %s", status(p), elapsed())
		}
	})
}

func TestProvenServerBecomesUnhealthy(t *testing.T) {
	var refuse atomic.Bool
	var dials atomic.Int64
	refuse.Store(true)
	bubble(t, refusing(&refuse, &dials), func(p *Prober, _ func() time.Duration) {
		target := tcpTarget(time.Second, 1, 2)
		target.Proven = true
		p.Sync([]Target{target})
		<-p.Changes()
		if status(p) != model.Unhealthy || dials.Load() != 2 {
			t.Fatalf("it is %s after %d failures, want unhealthy after 2", status(p), dials.Load())
		}
	})
}

// What keeps kiln itself from asking says nothing of the server.
func TestServerThatIsNotAskedStaysAsItWas(t *testing.T) {
	var short atomic.Bool
	d := dialFunc(func(context.Context) (net.Conn, error) {
		if short.Load() {
			return nil, &net.OpError{Op: "dial", Err: &os.SyscallError{Syscall: "socket", Err: syscall.EMFILE}}
		}
		near, far := net.Pipe()
		_ = far.Close()
		return near, nil
	})
	bubble(t, d, func(p *Prober, _ func() time.Duration) {
		p.Sync([]Target{tcpTarget(time.Second, 1, 2)})
		time.Sleep(1500 * time.Millisecond)
		seen := p.Health()[server]
		short.Store(true)
		time.Sleep(time.Minute)
		if got := p.Health()[server]; got.Status != model.Healthy || got.At > seen.At.Add(2*time.Second) {
			t.Errorf("without a file to ask with, it is %s as of %s", got.Status, time.Duration(got.At))
		}
		short.Store(false)
		time.Sleep(2 * time.Second)
		if got := p.Health()[server]; got.Status != model.Healthy || got.At < seen.At.Add(30*time.Second) {
			t.Errorf("asked again, it is %s as of %s", got.Status, time.Duration(got.At))
		}
	})
}

// A command that cannot be run while containerd is away is no failure of the
// server; one that fails is.
func TestExecThatCannotBeRunSaysNothing(t *testing.T) {
	var failing atomic.Pointer[error]
	run := execFunc(func(context.Context, engine.Ref, engine.Exec) (engine.ExecResult, error) {
		if err := failing.Load(); err != nil {
			return engine.ExecResult{}, *err
		}
		return engine.ExecResult{}, nil
	})
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Exec: run, Now: func() model.Instant { return 1 }})
		defer p.Close()
		target := tcpTarget(time.Second, 1, 2)
		target.Health.Kind, target.Health.Command = model.CheckExec, []string{"/check"}
		p.Sync([]Target{target})
		time.Sleep(1500 * time.Millisecond)
		for _, c := range []struct {
			err  error
			want model.HealthStatus
		}{
			{model.Errorf(model.Unavailable, "containerd does not answer"), model.Healthy},
			{model.Errorf(model.Internal, "no such program"), model.Unhealthy},
		} {
			failing.Store(&c.err)
			time.Sleep(10 * time.Second)
			if got := status(p); got != c.want {
				t.Errorf("with %v it is %s, want %s", c.err, got, c.want)
			}
		}
	})
}

func TestServerThatIsProvenLater(t *testing.T) {
	var refuse atomic.Bool
	var dials atomic.Int64
	refuse.Store(true)
	bubble(t, refusing(&refuse, &dials), func(p *Prober, _ func() time.Duration) {
		target := tcpTarget(time.Second, 1, 2)
		p.Sync([]Target{target})
		time.Sleep(5 * time.Second)
		if status(p) != model.HealthUnknown {
			t.Fatal(status(p))
		}
		target.Proven = true
		p.Sync([]Target{target})
		time.Sleep(2 * time.Second)
		if status(p) != model.Unhealthy {
			t.Fatalf("a server that serves, and fails, is %s", status(p))
		}
	})
}

func TestSyncStartsAndStops(t *testing.T) {
	var refuse atomic.Bool
	var dials atomic.Int64
	bubble(t, refusing(&refuse, &dials), func(p *Prober, _ func() time.Duration) {
		target := tcpTarget(time.Second, 1, 2)
		p.Sync([]Target{target})
		<-p.Changes()
		target.Ref.Epoch, target.Proven = 2, true
		p.Sync([]Target{target})
		if status(p) != model.Healthy {
			t.Fatal("the same check was begun anew")
		}
		target.Health.Passes = 5
		p.Sync([]Target{target})
		if status(p) != model.HealthUnknown {
			t.Fatalf("another check starts as %s", status(p))
		}
		p.Sync(nil)
		if len(p.Health()) != 0 {
			t.Fatalf("what is not watched has a health: %v", p.Health())
		}
		synctest.Wait()
		before := dials.Load()
		time.Sleep(10 * time.Second)
		if dials.Load() != before {
			t.Fatalf("a probe goes on after it was stopped: %d dials", dials.Load()-before)
		}
	})
}

func TestHangingConnectIsBounded(t *testing.T) {
	hang := dialFunc(func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	bubble(t, hang, func(p *Prober, _ func() time.Duration) {
		p.Sync([]Target{tcpTarget(100*time.Millisecond, 1, 1)})
		time.Sleep(1500 * time.Millisecond)
		if got := p.Health()[server].Detail; got != "198.18.0.2:80 did not take a connection within 1s" {
			t.Fatalf("the detail is %q", got)
		}
	})
}

func TestExecHealth(t *testing.T) {
	var code atomic.Int64
	var epoch atomic.Uint64
	run := execFunc(func(_ context.Context, ref engine.Ref, x engine.Exec) (engine.ExecResult, error) {
		epoch.Store(ref.Epoch)
		return engine.ExecResult{Code: int(code.Load()), Output: []byte(strings.Join(x.Command, "+") + "\x1b[31m\n")}, nil
	})
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Exec: run, Now: func() model.Instant { return 1 }})
		defer p.Close()
		target := tcpTarget(time.Second, 1, 1)
		target.Health.Kind, target.Health.Command = model.CheckExec, []string{"check", "it"}
		p.Sync([]Target{target})
		<-p.Changes()
		target.Ref.Epoch = 7
		p.Sync([]Target{target})
		code.Store(3)
		<-p.Changes()
		if got := p.Health()[server]; got.Status != model.Unhealthy || got.Detail != `"check it" ended with exit status 3: "check+it.[31m"` {
			t.Fatalf("%+v", got)
		}
		if epoch.Load() != 7 {
			t.Fatalf("the command ran in the name of epoch %d, want the newest, 7", epoch.Load())
		}
	})
}

func TestNoCheckIsHealthyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Now: func() model.Instant { return 1 }})
		defer p.Close()
		target := tcpTarget(time.Second, 1, 1)
		target.Health.Kind = model.CheckNone
		p.Sync([]Target{target})
		<-p.Changes()
		if status(p) != model.Healthy {
			t.Fatal(status(p))
		}
	})
}

func TestManyServersAtOnce(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	defer srv.Close()
	p := New(Config{Dialer: loopback{}, Now: func() model.Instant { return 1 }})
	var targets []Target
	for i := range 50 {
		targets = append(targets, Target{
			Ref: engine.Ref{ID: model.ServerID("shop-" + model.Sixes("aaaaaa", uint64(i)))}, Address: srv.Listener.Addr().String(),
			Health: model.Health{Kind: model.CheckHTTP, Interval: model.Duration(10 * time.Millisecond), Timeout: model.Duration(5 * time.Second), Passes: 2},
		})
	}
	var syncs sync.WaitGroup
	for range 4 {
		syncs.Go(func() { p.Sync(targets) })
	}
	syncs.Wait()
	deadline := time.After(20 * time.Second)
	for healthy := 0; healthy < len(targets); {
		select {
		case <-p.Changes():
		case <-deadline:
			t.Fatalf("%d of %d are healthy: %v", healthy, len(targets), p.Health())
		}
		healthy = 0
		for _, h := range p.Health() {
			if h.Status == model.Healthy {
				healthy++
			}
		}
	}
	p.Close()
	p.Sync(targets)
	if len(p.Health()) != 0 {
		t.Fatal("a closed prober watches")
	}
}

func TestReasons(t *testing.T) {
	for want, err := range map[string]error{
		"refused the connection: nothing listens there":     fmt.Errorf("dial: %w", syscall.ECONNREFUSED),
		"reset the connection":                              syscall.ECONNRESET,
		"closed the connection without an answer":           io.EOF,
		"cannot be reached: there is no way to its address": syscall.EHOSTUNREACH,
		"took the connection and did not answer within 1s":  context.DeadlineExceeded,
		"failed: something else":                            errors.New("something else"),
	} {
		if got := reason(err, true, time.Second); got != want {
			t.Errorf("%v is told as %q, want %q", err, got, want)
		}
	}
}
