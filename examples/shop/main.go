// Command shop is a small web application to try kiln with: pages, uploads,
// slow answers, event streams and WebSockets, all of them checksummed, so that
// whoever drives load at it can tell a whole answer from a cut one.
//
// "shop" serves; "shop selftest" checks a serving shop from inside its own
// server, as a validation of the kind exec does; "shop ask URL" checks another.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is stamped when the binary is built; see the script "build".
var version = "dev"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	m, err := mistakesFromEnv(os.Getenv)
	if err != nil {
		return err
	}
	if len(args) == 1 && args[0] == "selftest" {
		return selftest(m.listen, out)
	}
	if len(args) == 2 && args[0] == "ask" {
		_, err := ask(context.Background(), http.MethodGet, args[1], nil)
		return err
	}
	if len(args) != 0 {
		return fmt.Errorf("cannot run %q: the commands are selftest and ask URL", args)
	}
	if err := m.beforeServing(); err != nil {
		return err
	}
	return serve(m, slog.New(slog.NewTextHandler(out, nil)))
}

// serve answers until SIGTERM or SIGINT, then lets what is open end.
func serve(m mistakes, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	srv := &http.Server{
		Addr:              m.listen,
		Handler:           newShop(m),
		ReadHeaderTimeout: 10 * time.Second,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	log.Info("shop is open", "version", version, "listen", m.listen)
	select {
	case err := <-ended:
		return fmt.Errorf("cannot serve on %s: %w", m.listen, err)
	case <-ctx.Done():
	}
	log.Info("shop is closing", "version", version)
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(last); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("cannot close: %w", err)
	}
	return nil
}
