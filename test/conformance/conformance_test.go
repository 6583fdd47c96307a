// Package conformance_test asks programs that were not written here what they
// think of the router: letsencrypt's pebble issues it certificates, h2spec
// judges its HTTP/2, testssl.sh its TLS, and Debian's WebSocket libraries talk
// through it. cosign judges what is signed. What they found is in
// docs/conformance.md.
package conformance_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/router"
)

var all = flag.Bool("all", false, "also what needs Debian's packages, and takes minutes")

// repository is the root of kiln's source.
func repository(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// theRouter is a router of a test's own.
type theRouter struct {
	t          testing.TB
	client     *router.Client
	dir, data  string
	limits     router.Limits
	stop       func() // returns when it has ended
	generation uint64
}

func startRouter(t testing.TB, limits router.Limits) *theRouter {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kc-") //nolint:usetesting // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	r := &theRouter{t: t, dir: dir, data: filepath.Join(dir, "data"), limits: limits}
	r.start()
	t.Cleanup(func() {
		r.stop()
		_ = os.RemoveAll(dir) // of no interest any more
	})
	return r
}

// start starts the router, with the table that it had last.
func (r *theRouter) start() {
	r.t.Helper()
	run := filepath.Join(r.dir, "run")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		log := slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
		if err := router.Run(ctx, router.Config{DataDir: r.data, RunDir: run, Log: log, Limits: r.limits}); err != nil {
			r.t.Errorf("router: %v", err)
		}
	}()
	r.stop = func() {
		cancel()
		<-ended
	}
	r.client = router.Dial(run)
	eventually(r.t, 10*time.Second, "the router answers", func() error {
		_, err := r.client.Status(ctx)
		return err
	})
}

// apply gives the router the services.
func (r *theRouter) apply(services ...model.TableService) {
	r.t.Helper()
	r.generation++
	_, err := r.client.Apply(r.t.Context(), model.Table{Epoch: 1, Generation: r.generation, Services: services})
	if err != nil {
		r.t.Fatal(err)
	}
}

// eventually waits until ok returns nil.
func eventually(t testing.TB, limit time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freeAddress returns an address of the loopback on which nobody listens, with
// a port that the kernel does not hand out.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := "127.0.0.1:" + strconv.Itoa(10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

func portOf(t testing.TB, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// backend starts a server that speaks HTTP/1.1 and HTTP/2 in clear.
func backend(t testing.TB, id string, h http.Handler) model.Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: p, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-ended
	})
	return model.Upstream{Server: model.ServerID(id), Release: 1, Address: l.Addr().String()}
}

func hello(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }
