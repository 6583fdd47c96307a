package local

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestEscape has a program in a real server, as its root and as somebody else,
// with a user namespace and without, try everything that it knows to get out.
func TestEscape(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
	s := w.servers(t, e, image)
	neighbour := s.serving(func(t *model.Template) { t.Service = "other" })
	targets := machineAddresses(t, e)
	targets = append(targets, s.observe(neighbour).Address+":8080")
	api, err := net.Listen("unix", filepath.Join(w.DataDir, "kiln.sock")) // as the daemon does
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	kinds := map[string]func(*model.Template){
		"root":                     nil,
		"root of the machine":      func(t *model.Template) { t.UserNamespace = false },
		"a user":                   func(t *model.Template) { t.User = "web" },
		"a user of the machine":    func(t *model.Template) { t.User, t.UserNamespace = "web", false },
		"root that connects to it": func(t *model.Template) { t.Connects = []string{"other"} },
	}
	for name, edit := range kinds {
		t.Run(name, func(t *testing.T) {
			ref := s.serving(edit)
			out, code := s.run(ref, append([]string{"escape"}, targets...)...)
			if code != 0 {
				t.Fatalf("it ended with %d: %s", code, out)
			}
			tried := 0
			for line := range strings.Lines(out) {
				switch {
				case strings.HasPrefix(line, "ok "):
					tried++
				case strings.HasPrefix(line, "tried "):
					if want := fmt.Sprintf("tried %d\n", tried); line != want {
						t.Errorf("of what was tried %d are accounted for: %s", tried, line)
					}
				default:
					t.Error(strings.TrimSpace(line))
				}
			}
			if tried < 45 {
				t.Errorf("only %d ways were tried:\n%s", tried, out)
			}
			// Whatever it tried has left nothing behind.
			found, err := e.Inspect(t.Context(), ref.ID, engine.Whole)
			if err != nil || len(found) != 0 {
				t.Errorf("after that there is drift: %+v %v", found, err)
			}
		})
	}
	if found, err := e.InspectFleet(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("after that the fleet is not as it was: %+v %v", found, err)
	}
}

// machineAddresses listens at the addresses at which a server could look for the
// machine: its loopback, its end of the servers' links, all others that it has.
func machineAddresses(t *testing.T, e *Engine) []string {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err != nil {
		t.Fatalf("nobody answers there at all: %v", err)
	} else {
		_ = conn.Close()
	}
	targets := []string{"127.0.0.1:" + port, e.network.gateway.String() + ":" + port}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range interfaces {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() && len(targets) < 5 {
			targets = append(targets, net.JoinHostPort(ip.IP.String(), port))
		}
	}
	return targets
}
