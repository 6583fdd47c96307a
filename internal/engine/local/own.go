package local

import (
	"os/exec"
	"sync"
)

// own are the processes that kiln itself has put into servers, now: whatever
// is in one of their control groups, or descends from one of their first
// processes, is no stranger.
type own struct {
	mu     sync.Mutex
	groups map[string]bool // names of control groups below a server's
	pids   map[int]bool    // what joins a server from outside
}

// start starts the command, which joins a server in the named control group. It
// is known before its first instruction can be seen. The caller calls the
// function that it returns when no process of it is left.
func (o *own) start(cmd *exec.Cmd, group string) (func(), error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if o.groups == nil {
		o.groups, o.pids = map[string]bool{}, map[int]bool{}
	}
	pid := cmd.Process.Pid
	o.groups[group], o.pids[pid] = true, true
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.groups, group)
		delete(o.pids, pid)
	}, nil
}

// group reports whether that is the name of a control group of kiln's own.
func (o *own) group(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.groups[name]
}

// process reports whether kiln has started the process.
func (o *own) process(pid int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pids[pid]
}
