package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestOldBinaries checks that what earlier versions left is removed, but not what
// a server runs under.
func TestOldBinaries(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	own := filepath.Dir(e.binaries.shim)
	bin := filepath.Dir(own)
	old, unused := filepath.Join(bin, strings.Repeat("0a", 32)), filepath.Join(bin, strings.Repeat("1b", 32))
	if err := os.CopyFS(old, os.DirFS(own)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(unused, os.DirFS(own)); err != nil {
		t.Fatal(err)
	}
	// A server of the earlier version.
	mine := e.binaries
	e.binaries = binaries{shim: filepath.Join(old, "containerd-shim-runc-v2"), logger: filepath.Join(old, "kiln-logger"), runc: filepath.Join(old, "runc")}
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{}))
	ref := s.serving(nil)
	e.binaries = mine

	there := func(want ...string) {
		t.Helper()
		homes, err := filepath.Glob(filepath.Join(bin, "????????????????*"))
		if err != nil || len(homes) != len(want) {
			t.Errorf("there are %v, want %v (%v)", homes, want, err)
		}
		for _, home := range want {
			if _, err := os.Stat(filepath.Join(home, "runc")); err != nil {
				t.Error(err)
			}
		}
	}
	there(own, old, unused)
	e.removeOldBinaries(t.Context())
	there(own, old)
	end(t, e, ref)
	e.removeOldBinaries(t.Context())
	there(own)
}
