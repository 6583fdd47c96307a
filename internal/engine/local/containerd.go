package local

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	daemon "github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// RunContainerd is the containerd process: it serves until SIGTERM or SIGINT
// and returns the exit status. args are those of ContainerdCommand.
func RunContainerd(args []string) int {
	if err := runContainerd(args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", ContainerdName, err)
		return 1
	}
	return 0
}

func runContainerd(args []string) error {
	flags := flag.NewFlagSet(ContainerdName, flag.ContinueOnError)
	config := &srvconfig.Config{Version: version.ConfigVersion}
	flags.StringVar(&config.Root, "root", "", "directory of what outlives a reboot")
	flags.StringVar(&config.State, "state", "", "directory of what does not")
	flags.StringVar(&config.GRPC.Address, "address", "", "socket to serve on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if config.GRPC.Address == "" {
		return errors.New("there is no address to serve on")
	}
	config.TTRPC.Address = config.GRPC.Address + ".ttrpc"
	config.GRPC.MaxRecvMsgSize, config.GRPC.MaxSendMsgSize = defaults.DefaultMaxRecvMsgSize, defaults.DefaultMaxSendMsgSize
	if err := log.SetLevel("error"); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)

	if err := daemon.CreateTopLevelDirectories(config); err != nil {
		return err
	}
	if err := mount.SetTempMountLocation(filepath.Join(config.Root, "tmpmounts")); err != nil {
		return err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		return err
	}
	s, err := daemon.New(ctx, config)
	if err != nil {
		return err
	}
	return serveContainerd(ctx, config, s)
}

func serveContainerd(ctx context.Context, config *srvconfig.Config, s *daemon.Server) error {
	failed := make(chan error, 2)
	serve := func(address string, accept func(net.Listener) error) error {
		l, err := sys.GetLocalListener(address, 0, 0)
		if err != nil {
			return err
		}
		go func() {
			defer l.Close()
			failed <- accept(l)
		}()
		return nil
	}
	// Shims publish their events on the second socket: it is first, as they
	// may be waiting for it.
	if err := serve(config.TTRPC.Address, s.ServeTTRPC); err != nil {
		return err
	}
	if err := serve(config.GRPC.Address, s.ServeGRPC); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		s.Stop()
		return nil
	case err := <-failed:
		return err
	}
}
