package e2e_test

import (
	"archive/tar"
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kiln/test/authority"
)

var clients = flag.Bool("clients", false, "also other people's clients of the registry: docker and skopeo of Debian, crane, regctl and oras")

// TestRegistryClients has other people's clients pull kiln's own images, push, and
// attach things.
func TestRegistryClients(t *testing.T) {
	if !*clients {
		t.Skip("make conformance has it: it needs Debian's docker.io and skopeo")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kiln, address := serveRegistry(t, root)
	archive := filepath.Join(dir, "tiny.tar")
	tag, err := name.NewTag("base/tiny:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(archive, tag, tinyImage(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := kiln.Run(t.Context(), "images", "import", archive, "--name", "base/tiny:1"); err != nil {
		t.Fatal(err)
	}
	own := address + "/base/tiny:1"
	if err := os.WriteFile(filepath.Join(dir, "root.tar"), fileTar(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kiln.Run(t.Context(), "images", "import", filepath.Join(dir, "root.tar"), "--name", "base/root:1"); err != nil {
		t.Fatal(err)
	}
	zstd := address + "/base/root:1" // its layer is compressed by kiln, as those of builds are
	work := t.TempDir()
	try := func(t *testing.T, program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = work, append(os.Environ(), "HOME="+work)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	build := func(t *testing.T, pkg string) string {
		t.Helper()
		path, err := authority.Build(t.Context(), root, dir, pkg)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.WriteFile(filepath.Join(work, "said"), []byte("what is to be said of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("crane", func(t *testing.T) {
		crane := build(t, "github.com/google/go-containerregistry/cmd/crane")
		digest := strings.TrimSpace(try(t, crane, "digest", "--insecure", own))
		try(t, crane, "copy", "--insecure", own, address+"/crane/tiny:1")
		if got := strings.TrimSpace(try(t, crane, "digest", "--insecure", address+"/crane/tiny:1")); got != digest {
			t.Errorf("the copy is %s, not %s", got, digest)
		}
		try(t, crane, "validate", "--insecure", "--fast", "--remote", own)
		if list := try(t, crane, "ls", "--insecure", address+"/base/tiny"); !strings.Contains(list, "1") {
			t.Errorf("the tags are %q", list)
		}
		if list := try(t, crane, "catalog", "--insecure", address); !strings.Contains(list, "base/tiny\n") || !strings.Contains(list, "crane/tiny\n") {
			t.Errorf("the repositories are %q", list)
		}
	})
	t.Run("regctl", func(t *testing.T) {
		regctl := build(t, "github.com/regclient/regclient/cmd/regctl")
		try(t, regctl, "registry", "set", "--tls", "disabled", address)
		try(t, regctl, "image", "copy", own, address+"/regctl/tiny:1")
		try(t, regctl, "artifact", "put", "--artifact-type", "text/remark", "--subject", own, "--file", "said")
		if list := try(t, regctl, "artifact", "list", own); !strings.Contains(list, "text/remark") {
			t.Errorf("what is attached is %s", list)
		}
	})
	t.Run("oras", func(t *testing.T) {
		oras := build(t, "oras.land/oras/cmd/oras")
		try(t, oras, "attach", "--plain-http", "--artifact-type", "text/note", own, "said:text/plain")
		if list := try(t, oras, "discover", "--plain-http", "--distribution-spec", "v1.1-referrers-api", own); !strings.Contains(list, "text/note") {
			t.Errorf("what is attached is %s", list)
		}
		try(t, oras, "push", "--plain-http", address+"/oras/said:1", "said:text/plain")
		try(t, oras, "pull", "--plain-http", "--output", filepath.Join(work, "back"), address+"/oras/said:1")
		try(t, oras, "copy", "--from-plain-http", "--to-plain-http", "--recursive", own, address+"/oras/tiny:1")
		if list := try(t, oras, "discover", "--plain-http", address+"/oras/tiny:1"); !strings.Contains(list, "text/note") {
			t.Errorf("what came along is %s", list)
		}
	})
	t.Run("skopeo", func(t *testing.T) {
		try(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+own, "dir:"+filepath.Join(work, "copied"))
		try(t, "skopeo", "copy", "--dest-tls-verify=false", "dir:"+filepath.Join(work, "copied"), "docker://"+address+"/skopeo/tiny:1")
		try(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+zstd, "oci:"+filepath.Join(work, "root"))
		try(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+address+"/skopeo/tiny:1")
	})
	t.Run("docker", func(t *testing.T) {
		host := dockerd(t)
		try(t, "docker", "--host", host, "pull", "--quiet", own)
		version := strings.TrimSpace(try(t, "docker", "--host", host, "version", "--format", "{{.Server.Version}}"))
		if major, _, _ := strings.Cut(version, "."); len(major) == 2 && major < "23" {
			t.Logf("docker %s does not read layers that are compressed with zstd (docs/registry.md)", version)
		} else {
			try(t, "docker", "--host", host, "pull", "--quiet", zstd)
		}
		try(t, "docker", "--host", host, "tag", own, address+"/docker/tiny:1")
		try(t, "docker", "--host", host, "push", "--quiet", address+"/docker/tiny:1")
		try(t, "docker", "--host", host, "rmi", own, address+"/docker/tiny:1")
		try(t, "docker", "--host", host, "pull", "--quiet", address+"/docker/tiny:1")
	})
}

// fileTar is a tar of one file.
func fileTar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := "an image of one file\n"
	err := w.WriteHeader(&tar.Header{Name: "etc/says", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tinyImage is an image of one file.
func tinyImage(t *testing.T) v1.Image {
	t.Helper()
	b := fileTar(t)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// dockerd starts Docker's daemon, apart from one that may run, and returns where it
// listens.
func dockerd(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kd-") //nolint:usetesting // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	host := "unix://" + filepath.Join(dir, "docker.sock")
	var said bytes.Buffer
	cmd := exec.Command("dockerd", "--host", host, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "run"),
		"--pidfile", filepath.Join(dir, "pid"), "--iptables=false", "--bridge=none")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		_ = os.RemoveAll(dir)
	})
	for range 300 {
		select {
		case <-ended:
			t.Fatalf("dockerd ended:\n%s", said.String())
		case <-time.After(100 * time.Millisecond):
		}
		if exec.CommandContext(t.Context(), "docker", "--host", host, "version").Run() == nil {
			return host
		}
	}
	t.Fatal("dockerd does not answer")
	return ""
}
