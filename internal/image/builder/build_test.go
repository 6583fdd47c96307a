package builder_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kiln/internal/image/builder"
	"kiln/internal/image/imagetest"
	"kiln/internal/model"
)

// TestBuilds runs its cases on one machine: starting one is most of the time.
func TestBuilds(t *testing.T) {
	b := newBench(t)
	base, err := b.store.Import(t.Context(), bytes.NewReader(imagetest.Rootfs(t, "../imagetest")), "base/sh:1", func(imageProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("incremental", func(t *testing.T) { testIncremental(t, b) })
	t.Run("reproducible", func(t *testing.T) { testReproducible(t, b, base) })
	t.Run("base", func(t *testing.T) { testBase(t, b, base) })
	t.Run("ignore", func(t *testing.T) { testIgnore(t, b) })
	t.Run("failing step", func(t *testing.T) { testFailingStep(t, b) })
	t.Run("wrong input", func(t *testing.T) { testWrongInput(t, b) })
	t.Run("syntax", func(t *testing.T) { testSyntax(t, b) })
	t.Run("target and arguments", func(t *testing.T) { testTarget(t, b) })
	t.Run("network", func(t *testing.T) { testNetwork(t, b) })
	t.Run("cancelled", func(t *testing.T) { testCancelled(t, b) })
	t.Run("parallel", func(t *testing.T) { testParallel(t, b) })
	t.Run("registry", func(t *testing.T) { testRegistry(t, b, base) })
	t.Run("second builder", func(t *testing.T) { testSecond(t, b) })
	t.Run("killed", func(t *testing.T) { testKilled(t, b) })
	t.Run("idle", func(t *testing.T) { testIdle(t, b) })
}

// testIncremental: a warm build asks the client only for what changed.
func testIncremental(t *testing.T, b *bench) {
	dir := t.TempDir()
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /src\n"}
	for i := range 64 {
		files[fmt.Sprintf("lib/%d.txt", i)] = strings.Repeat(fmt.Sprint("line ", i, "\n"), 4096)
	}
	write(t, dir, files)
	cold := b.must(t, dir, builder.Request{})
	if cold.sent < 1<<20 {
		t.Fatalf("the first build sent %d bytes, which cannot be everything", cold.sent)
	}
	write(t, dir, map[string]string{"lib/7.txt": "changed\n"})
	warm := b.must(t, dir, builder.Request{})
	if warm.sent > 32<<10 {
		t.Errorf("after a change of one file the client sent %d bytes", warm.sent)
	}
	if warm.Digest == cold.Digest {
		t.Error("a changed file gave the same image")
	}
	same := b.must(t, dir, builder.Request{})
	if same.Digest != warm.Digest {
		t.Errorf("nothing changed, but the image did: %s, %s", warm.Digest, same.Digest)
	}
	t.Logf("sent: cold %d bytes, warm %d; took: cold %s, warm %s, unchanged %s", cold.sent, warm.sent, cold.took, warm.took, same.took)
}

// testReproducible: an image depends on content, not on times, places, or
// whether the cache was used.
func testReproducible(t *testing.T, b *bench, base model.Image) {
	text := "FROM base/sh:1\nCOPY --chmod=755 app /app/\nRUN write /made by a step && write /tmp/other x\nCMD [\"/app/run\"]\n"
	var got []model.Digest
	for i := range 2 {
		dir := t.TempDir()
		write(t, dir, map[string]string{"Containerfile": text, "app/run": "content", "app/deep/file": "content"})
		at := time.Unix(1600000000+int64(i)*1000, 0)
		for _, p := range []string{"app", "app/run", "app/deep", "app/deep/file"} {
			if err := os.Chtimes(filepath.Join(dir, p), at, at); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(filepath.Join(dir, p), i*1000, i*1000); err != nil {
				t.Fatal(err)
			}
		}
		r := b.must(t, dir, builder.Request{NoCache: true})
		got = append(got, r.Digest)
	}
	if got[0] != got[1] {
		t.Errorf("the same content gave %s and %s", got[0], got[1])
	}
	d, err := b.store.Show(t.Context(), string(got[0]))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Layers) != 3 || d.Runtime.Command[0] != "/app/run" {
		t.Errorf("the image is %+v", d)
	}
	if below, err := b.store.Show(t.Context(), string(base.Digest)); err != nil || below.Layers[0].Digest != d.Layers[0].Digest {
		t.Errorf("the base's layer %s became %s, %v", below.Layers[0].Digest, d.Layers[0].Digest, err)
	}
	for _, l := range d.Layers {
		if !strings.HasSuffix(l.MediaType, "+zstd") {
			t.Errorf("layer %s is of type %s", l.Digest, l.MediaType)
		}
	}
}

// testBase: FROM finds an imported image, and it becomes a parent.
func testBase(t *testing.T, b *bench, base model.Image) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1 AS one\nRUN write /x 1\nFROM scratch\nCOPY --from=one /x /x\n"})
	r := b.must(t, dir, builder.Request{Name: "test/child:1"})
	want := model.Parent{Name: "docker.io/base/sh:1", Digest: base.Digest}
	if len(r.Parents) != 1 || r.Parents[0] != want {
		t.Errorf("parents are %v, want %v", r.Parents, want)
	}
	d, err := b.store.Show(t.Context(), "test/child:1")
	if err != nil || d.Digest != r.Digest {
		t.Errorf("the name finds %v, %v, want %s", d.Digest, err, r.Digest)
	}
	again := b.must(t, dir, builder.Request{})
	if len(again.Parents) != 1 || again.Parents[0] != want || again.Digest != r.Digest {
		t.Errorf("from the cache: %+v, first %+v", again.Result, r.Result)
	}
	if !strings.Contains(again.notes(), "cached 2/2 RUN write /x 1") {
		t.Errorf("the step was not told to be cached:\n%s", again.notes())
	}
}

func testIgnore(t *testing.T, b *bench) {
	dir := t.TempDir()
	secret := strings.Repeat("secret ", 1<<17)
	write(t, dir, map[string]string{
		"Containerfile":                    "FROM scratch\nCOPY . /\n",
		".dockerignore":                    "big\n.dockerignore\nContainerfile\n*.dockerignore\nother\n",
		"big":                              secret,
		"kept":                             "kept",
		"other/Containerfile":              "FROM scratch\nCOPY . /\n",
		"other/Containerfile.dockerignore": "**\n!big\n",
	})
	r := b.must(t, dir, builder.Request{})
	if r.sent > 64<<10 {
		t.Errorf("an ignored file was sent: %d bytes", r.sent)
	}
	other := b.must(t, dir, builder.Request{Containerfile: "other/Containerfile"})
	if other.sent < int64(len(secret)) {
		t.Errorf("the Containerfile's own ignore file was not used: %d bytes sent", other.sent)
	}
}

func testFailingStep(t *testing.T, b *bench) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1\n\n# a comment\nRUN echo before the end && echo the reason && exit 7\n"})
	r, err := b.build(t.Context(), dir, builder.Request{})
	wantError(t, err, model.Invalid, "exit code 7", "Containerfile:4: RUN echo before", "  the reason")
	if !strings.Contains(r.notes(), "error 2/2 RUN echo") || !strings.Contains(r.notes(), "log 2/2 RUN echo before the end && echo the reason && exit 7 before the end") {
		t.Errorf("progress is:\n%s", r.notes())
	}
}

func testWrongInput(t *testing.T, b *bench) {
	cases := map[string]struct {
		text string
		want []string
		hint string
	}{
		"unknown base":        {"FROM base/none:9\nRUN x\n", []string{"base/none:9", "Containerfile:1: FROM base/none:9"}, "kiln images import FILE --name base/none:9"},
		"unknown hub base":    {"FROM debian:12\n", []string{"debian:12"}, "--name debian:12"},
		"unknown instruction": {"FROM scratch\nCOPPY a b\n", []string{"COPPY", "Containerfile:2: COPPY a b"}, ""},
		"absent file":         {"FROM scratch\nCOPY absent /\n", []string{"absent", "Containerfile:2: COPY absent /"}, ""},
		"silent registry":     {"FROM 127.0.0.1:1/x/y:1\n", []string{"127.0.0.1:1/x/y:1", "refused"}, "kiln images import"},
		"empty":               {"", []string{"cannot be empty"}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"Containerfile": c.text})
			_, err := b.build(t.Context(), dir, builder.Request{})
			code := model.Invalid
			if name == "silent registry" {
				code = model.Unavailable
			}
			wantError(t, err, code, c.want...)
			if !strings.Contains(model.HintOf(err), c.hint) {
				t.Errorf("hint is %q, want %q", model.HintOf(err), c.hint)
			}
		})
	}
	_, err := b.build(t.Context(), t.TempDir(), builder.Request{})
	wantError(t, err, model.Invalid, "no Containerfile and no Dockerfile")
}

func testSyntax(t *testing.T, b *bench) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "# syntax=docker/dockerfile:1.7\nFROM scratch\nCOPY f /\n", "f": "x"})
	r := b.must(t, dir, builder.Request{})
	if !strings.Contains(r.notes(), "built-in") {
		t.Errorf("nothing says that the built-in frontend was used:\n%s", r.notes())
	}
	write(t, dir, map[string]string{"Containerfile": "# syntax=example.com/frontend:1\nFROM scratch\n"})
	_, err := b.build(t.Context(), dir, builder.Request{})
	wantError(t, err, model.Invalid, "example.com/frontend:1", "Containerfile:1")
}

func testTarget(t *testing.T, b *bench) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1 AS one\nARG WHAT=none\nENV SAYS=$WHAT\nFROM base/sh:1 AS two\nRUN exit 1\n"})
	r := b.must(t, dir, builder.Request{Target: "one", Args: map[string]string{"WHAT": "hello"}})
	c, err := b.store.Config(t.Context(), r.Digest)
	if err != nil || !strings.Contains(strings.Join(c.Env, " "), "SAYS=hello") {
		t.Errorf("the environment is %v, %v", c.Env, err)
	}
	_, err = b.build(t.Context(), dir, builder.Request{Target: "three"})
	wantError(t, err, model.Invalid, "three")
}

// testNetwork: a step reaches neither the host's loopback nor its addresses.
func testNetwork(t *testing.T, b *bench) {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan struct{}, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
			accepted <- struct{}{}
		}
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	script := []string{}
	for _, ip := range hostAddresses(t) {
		conn, err := net.Dial("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatalf("the test itself cannot reach %s: %v", ip, err)
		}
		conn.Close()
		<-accepted
		script = append(script, "shun "+net.JoinHostPort(ip, port))
	}
	outside := b.newOutside(t)
	script = append(script, "reach "+outside, "reach 169.254.1.53:53")
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1\nRUN cat /etc/resolv.conf && " + strings.Join(script, " && ") + "\n"})
	r, err := b.build(t.Context(), dir, builder.Request{NoCache: true})
	if err != nil {
		t.Errorf("%v\n%s", err, r.notes())
	}
	if !strings.Contains(r.notes(), "nameserver 169.254.1.53") {
		t.Errorf("the step's name server is not the builder's:\n%s", r.notes())
	}
	select {
	case <-accepted:
		t.Error("a step reached the host")
	default:
	}
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1\nRUN --network=none shun " + outside + "\nRUN --network=host echo\n"})
	_, err = b.build(t.Context(), dir, builder.Request{NoCache: true})
	wantError(t, err, model.Invalid, "network.host")
}

func hostAddresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			out = append(out, n.IP.String())
		}
	}
	return out
}

func testCancelled(t *testing.T, b *bench) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1\nRUN echo begun && sleep 120s\n"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begun := time.Now()
	_, err := b.build(ctx, dir, builder.Request{NoCache: true})
	if err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("a cancelled build ended with %v after %s", err, time.Since(begun))
	}
	b.noRemnants(t, 10*time.Second)
}

func testParallel(t *testing.T, b *bench) {
	var all sync.WaitGroup
	for i := range 4 {
		dir := t.TempDir()
		write(t, dir, map[string]string{"Containerfile": fmt.Sprintf("FROM base/sh:1\nCOPY f /f\nRUN echo %d && sleep 500ms\n", i), "f": fmt.Sprint(i)})
		all.Go(func() {
			if _, err := b.build(t.Context(), dir, builder.Request{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// testKilled: the client is told, the next builder removes what was left.
func testKilled(t *testing.T, b *bench) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1\nRUN echo begun && sleep 120s\n"})
	failed := make(chan error, 1)
	go func() {
		_, err := b.build(t.Context(), dir, builder.Request{NoCache: true})
		failed <- err
	}()
	b.waitForContainer(t)
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-failed, model.Unavailable, "the builder ended")
	_ = b.cmd.Wait()
	b.startBuilder(t)
	b.noRemnants(t, 0)
	if left := b.processes(t); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	testIncremental(t, b)
}

// testRegistry: a base that names its registry is fetched from there, also one
// on the host's loopback, which no step reaches.
func testRegistry(t *testing.T, b *bench, base model.Image) {
	srv := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/x/sh:1"
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(imagetest.Rootfs(t, "../imagetest"), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, platformOf(t, img))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(parsed, img); err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM " + ref + "\nRUN write /x " + ref + "\n"})
	r := b.must(t, dir, builder.Request{})
	if len(r.Parents) != 1 || r.Parents[0] != (model.Parent{Name: ref, Digest: model.Digest(want.String())}) {
		t.Errorf("parents are %v, want %s", r.Parents, want)
	}
	write(t, dir, map[string]string{"Containerfile": "FROM " + strings.Replace(ref, "sh:1", "sh:2", 1) + "\n"})
	_, err = b.build(t.Context(), dir, builder.Request{})
	wantError(t, err, model.Invalid, "x/sh:2", "neither kiln nor its registry has it")
}

func platformOf(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", imagetest.Architecture
	return c
}

// testSecond: two builders of an instance do not share a cache or a network.
func testSecond(t *testing.T, b *bench) {
	out, err := b.command(0).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another one uses") {
		t.Errorf("a second builder ended with %v: %s", err, out)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM base/sh:1\nRUN cat /etc/resolv.conf\n"})
	b.must(t, dir, builder.Request{NoCache: true})
}

// testIdle: a builder that nobody uses ends and leaves nothing on the machine.
func testIdle(t *testing.T, b *bench) {
	b.stopBuilder()
	cmd := b.command(300 * time.Millisecond)
	cmd.Stderr = os.Stderr
	begun := time.Now()
	if err := cmd.Run(); err != nil || time.Since(begun) < 300*time.Millisecond {
		t.Errorf("an idle builder ended with %v after %s", err, time.Since(begun))
	}
	wantError(t, b.client.Ping(t.Context()), model.Unavailable, "cannot reach the builder")
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.Contains(l.Name, string(b.Instance)) && !strings.HasSuffix(l.Name, "out") {
			t.Errorf("the link %s is left", l.Name)
		}
	}
	tables, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil || strings.Contains(string(tables), string(b.Instance)) {
		t.Errorf("left are (%v):\n%s", err, tables)
	}
	if groups, _ := filepath.Glob("/sys/fs/cgroup/*/kiln-" + string(b.Instance) + "/build"); len(groups) > 0 {
		t.Errorf("control groups are left: %v", groups)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), b.RunDir+"/builder") {
		t.Errorf("a mount is left: %v", err)
	}
}

func wantError(t *testing.T, err error, code model.Code, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("there was no error")
	}
	if model.CodeOf(err) != code {
		t.Errorf("the code is %s, want %s", model.CodeOf(err), code)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not contain %q:\n%v", p, err)
		}
	}
}
