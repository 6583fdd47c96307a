package router

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/keeper"
	"kiln/internal/model"
)

// testRouter is a router of the test's own process, without control socket.
type testRouter struct {
	*Router
	t       testing.TB
	dir     string
	epoch   uint64
	gen     uint64
	address string // of the listener of table()
}

func quietLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func startRouter(t testing.TB, limits Limits) *testRouter {
	t.Helper()
	return startRouterIn(t, t.TempDir(), limits)
}

func startRouterIn(t testing.TB, dir string, limits Limits) *testRouter {
	t.Helper()
	log := quietLog(t)
	limits = limits.withDefaults()
	access, err := openAccessLog(filepath.Join(dir, "router", "access.log"), limits.AccessLogBytes, log)
	if err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(dir, "run")
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	sockets := keeper.NewSockets(run, log)
	r := newRouter(Config{DataDir: dir, RunDir: run, Log: log, Limits: limits}, sockets, access)
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { r.tick(ctx) })
	loops.Go(func() { r.drainLoop(ctx) })
	loops.Go(func() { r.bindLoop(ctx) })
	loops.Go(func() { r.certs.watch(ctx) })
	loops.Go(func() { r.lookAfterClients(ctx) })
	t.Cleanup(func() {
		r.stop()
		r.acme.stop()
		cancel()
		loops.Wait()
		sockets.Close()
		access.close()
	})
	return &testRouter{Router: r, t: t, dir: dir, epoch: 1, address: freeAddress(t)}
}

// freeAddress returns an address of the loopback on which nobody listens. The
// port is not held, so a test that needs it binds it soon.
func freeAddress(t testing.TB) string {
	t.Helper()
	// Below the ports that the kernel hands out: none that a test or a client
	// opens meanwhile can get this one.
	for range 100 {
		address := "127.0.0.1:" + strconv.Itoa(10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// apply applies a table with the next generation.
func (r *testRouter) apply(services []model.TableService, draining ...model.Draining) model.RouterStatus {
	r.t.Helper()
	r.gen++
	st, err := r.Apply(model.Table{Epoch: r.epoch, Generation: r.gen, Services: services, Draining: draining})
	if err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	return st
}

// serve applies a table with one service on the router's address.
func (r *testRouter) serve(protocol model.Protocol, backends ...model.Upstream) model.RouterStatus {
	r.t.Helper()
	return r.apply([]model.TableService{r.service(protocol, backends...)})
}

func (r *testRouter) service(protocol model.Protocol, backends ...model.Upstream) model.TableService {
	return model.TableService{
		Name: "web", Release: 1, Protocol: protocol,
		Routes: []model.Route{{Listen: r.address}}, Backends: backends,
	}
}

func (r *testRouter) url(path string) string { return "http://" + r.address + path }

// of returns the account of a server.
func of(st model.RouterStatus, id model.ServerID) (model.RouterServer, bool) {
	for _, s := range st.Servers {
		if s.Server == id {
			return s, true
		}
	}
	return model.RouterServer{}, false
}

// backendServer starts an HTTP server and returns it as an upstream. Both HTTP
// versions in clear are understood.
func backendServer(t testing.TB, id string, h http.Handler) model.Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: p, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(quietLog(t).Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return model.Upstream{Server: model.ServerID(id), Release: 1, Address: l.Addr().String()}
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func text(format string, args ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, format, args...) }
}

// listenBacklog listens on the loopback with the given backlog.
func listenBacklog(t testing.TB, backlog int) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	// net sets its own backlog when it takes a socket over, so again.
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), backlog) }); err != nil {
		t.Fatal(err)
	}
	return l
}
