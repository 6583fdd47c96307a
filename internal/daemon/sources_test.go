package daemon

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/model"
	"kiln/internal/source"
)

// spooledOf packs a directory, and takes it in as the daemon does.
func spooledOf(t *testing.T, files map[string][]byte) *spooled {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := source.Find(dir, "Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	list, err := tree.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := list.Pack(t.Context(), &archive, nil); err != nil {
		t.Fatal(err)
	}
	s := &sources{d: &daemon{}}
	s.d.cfg.DataDir = t.TempDir()
	a, err := s.spool(&archive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	if left, err := os.ReadDir(s.d.cfg.DataDir); err != nil || len(left) > 0 {
		t.Fatalf("%v is left on the disk: %v", left, err)
	}
	return a
}

// TestSourceIsSearched: a source with a secret in it is not kept, unless the list
// allows that.
func TestSourceIsSearched(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	files := map[string][]byte{"Containerfile": []byte("FROM scratch\n"), "notes": []byte("first\n")}
	if err := spooledOf(t, files).search(t.Context(), ""); err != nil {
		t.Errorf("nothing is wrong with it: %v", err)
	}
	files["deploy.pem"] = secret
	err = spooledOf(t, files).search(t.Context(), "")
	if model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "deploy.pem") || strings.Contains(err.Error(), string(secret[40:60])) {
		t.Errorf("a private key: %v", err)
	}
	if err := spooledOf(t, files).search(t.Context(), "private-key /deploy.pem  # a test's own\n"); err != nil {
		t.Errorf("an allowed key: %v", err)
	}
	// A secret is not missed among many that are only worth a word.
	hidden := map[string][]byte{"Containerfile": []byte("FROM scratch\n"), "zz/deploy.pem": secret}
	for n := range 1200 {
		hidden[fmt.Sprintf("node_modules/tls/test/%d.pem", n)] = secret
	}
	if err := spooledOf(t, hidden).search(t.Context(), ""); model.CodeOf(err) != model.Precondition {
		t.Errorf("a private key behind many: %v", err)
	}
	if err := spooledOf(t, files).search(t.Context(), "this is no list"); model.CodeOf(err) != model.Invalid {
		t.Errorf("a list that is none: %v", err)
	}
}
