package local

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/engine/enginetest"
	"kiln/internal/model"
)

// TestMain is containerd when it is called so: the tests run the real one, out
// of their own binary, as kiln does.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == ContainerdName {
		os.Exit(RunContainerd(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// world is a machine's part that belongs to one test: an instance of its own
// with its containerd.
type world struct {
	Config
	daemon *exec.Cmd
}

// newWorld starts an instance's containerd, and checks at the end that nothing
// of the instance is left on the machine.
func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("servers need root: run the tests as root")
	}
	// Not the test's own directory: its name may be too long for a socket's.
	dir, err := os.MkdirTemp("", "kiln-engine-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Config: Config{
		Instance: model.InstanceID(strings.ToLower(rand.Text()[:6])),
		DataDir:  filepath.Join(dir, "data"),
		RunDir:   filepath.Join(dir, "run"),
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	if w.Config, err = w.withDefaults(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // as /run/kiln is
		t.Fatal(err)
	}
	t.Cleanup(func() { w.end(t, dir) })
	w.startContainerd(t)
	return w
}

func (w *world) startContainerd(t testing.TB) {
	t.Helper()
	path, args, err := ContainerdCommand(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.daemon = exec.Command(path, args...)
	w.daemon.Stderr = t.Output()
	w.daemon.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := w.daemon.Start(); err != nil {
		t.Fatalf("cannot start containerd: %v", err)
	}
}

// killContainerd ends containerd as a crash would.
func (w *world) killContainerd(t testing.TB) {
	t.Helper()
	if w.daemon == nil {
		return
	}
	if err := w.daemon.Process.Kill(); err != nil {
		t.Errorf("cannot kill containerd: %v", err)
	}
	_ = w.daemon.Wait() // it was killed
	w.daemon = nil
}

// end removes everything of the instance, and checks that the engine can.
func (w *world) end(t testing.TB, dir string) {
	if w.daemon == nil {
		w.startContainerd(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e, err := New(ctx, w.Config)
	if err != nil {
		t.Errorf("cannot open the engine to clean up: %v", err)
	} else {
		w.destroyAll(ctx, t, e)
		if err := e.Purge(ctx); err != nil {
			t.Errorf("Purge: %v", err)
		}
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		w.checkNothingLeft(t)
	}
	w.killContainerd(t)
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("something is still mounted: %v", err)
	}
}

func (w *world) destroyAll(ctx context.Context, t testing.TB, e *Engine) {
	t.Helper()
	snapshot, err := e.Observe(ctx)
	if err != nil {
		t.Errorf("Observe: %v", err)
		return
	}
	for _, s := range snapshot.Servers {
		ref := engine.Ref{Epoch: e.epoch, ID: s.ID}
		if err := e.Stop(ctx, ref, "", 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if err := e.Destroy(ctx, ref); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	}
}

func (w *world) checkNothingLeft(t testing.TB) {
	t.Helper()
	for _, pattern := range []string{
		"/sys/class/net/" + w.linkPrefix() + "*", filepath.Join(cgroupRoot, "*", w.cgroup()), filepath.Join(cgroupRoot, w.cgroup()),
		filepath.Join(w.RunDir, "netns", "*"), filepath.Join(w.RunDir, "userns", "*"), filepath.Join(w.RunDir, "mounts", "*"), filepath.Join(w.RunDir, "containerd", "io.containerd.runtime.v2.task", w.namespace(), "*"),
	} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left on the machine: %v %v", left, err)
		}
	}
	out, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil || strings.Contains(string(out), w.table()) {
		t.Errorf("nftables tables left: %s (%v)", out, err)
	}
}

// open opens the instance's engine until the test ends.
func (w *world) open(t testing.TB) *Engine {
	t.Helper()
	e, err := New(t.Context(), w.Config)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// file is one of a test image's.
type file struct {
	name, content string
	mode          int64
	owner         int
}

// addImage writes an image of one layer into containerd's store, as the image
// store of kiln does, and returns its digest.
func (w *world) addImage(t testing.TB, config ocispec.ImageConfig, files ...file) model.Digest {
	t.Helper()
	e, err := client.New(w.socket(), client.WithDefaultNamespace(w.namespace()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	ctx := (&Engine{Config: w.Config}).scoped(t.Context())
	ctx, done, err := e.WithLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = done(ctx) }()

	store := e.ContentStore()
	layer := layerTar(t, files)
	layerDesc := writeBlob(ctx, t, store, ocispec.MediaTypeImageLayer, layer, nil)
	image := ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, Config: config,
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	}
	configDesc := writeBlob(ctx, t, store, ocispec.MediaTypeImageConfig, encode(t, image), nil)
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: []ocispec.Descriptor{layerDesc},
	}
	desc := writeBlob(ctx, t, store, ocispec.MediaTypeImageManifest, encode(t, manifest), map[string]string{
		"containerd.io/gc.ref.content.config": configDesc.Digest.String(),
		"containerd.io/gc.ref.content.l.0":    layerDesc.Digest.String(),
	})
	d := model.Digest(desc.Digest)
	_, err = e.ImageService().Create(ctx, images.Image{Name: pinName(d), Target: desc})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return d
}

func writeBlob(ctx context.Context, t testing.TB, store content.Store, mediaType string, b []byte, labels map[string]string) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	err := content.WriteBlob(ctx, store, fmt.Sprintf("test-%x", sha256.Sum256(b)), bytes.NewReader(b), d, content.WithLabels(labels))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func layerTar(t testing.TB, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Name: strings.TrimPrefix(f.name, "/"), Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg, Uid: f.owner, Gid: f.owner}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// addSuiteImage adds the image of the conformance suite.
func (w *world) addSuiteImage(t testing.TB) model.Digest {
	t.Helper()
	program, err := os.ReadFile(enginetest.BuildProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	return w.addImage(t, ocispec.ImageConfig{Entrypoint: []string{"/program"}, Env: []string{"PATH=/"}},
		file{name: "/program", content: string(program), mode: 0o755})
}

// testProgram builds this engine's test program.
func testProgram(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "kiln/internal/engine/local/testprogram")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the test program: %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// addProgram adds an image that holds this engine's test program, a user
// database, and the given files.
func (w *world) addProgram(t testing.TB, config ocispec.ImageConfig, files ...file) model.Digest {
	t.Helper()
	config.Entrypoint = []string{"/bin/program"}
	return w.addImage(t, config, append([]file{
		{name: "/bin/program", content: testProgram(t), mode: 0o755},
		{name: "/etc/passwd", content: "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n", mode: 0o644},
		{name: "/etc/group", content: "root:x:0:\nweb:x:34:\nlogs:x:40:web\n", mode: 0o644},
	}, files...)...)
}

// servers makes servers for a test.
type servers struct {
	t     testing.TB
	e     *Engine
	image model.Digest
	count uint64
	plain bool // without user namespaces
}

func (w *world) servers(t testing.TB, e *Engine, image model.Digest) *servers {
	t.Helper()
	if err := e.Prepare(t.Context(), image); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	return &servers{t: t, e: e, image: image}
}

func (s *servers) ref() engine.Ref {
	s.count++
	return engine.Ref{Epoch: 1, ID: model.ServerID("test-" + model.Sixes(s.e.Instance, s.count))}
}

func (s *servers) template(arguments ...string) model.Template {
	return model.Template{Service: "test", Image: s.image, Command: arguments, UserNamespace: !s.plain}
}

// start provisions a server that runs the program with the arguments.
func (s *servers) start(edit func(*model.Template), arguments ...string) engine.Ref {
	s.t.Helper()
	template := s.template(arguments...)
	if edit != nil {
		edit(&template)
	}
	ref := s.ref()
	if err := s.e.Provision(s.t.Context(), ref, template); err != nil {
		s.t.Fatalf("Provision: %v", err)
	}
	return ref
}

// serving provisions a server that accepts connections on port 8080.
func (s *servers) serving(edit func(*model.Template)) engine.Ref {
	s.t.Helper()
	ref := s.start(edit, "serve", "8080")
	awaitPort(s.t, s.e, ref.ID, 8080)
	return ref
}

// run runs the program in the server and returns what it wrote and its status.
func (s *servers) run(ref engine.Ref, arguments ...string) (string, int) {
	s.t.Helper()
	r, err := s.e.Exec(s.t.Context(), ref, engine.Exec{Command: append([]string{"program"}, arguments...)})
	if err != nil {
		s.t.Fatalf("Exec %q: %v", arguments, err)
	}
	return string(r.Output), r.Code
}

// observe returns what is seen of the server.
func (s *servers) observe(ref engine.Ref) *model.Observed {
	s.t.Helper()
	snapshot, err := s.e.Observe(s.t.Context())
	if err != nil {
		s.t.Fatalf("Observe: %v", err)
	}
	return snapshot.Server(ref.ID)
}

// awaitExit waits until the server is seen to have ended.
func (s *servers) awaitExit(ref engine.Ref) *model.Exit {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		o := s.observe(ref)
		if o == nil {
			s.t.Fatalf("%s is absent", ref.ID)
		}
		if o.State == model.Exited {
			return o.Exit
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not end", ref.ID)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pid returns the server's main process as the machine sees it.
func (s *servers) pid(ref engine.Ref) int {
	_, r := s.e.lookup(ref.ID)
	return r.Process.PID
}
