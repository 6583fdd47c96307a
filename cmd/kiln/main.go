// Command kiln is all of kiln: the command line, the daemon, and the processes
// that the daemon starts. Which one it is follows from the name it was called
// by (containerd) or its first argument.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
	_ "time/tzdata" // the zones of chaos windows, also where the machine has none

	"kiln/internal/api"
	"kiln/internal/buildcontext"
	"kiln/internal/cli"
	"kiln/internal/daemon"
	"kiln/internal/engine/local"
)

// version is set by the linker.
var version = "dev"

func main() {
	if filepath.Base(os.Args[0]) == local.ContainerdName {
		os.Exit(local.RunContainerd(os.Args[1:]))
	}
	os.Exit(run(os.Args[1:]))
}

// run is the command line, or one of the roles that only the daemon calls.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 {
		if role := roleNamed(args[0]); role != nil {
			return runRole(ctx, role, args[0], args[1:])
		}
	}
	// A second Ctrl-C ends the program at once.
	context.AfterFunc(ctx, stop)
	return cli.Program{
		Version: version,
		Stdin:   os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Env: os.Getenv,
		Now: time.Now,
		Roles: cli.Roles{
			Daemon:        runDaemon,
			ServeContext:  buildcontext.Serve,
			VerifyJournal: daemon.VerifyJournal,
			Account:       daemon.Account,
			VerifyBackup:  daemon.VerifyBackup,
			Restore: func(ctx context.Context, r io.Reader, req api.RestoreRequest) (*api.RestoreReport, error) {
				return daemon.Restore(ctx, r, req, version)
			},
		},
	}.Run(ctx, args)
}

// runDaemon is `kiln daemon`. Ended by a signal, it has done what it should.
func runDaemon(ctx context.Context, o cli.DaemonOptions) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own file: %w", err)
	}
	// Ending takes a moment, and a second signal must not cut it short.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	handOver := make(chan struct{}, 1)
	go handOverOnSignal(ctx, handOver)
	return daemon.Run(ctx, daemon.Config{
		HandOver: handOver,
		DataDir:  o.DataDir, Socket: o.Socket, Version: o.Version, Executable: exe,
		ServerNet: o.ServerNet, ServiceNet: o.ServiceNet, Runtime: o.Runtime, BuildMemory: o.BuildMemory,
		EvidenceBound: o.EvidenceBound, EvidenceAge: o.EvidenceAge,
		MetricsListen: o.MetricsListen, MetricsRetention: o.MetricsRetention, MetricsSize: o.MetricsSize, AlertsFile: o.AlertsFile, RegistryFile: o.RegistryFile,
		SigningKey: o.SigningKey, SigningPassphrase: o.SigningPassphrase, RequireSignature: o.RequireSignature, AgeIdentity: o.AgeIdentity,
		Publish: o.Publish, PublishLogin: o.PublishLogin,
		Manager:    daemon.TakeManager(),
		BootIDFile: os.Getenv("KILN_BOOT_ID_FILE"), // of tests that simulate a reboot
		Log:        logger(os.Stderr, o.Debug, o.JSON),
	}, func() {})
}

// handOverOnSignal asks for a new router at each SIGHUP until ctx ends.
func handOverOnSignal(ctx context.Context, ask chan<- struct{}) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			select {
			case ask <- struct{}{}:
			default: // asked already
			}
		}
	}
}

func logger(w io.Writer, debug, asJSON bool) *slog.Logger {
	options := &slog.HandlerOptions{}
	if debug {
		options.Level = slog.LevelDebug
	}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
