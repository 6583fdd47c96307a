package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"kiln/internal/daemon"
	"kiln/internal/model"
)

// role is a process that the daemon, or the keeper for it, starts.
type role func(context.Context, daemon.Role) error

// roleNamed returns the role of the name, or nil.
func roleNamed(name string) role {
	switch name {
	case "keeper":
		return daemon.RunKeeper
	case "router":
		return daemon.RunRouter
	case "builder":
		return func(ctx context.Context, r daemon.Role) error { return daemon.RunBuilder(ctx, r, os.Stdin) }
	default:
		return nil
	}
}

// runRole runs a role until it ends, and returns the exit code.
func runRole(ctx context.Context, run role, name string, args []string) int {
	var r daemon.Role
	flags := flag.NewFlagSet("kiln "+name, flag.ContinueOnError)
	flags.StringVar((*string)(&r.Instance), "instance", "", "the instance's id")
	flags.StringVar(&r.DataDir, "data-dir", "", "the instance's data directory")
	flags.StringVar(&r.RunDir, "run-dir", "", "the instance's run directory")
	flags.Int64Var(&r.Memory, "memory", 0, "builder: the most that builds take together, in bytes")
	flags.TextVar(&r.ServerNet, "server-net", netip.Prefix{}, "builder: where servers, and builds, have their addresses")
	flags.TextVar(&r.ServiceNet, "service-net", netip.Prefix{}, "keeper, router: where the names of services have their addresses")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if !model.ValidInstanceID(string(r.Instance)) || r.DataDir == "" || r.RunDir == "" || flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "kiln %s is started by the daemon: kiln daemon\n", name)
		return 2
	}
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintf(os.Stderr, "kiln %s: cannot find this program's own file: %s\n", name, err)
		return 1
	}
	r.Executable = exe
	r.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("role", name)
	if err := run(ctx, r); err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "kiln %s: %s\n", name, err)
		if hint := model.HintOf(err); hint != "" {
			fmt.Fprintf(os.Stderr, "  %s\n", hint)
		}
		return 1
	}
	return 0
}
