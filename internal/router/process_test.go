package router

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kiln/internal/keeper"
	"kiln/internal/model"
)

// processes are a real keeper and a real router, killed by the tests.
type processes struct {
	t       *testing.T
	run     string
	data    string
	router  *Client
	keeper  *keeper.Client
	address string
	gen     uint64
}

func newProcesses(t *testing.T) *processes {
	t.Helper()
	run, err := os.MkdirTemp("", "kiln-run-") //nolint:usetesting // short, because socket paths are
	if err != nil {
		t.Fatal(err)
	}
	p := &processes{t: t, run: run, data: t.TempDir(), router: Dial(run), keeper: keeper.NewClient(run), address: freeAddress(t)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.keeper.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		_ = os.RemoveAll(run)
	})
	return p
}

// startRole starts the test binary in a role.
func (p *processes) startRole(role string) *process {
	p.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, "KILN_TEST_RUN="+p.run, "KILN_TEST_DATA="+p.data)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	r := &process{Cmd: cmd, ended: make(chan struct{})}
	go func() {
		r.err = cmd.Wait()
		close(r.ended)
	}()
	return r
}

// process is a process in a role, reaped when it ends.
type process struct {
	*exec.Cmd
	ended chan struct{}
	err   error // valid once ended is closed
}

// wait returns how it ended.
func (p *process) wait() error {
	<-p.ended
	return p.err
}

// startKeeper starts a keeper and waits until its router answers.
func (p *processes) startKeeper() *process {
	p.t.Helper()
	cmd := p.startRole("keeper")
	p.awaitRouter("")
	eventually(p.t, "the keeper answers", func() bool { _, err := p.keeper.Status(p.t.Context()); return err == nil })
	return cmd
}

// awaitRouter waits for a router other than the one of the id.
func (p *processes) awaitRouter(not string) model.RouterStatus {
	p.t.Helper()
	var st model.RouterStatus
	eventually(p.t, "a router answers", func() bool {
		var err error
		st, err = p.router.Status(p.t.Context())
		return err == nil && st.ID != not
	})
	return st
}

func (p *processes) routerPID() int {
	p.t.Helper()
	pid := 0
	eventually(p.t, "the keeper knows a router", func() bool {
		st, err := p.keeper.Status(p.t.Context())
		if err == nil && len(st.Children) == 1 {
			pid = st.Children[0].PID
		}
		return pid != 0
	})
	return pid
}

func (p *processes) serve(listen []string, backends ...model.Upstream) error {
	svc := model.TableService{Name: "web", Release: 1, Protocol: model.HTTP, Backends: backends}
	for _, l := range listen {
		svc.Routes = append(svc.Routes, model.Route{Listen: l})
	}
	p.gen++
	_, err := p.router.Apply(p.t.Context(), model.Table{Epoch: 1, Generation: p.gen, Services: []model.TableService{svc}})
	return err
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestRouterKilled: with SIGKILL again and again, no new connection is
// refused, and each is served: by the next router, with its last table.
func TestRouterKilled(t *testing.T) {
	p := newProcesses(t)
	p.startKeeper()
	if err := p.serve([]string{p.address}, backendServer(t, "web-aaaaaa", text("ok"))); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var served, refused, reset atomic.Int64
	var worst atomic.Int64
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for !stop.Load() {
				begin := time.Now()
				switch err := freshRequest(p.address); {
				case err == nil:
					served.Add(1)
					worst.Store(max(worst.Load(), int64(time.Since(begin))))
				case strings.Contains(err.Error(), "refused"):
					refused.Add(1)
				default:
					reset.Add(1) // it was inside the router that died
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 5 {
		time.Sleep(100 * time.Millisecond)
		before := p.awaitRouter("")
		kill(t, p.routerPID())
		after := p.awaitRouter(before.ID)
		if after.Generation != p.gen {
			t.Errorf("the new router has table %d", after.Generation)
		}
	}
	stop.Store(true)
	load.Wait()
	t.Logf("%d served, longest %v, %d were inside when it died", served.Load(), time.Duration(worst.Load()), reset.Load())
	if refused.Load() > 0 {
		t.Errorf("%d connections were refused", refused.Load())
	}
	if reset.Load() > 5*4 {
		t.Errorf("%d requests broken by 5 deaths with 4 clients", reset.Load())
	}
	if served.Load() < 50 {
		t.Errorf("only %d served", served.Load())
	}
}

// freshRequest is one GET on a connection of its own.
func freshRequest(address string) error {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	b, err := io.ReadAll(conn)
	if err == nil && !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
		err = fmt.Errorf("answer %q", b)
	}
	return err
}

// TestKeeperKilled: the router serves on; the next keeper starts no second
// one, gets the sockets from it, and looks after it like the first.
func TestKeeperKilled(t *testing.T) {
	p := newProcesses(t)
	first := p.startKeeper()
	second := freeAddress(t)
	live := backendServer(t, "web-aaaaaa", text("ok"))
	if err := p.serve([]string{p.address}, live); err != nil {
		t.Fatal(err)
	}
	pid, id := p.routerPID(), p.awaitRouter("").ID
	kill(t, first.Process.Pid)
	_ = first.wait()
	if err := freshRequest(p.address); err != nil {
		t.Fatalf("without a keeper: %v", err)
	}
	if err := p.serve([]string{p.address, second}, live); err != nil {
		t.Fatalf("a new listener without a keeper: %v", err)
	}
	p.startKeeper()
	if got := p.routerPID(); got != pid {
		t.Fatalf("the new keeper has router %d, it was %d", got, pid)
	}
	if st := p.awaitRouter(""); st.ID != id {
		t.Fatal("the router was started anew")
	}
	want := []string{p.address, second}
	slices.Sort(want)
	eventually(t, "the new keeper holds the sockets", func() bool {
		st, err := p.keeper.Status(t.Context())
		return err == nil && slices.Equal(st.Addresses, want)
	})
	kill(t, pid)
	for _, address := range want {
		if err := freshRequest(address); err != nil {
			t.Errorf("right after the adopted router was killed: %v", err)
		}
	}
	if got := p.routerPID(); got == pid {
		t.Error("the adopted router was not started again")
	}
	// A listener that is not needed any more is free for others.
	if err := p.serve([]string{p.address}, live); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the socket is closed everywhere", func() bool {
		l, err := net.Listen("tcp", second)
		if err == nil {
			_ = l.Close()
		}
		return err == nil
	})
}

// TestKeeperAndRouterKilled: both at once, again and again. The daemon's copies
// of the sockets keep every new connection waiting for the next router; what a
// router released does not come back with them.
func TestKeeperAndRouterKilled(t *testing.T) {
	p := newProcesses(t)
	keepers := make(chan *process, 100)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	copies := keeper.NewCopies(p.run, func(ctx context.Context) error {
		if _, err := p.keeper.Status(ctx); err == nil {
			return nil
		}
		keepers <- p.startRole("keeper")
		for {
			if _, err := p.keeper.Status(ctx); err == nil || ctx.Err() != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}, quietLog(t))
	var holding sync.WaitGroup
	holding.Go(func() { copies.Run(ctx) })
	p.awaitRouter("")
	gone := freeAddress(t)
	live := backendServer(t, "web-aaaaaa", text("ok"))
	if err := p.serve([]string{p.address, gone}, live); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * 200 * time.Millisecond) // the copies are taken by then
	if err := p.serve([]string{p.address}, live); err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("tcp", gone); err != nil {
		t.Errorf("what is released is free at once: %v", err)
	} else {
		_ = l.Close()
	}
	for range 4 {
		k := <-keepers
		pid, before := p.routerPID(), p.awaitRouter("")
		kill(t, k.Process.Pid)
		kill(t, pid)
		if err := freshRequest(p.address); err != nil {
			t.Fatalf("with keeper and router killed: %v", err)
		}
		if after := p.awaitRouter(before.ID); after.Generation != p.gen {
			t.Errorf("the new router has table %d", after.Generation)
		}
		if err := freshRequest(gone); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("what was released came back: %v", err)
		}
		p.routerPID()
		time.Sleep(200 * time.Millisecond)
	}
	stop()
	holding.Wait()
}

// TestOnlyOneKeeper: a second one is refused and says why.
func TestOnlyOneKeeper(t *testing.T) {
	p := newProcesses(t)
	p.startKeeper()
	log := quietLog(t)
	if err := keeper.Run(t.Context(), keeper.Config{RunDir: p.run, DataDir: p.data, Log: log}); model.CodeOf(err) != model.Conflict {
		t.Errorf("second keeper: %v", err)
	}
}

// TestShutdownLeavesNothing: no process, no socket.
func TestShutdownLeavesNothing(t *testing.T) {
	p := newProcesses(t)
	k := p.startKeeper()
	if err := p.serve([]string{p.address}, backendServer(t, "web-aaaaaa", text("ok"))); err != nil {
		t.Fatal(err)
	}
	pid := p.routerPID()
	if err := p.keeper.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.wait(); err != nil {
		t.Errorf("keeper: %v", err)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the router runs on")
	}
	for _, name := range []string{"keeper.sock", "router.sock"} {
		if _, err := os.Stat(filepath.Join(p.run, name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
	if err := freshRequest(p.address); err == nil {
		t.Error("somebody still listens")
	}
	p.startKeeper() // for the clean-up, and: it can start again
	if err := freshRequest(p.address); err != nil {
		t.Errorf("after a new start: %v", err)
	}
}

// TestControlSocket drives a router process through its client.
func TestControlSocket(t *testing.T) {
	p := newProcesses(t)
	p.startKeeper()
	live := backendServer(t, "web-aaaaaa", text("ok"))
	if err := p.serve([]string{p.address}, live); err != nil {
		t.Fatal(err)
	}
	follow, err := p.router.AccessLog(t.Context(), 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = p.serve([]string{p.address, taken.Addr().String()}, live)
	if model.CodeOf(err) != model.Conflict || !strings.Contains(err.Error(), taken.Addr().String()) ||
		!strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) || model.HintOf(err) == "" {
		t.Errorf("a taken port: %v (%s)", err, model.HintOf(err))
	}
	if err := freshRequest(p.address); err != nil {
		t.Errorf("after a refused table: %v", err)
	}
	if st := p.awaitRouter(""); st.Generation != p.gen-1 {
		t.Errorf("a refused table left generation %d", st.Generation)
	}
	buf := make([]byte, 4096)
	n, err := follow.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), `"server":"web-aaaaaa"`) {
		t.Errorf("access log: %q %v", buf[:n], err)
	}
	cs, err := p.router.Counters(t.Context())
	if err != nil || len(cs.Counters) != 1 || cs.Counters[0].Requests != 1 || cs.Counters[0].Status[2] != 1 {
		t.Errorf("counters %+v %v", cs, err)
	}
	if _, err := Dial(t.TempDir()).Status(t.Context()); model.CodeOf(err) != model.Unavailable {
		t.Errorf("no router: %v", err)
	}
}
