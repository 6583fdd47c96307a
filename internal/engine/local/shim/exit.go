package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"kiln/internal/engine/local/exitfile"
	"kiln/internal/model"
)

const signalled = 128 // exit statuses above it are 128 + the signal's number

// watchExits follows what the shim reaps until the server's main process is
// among it, and goes on reading afterwards: a subscriber that does not read
// holds up the others.
func watchExits(bundle exitfile.Bundle) {
	written := false
	for exit := range reaper.Default.Subscribe() {
		if written || exit.Pid != initPID() {
			continue
		}
		written = true
		end := describe(exit.Status, exit.Timestamp, oomKills(bundle.Cgroup))
		if err := exitfile.Write(bundle.Path, end); err != nil {
			log.L.WithError(err).Error("cannot write the exit file")
		}
	}
}

// initPID returns the process id of the server's main process, 0 if it has none.
func initPID() int {
	b, err := os.ReadFile(process.InitPidFile)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0
	}
	return pid
}

func describe(status int, at time.Time, oomKills int) model.Exit {
	e := model.Exit{Known: true, Code: status, At: at.UTC()}
	if status > signalled {
		e.Signal = unix.SignalName(unix.Signal(status - signalled))
	}
	e.OOM = oomKills > 0 && status == signalled+int(unix.SIGKILL)
	return e
}

// oomKills counts the processes of the control group that the kernel has killed
// for want of memory, on control groups v1 and v2.
func oomKills(cgroup string) int {
	for _, path := range []string{
		filepath.Join("/sys/fs/cgroup/memory", cgroup, "memory.oom_control"),
		filepath.Join("/sys/fs/cgroup", cgroup, "memory.events"),
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			if count, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
				n, _ := strconv.Atoi(count)
				return n
			}
		}
	}
	return 0
}
