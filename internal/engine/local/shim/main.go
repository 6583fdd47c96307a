// Command shim is what every server of the local engine runs under: containerd's
// shim for OCI runtimes, built lean. It does one thing more: it writes down how
// the server's main process ended, so that this is known even when it happened
// while containerd and the daemon were away.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin" // the task service registers itself
	"github.com/containerd/containerd/v2/pkg/shim"

	"kiln/internal/engine/local/exitfile"
	"kiln/internal/engine/local/privateenv"
)

func main() {
	if slices.Contains(os.Args[1:], "start") {
		// The runtime reads the configuration later, from where this leaves it.
		if err := privateenv.Inject("."); err != nil {
			fmt.Fprintln(os.Stderr, "cannot give the server its environment:", err)
			os.Exit(1)
		}
	}
	recordExit()
	shim.Run(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}

// recordExit writes the exit file that the bundle's configuration asks for. Of
// the shim's modes only the long-running one has work for it: the others (start,
// delete, -info) end before their server does.
func recordExit() {
	spec, err := exitfile.ReadBundle(".")
	if err != nil || spec.Path == "" {
		return
	}
	for _, arg := range os.Args[1:] {
		if arg == "start" || arg == "delete" || arg == "-info" {
			return
		}
	}
	go watchExits(spec)
}
