package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// The manager hears that the daemon is ready, and then that it lives, until it
// hangs.
func TestManagerHears(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	m := TakeManager()
	if os.Getenv("NOTIFY_SOCKET") != "" || os.Getenv("WATCHDOG_USEC") != "" {
		t.Error("what systemd said to the daemon is handed on to its children")
	}
	log := slog.New(slog.DiscardHandler)
	m.tell(log, "READY=1", "STATUS=x")
	ctx, stop := context.WithCancel(t.Context())
	hang, asked := make(chan struct{}), 0
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.watch(ctx, log, func() {
			if asked++; asked == 3 {
				<-hang
			}
		})
	}()
	for _, want := range []string{"READY=1\nSTATUS=x", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := receive(t, heard, 5*time.Second); got != want {
			t.Fatalf("the manager heard %q, want %q", got, want)
		}
	}
	if got := receive(t, heard, 100*time.Millisecond); got != "" {
		t.Errorf("a daemon that hangs said %q", got)
	}
	stop()
	close(hang)
	<-ended
}

// receive returns the next message, "" if there is none in time.
func receive(t *testing.T, c *net.UnixConn, within time.Duration) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// The watchdog of another process is none of ours.
func TestAnothersWatchdogIsNotOurs(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "1")
	if m := TakeManager(); m.watchdog != 0 {
		t.Errorf("a watchdog of %s is taken for the daemon's", m.watchdog)
	}
}
