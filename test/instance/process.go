package instance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a process of the instance.
type Process struct {
	PID  int
	Role string // "daemon", "keeper", "router", "builder", "containerd", "shim" or "server"
	Name string // its command line
	Unit string // its control group: a server's holds its id
}

// Processes returns every process of the instance: those that name it in their
// command line or environment, and those in its control groups.
func (i *Instance) Processes() ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == os.Getpid() {
			continue
		}
		if p, ours := i.process(dir, pid); ours {
			found = append(found, p)
		}
	}
	return found, nil
}

// process looks at one process; what vanishes meanwhile is none.
func (i *Instance) process(dir string, pid int) (Process, bool) {
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(cmdline) == 0 { // gone, a zombie or a kernel thread
		return Process{}, false
	}
	cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	p := Process{PID: pid, Name: strings.Join(args, " "), Unit: string(cgroup), Role: role(args)}
	named := func(s string) bool {
		id := i.ID()
		return strings.Contains(s, i.Data) || id != "" && (strings.Contains(s, "/run/kiln/"+id) || strings.Contains(s, "kiln-"+id) || strings.Contains(s, "kiln/"+id))
	}
	if p.Role == "" { // a client or a server: clients come and go by themselves
		p.Role = "server"
		return p, named(p.Unit)
	}
	return p, named(p.Name) || named(p.Unit)
}

// role tells a process by how it was called.
func role(args []string) string {
	switch name := filepath.Base(args[0]); {
	case strings.HasPrefix(name, "containerd-shim"):
		return "shim"
	case name == "containerd":
		return "containerd"
	case len(args) > 1 && slices.Contains([]string{"daemon", "keeper", "router", "builder"}, args[1]):
		return args[1]
	default:
		return ""
	}
}

// PIDs returns the processes of a role, or those of the server with that id.
func (i *Instance) PIDs(what string) ([]int, error) {
	all, err := i.Processes()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range all {
		if p.Role == what || p.Role == "server" && strings.Contains(p.Unit, what) {
			pids = append(pids, p.PID)
		}
	}
	return pids, nil
}

// Signal sends the signal to every process of a role or server; none is an
// error.
func (i *Instance) Signal(what string, sig syscall.Signal) error {
	pids, err := i.PIDs(what)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("no process of %s runs", what)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("cannot signal %s (%d): %w", what, pid, err)
		}
	}
	return nil
}

// endAll kills what runs of the instance, and what that leaves running, until
// nothing does: keeper first, as it restarts others.
func (i *Instance) endAll() error {
	for range 50 {
		all, err := i.Processes()
		if err != nil || len(all) == 0 {
			return err
		}
		for _, role := range []string{"keeper", "daemon", "containerd", "shim", "router", "builder", "server"} {
			for _, p := range all {
				if p.Role == role {
					_ = syscall.Kill(p.PID, syscall.SIGKILL) // gone already is as good
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("processes of %s do not end", i.Data)
}
