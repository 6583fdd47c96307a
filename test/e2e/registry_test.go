package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"kiln/test/instance"
)

// suite is the conformance suite of the OCI distribution specification.
const suite = "github.com/opencontainers/distribution-spec/conformance"

// TestRegistryConformance has the daemon's registry judged by the specification's
// own suite: pull, push, content discovery, content management.
func TestRegistryConformance(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	judge := filepath.Join(t.TempDir(), "conformance")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-o", judge, suite)
	build.Dir, build.Env = filepath.Join(root, "test", "tools"), append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", suite, err, out)
	}
	_, address := serveRegistry(t, root)
	cmd := exec.CommandContext(t.Context(), judge)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "OCI_ROOT_URL=http://"+address, "OCI_NAMESPACE=team/shop", "OCI_CROSSMOUNT_NAMESPACE=team/other",
		"OCI_TEST_PULL=1", "OCI_TEST_PUSH=1", "OCI_TEST_CONTENT_DISCOVERY=1", "OCI_TEST_CONTENT_MANAGEMENT=1", "OCI_REPORT_DIR=none")
	out, err := cmd.CombinedOutput()
	ran := regexp.MustCompile(`Ran (\d+) of (\d+) Specs`).FindSubmatch(out)
	passed := regexp.MustCompile(`(\d+) Passed.*\| .*0 Failed`).FindSubmatch(out)
	cases := 0
	if ran != nil {
		cases, _ = strconv.Atoi(string(ran[1])) // no number: 0
	}
	if err != nil || passed == nil || cases < 60 || string(passed[1]) != string(ran[1]) {
		t.Fatalf("the suite's judgement (%v):\n%s", err, out)
	}
	t.Logf("%s of %s cases ran, all of them passed; the others are of what the specification leaves open", ran[1], ran[2])
}

// place is a directory for a daemon.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "k-") //nolint:usetesting // short: the path of a unix socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// runs starts a daemon in a place, which ends with the test and leaves nothing.
func runs(t *testing.T, root, dir string, flags ...string) *instance.Instance {
	t.Helper()
	kiln := instance.New(filepath.Join(root, "bin", "kiln"), dir)
	kiln.Flags = flags
	if err := kiln.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := kiln.End(ctx); err != nil {
			t.Error(err)
		}
		if err := kiln.Purge(ctx); err != nil {
			t.Error(err)
		}
	})
	return kiln
}

// serveRegistry starts a daemon whose registry others may change.
func serveRegistry(t *testing.T, root string) (kiln *instance.Instance, address string) {
	t.Helper()
	dir := place(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	_ = l.Close()
	file := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\n  maintenance:\n    readonly:\n      enabled: false\nhttp:\n  addr: %s\n",
		filepath.Join(dir, "content"), address)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	kiln = runs(t, root, dir, "--registry", file)
	for range 100 {
		res, err := http.Get("http://" + address + "/v2/") //nolint:noctx // of the loopback
		if err == nil {
			_ = res.Body.Close()
			return kiln, address
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nobody serves %s:\n%s", address, kiln.Tail(20))
	return nil, ""
}

// pull takes an image from a registry, whole, as other people's tools do, and
// compares all of it with its digests.
func pull(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, len(args) == 1, "pull REFERENCE")
	err := pulls(args[0])
	if neg && err == nil {
		ts.Fatalf("%s is there", args[0])
	}
	if !neg {
		check(ts, err)
	}
}

func pulls(text string) error {
	ref, err := name.ParseReference(text, name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(ref)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := readLayer(l); err != nil {
			return err
		}
	}
	_, err = img.ConfigFile()
	return err
}

// readLayer reads a layer, which is compared with its digest at its end.
func readLayer(l v1.Layer) error {
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}
