package cli

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/api"
	"kiln/internal/model"
)

// TestListChangedWhileItIsSent: no policy names a list that the daemon does not have.
func TestListChangedWhileItIsSent(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "osv.json")
	if err := os.WriteFile(name, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	answer := api.List{Digest: model.Digest("sha256:" + strings.Repeat("0", 64))}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(api.Problem{Code: model.NotFound})
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = json.NewEncoder(w).Encode(answer)
	})}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	a := &app{Program: Program{Stderr: io.Discard}}
	a.opts.socket, a.opts.file = ln.Addr().String(), filepath.Join(dir, "kiln.hcl")
	if _, err := a.sendList(t.Context(), "osv.json"); model.CodeOf(err) != model.Conflict {
		t.Errorf("what was sent was another list: %v", err)
	}
	const empty = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945" // of []
	answer.Digest = empty
	if d, err := a.sendList(t.Context(), "osv.json"); err != nil || d != empty {
		t.Errorf("%s, %v", d, err)
	}
}
