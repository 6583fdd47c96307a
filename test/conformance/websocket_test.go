package conformance_test

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/router"
)

// python is the interpreter that Debian's packages are for.
const python = "/usr/bin/python3"

// TestWebSocket has Debian's two WebSocket libraries talk through the router:
// python3-autobahn, by the makers of the Autobahn test suite, as client and
// python3-websockets as server.
func TestWebSocket(t *testing.T) {
	if !*all {
		t.Skip("needs python3-autobahn and python3-websockets: make conformance")
	}
	server := exec.CommandContext(t.Context(), python, "testdata/websocket_server.py")
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	upstream := model.Upstream{Server: "echo-aaaaaa", Release: 1, Address: "127.0.0.1:" + strings.TrimSpace(port)}
	for _, by := range []string{"ws", "wss"} {
		t.Run(by, func(t *testing.T) {
			r := startRouter(t, router.Limits{})
			route := model.Route{Listen: freeAddress(t)}
			args := []string{"testdata/websocket_client.py", by + "://" + route.Listen + "/"}
			if by == "wss" {
				route.TLS = selfSigned(t, "shop.test")
				args = append(args, route.TLS.Cert)
			}
			r.apply(model.TableService{
				Name: "echo", Release: 1, Protocol: model.HTTP, Routes: []model.Route{route}, Backends: []model.Upstream{upstream},
			})
			began := time.Now()
			out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			passed := 0
			for line := range strings.Lines(string(out)) {
				if strings.HasPrefix(line, "ok ") {
					passed++
				} else {
					t.Error(strings.TrimSpace(line))
				}
			}
			t.Logf("%d cases passed in %s", passed, time.Since(began).Round(time.Second))
		})
	}
}
