package builder_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/vishvananda/netlink"

	"kiln/internal/buildcontext"
	"kiln/internal/engine/local"
	"kiln/internal/image"
	"kiln/internal/image/builder"
	"kiln/internal/image/imagetest"
	"kiln/internal/model"
	"kiln/test/outside"
)

// TestMain lets the test binary be the builder process too.
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "builder-role" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		idle, err := time.ParseDuration(os.Args[5])
		if err != nil {
			os.Exit(2)
		}
		shim, runc, err := local.Programs(os.Args[3])
		if err == nil {
			err = builder.Run(ctx, builder.Config{
				Instance: model.InstanceID(os.Args[4]), RunDir: os.Args[2], DataDir: os.Args[3],
				ShimPath: shim, RuncPath: runc, Idle: idle,
				Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "builder:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	imagetest.Main(m)
}

// bench is a machine with a builder.
type bench struct {
	*imagetest.Machine
	store  *image.Store
	client *builder.Client
	cmd    *exec.Cmd
}

func newBench(t testing.TB) *bench {
	b := &bench{Machine: imagetest.Start(t)}
	b.store = b.Store(t)
	b.client = builder.NewClient(b.RunDir)
	b.startBuilder(t)
	return b
}

func (b *bench) startBuilder(t testing.TB) {
	t.Helper()
	b.cmd = b.command(0)
	b.cmd.Stdout, b.cmd.Stderr = os.Stderr, os.Stderr
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stopBuilder() })
	for deadline := time.Now().Add(20 * time.Second); b.client.Ping(t.Context()) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("the builder does not answer")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// command is the builder process.
func (b *bench) command(idle time.Duration) *exec.Cmd {
	return exec.Command(os.Args[0], "builder-role", b.RunDir, b.DataDir, string(b.Instance), idle.String())
}

func (b *bench) stopBuilder() {
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	_ = b.cmd.Wait()
}

// built is what a build gave.
type built struct {
	builder.Result
	events []builder.Event
	sent   int64 // bytes from the client
	took   time.Duration
}

func (b *built) notes() string {
	var s strings.Builder
	for _, e := range b.events {
		fmt.Fprintf(&s, "%s %d/%d %s %s\n", e.Status, e.Step, e.Total, e.Name, e.Log)
	}
	return s.String()
}

// build builds dir as the command line and the daemon do, with a pipe between.
func (b *bench) build(ctx context.Context, dir string, req builder.Request) (*built, error) {
	name, err := buildcontext.Find(dir, req.Containerfile)
	if err != nil {
		return nil, err
	}
	req.Containerfile = name
	near, far := net.Pipe()
	out := &built{}
	counted := &counting{Conn: near}
	served := make(chan error, 1)
	go func() { served <- buildcontext.Serve(ctx, counted, dir, name) }()
	begun := time.Now()
	out.Result, err = b.client.Build(ctx, req, far, func(e builder.Event) { out.events = append(out.events, e) })
	out.took = time.Since(begun)
	if serr := <-served; serr != nil && err == nil {
		err = serr
	}
	out.sent = counted.n.Load()
	return out, err
}

type counting struct {
	net.Conn
	n atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// imageProgress is what an import reports.
type imageProgress = image.Progress

// must builds and wants no error.
func (b *bench) must(t testing.TB, dir string, req builder.Request) *built {
	t.Helper()
	r, err := b.build(t.Context(), dir, req)
	if err != nil {
		t.Fatalf("%v\n%s", err, model.HintOf(err))
	}
	return r
}

// containers returns what runs, or is left, in the instance's namespace.
func (b *bench) containers(t testing.TB) []string {
	t.Helper()
	c, err := client.New(image.SocketPath(b.RunDir), client.WithDefaultNamespace(image.Namespace(b.Instance)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	all, err := c.Containers(namespaces.WithNamespace(t.Context(), image.Namespace(b.Instance)))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, x := range all {
		ids = append(ids, x.ID())
	}
	return ids
}

func (b *bench) waitForContainer(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(b.containers(t)) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("no step began")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// noRemnants waits until no container is left.
func (b *bench) noRemnants(t testing.TB, within time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(within); ; {
		left := b.containers(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("containers are left: %v", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// processes returns the processes of steps, and their shims.
func (b *bench) processes(t testing.TB) []string {
	t.Helper()
	var left []string
	files, err := filepath.Glob("/sys/fs/cgroup/*/kiln-" + string(b.Instance) + "/build/*/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && len(text) > 0 {
			left = append(left, f+": "+string(text))
		}
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "shim") && strings.Contains(string(text), "kiln-"+string(b.Instance)) {
			left = append(left, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return left
}

// newOutside makes a host beyond this machine, which is a network namespace
// with a link to it, and returns the address of its TCP service.
func (b *bench) newOutside(t testing.TB) string {
	t.Helper()
	link := "kt" + string(b.Instance) + "out"
	type answer struct {
		ln  net.Listener
		err error
	}
	got := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ln, err := outsideHost(link, 4*(int(b.Instance[0])%64))
		got <- answer{ln, err}
	}()
	a := <-got
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Cleanup(func() {
		a.ln.Close()
		if l, err := netlink.LinkByName(link); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	go func() {
		for {
			c, err := a.ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return a.ln.Addr().String()
}

// outsideHost takes four addresses of 203.0.113.0/24 from first on.
func outsideHost(link string, first int) (net.Listener, error) {
	near, far := fmt.Sprintf("203.0.113.%d", first+1), fmt.Sprintf("203.0.113.%d", first+2)
	var ln net.Listener
	err := outside.Link(link, near, far, func() (err error) {
		ln, err = net.Listen("tcp", far+":80")
		return err
	})
	return ln, err
}
