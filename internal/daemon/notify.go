package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"kiln/internal/model"
)

// Manager is whoever started the daemon and wants to hear of it: systemd, by
// sd_notify(3). The zero value is nobody.
type Manager struct {
	socket   string
	watchdog time.Duration // how often it wants to hear that the daemon lives; 0: never
}

// TakeManager reads what systemd put into the environment, and takes it out:
// keeper, containerd and builds are not who it waits for.
func TakeManager() Manager {
	m := Manager{socket: os.Getenv("NOTIFY_SOCKET")}
	pid := os.Getenv("WATCHDOG_PID")
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		m.watchdog = time.Duration(usec) * time.Microsecond
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} {
		_ = os.Unsetenv(name) // it can fail only for names that are none
	}
	return m
}

// tell sends a message. That nobody hears it stops nothing.
func (m Manager) tell(log *slog.Logger, lines ...string) {
	if m.socket == "" {
		return
	}
	// A name that begins with @ is an abstract one, for net as for systemd.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(strings.Join(lines, "\n")))
		_ = conn.Close()
	}
	if err != nil {
		log.Warn("cannot tell the service manager", "message", lines[0], "error", err)
	}
}

// watch tells the manager that the daemon lives, for as long as alive says so
// in time. One that hangs is ended by the manager and started again.
func (m Manager) watch(ctx context.Context, log *slog.Logger, alive func()) {
	if m.socket == "" || m.watchdog == 0 {
		return
	}
	tick := time.NewTicker(m.watchdog / 3)
	defer tick.Stop()
	for {
		alive()
		m.tell(log, "WATCHDOG=1")
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// answers returns when the control loop can be asked: it holds what decides.
func (d *daemon) answers() {
	d.control.View(func(*model.State, *model.Snapshot) {})
}
