package router

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"kiln/internal/keeper"
)

// roleVar makes the test binary another process: the tests that kill
// processes start it again in the role of a router, a keeper or a server.
const roleVar = "KILN_TEST_ROLE"

func TestMain(m *testing.M) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	run, data := os.Getenv("KILN_TEST_RUN"), os.Getenv("KILN_TEST_DATA")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "backend":
		backendRole()
	case "router":
		err = Run(ctx, Config{
			DataDir: data, RunDir: run, Log: log.With("role", "router"),
			Build: os.Getenv("KILN_TEST_BUILD"), Limits: Limits{Linger: time.Second},
		})
	case "keeper":
		err = keeper.Run(ctx, keeper.Config{
			RunDir: run, DataDir: data, Log: log.With("role", "keeper"),
			Children: []keeper.Child{{
				Name: "router", Path: os.Args[0], Args: []string{"router"}, Env: []string{roleVar + "=router"},
			}},
		})
	}
	if err != nil {
		log.Error("role ended", "error", err)
		os.Exit(1)
	}
}
