package keeper

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// markVar is the environment variable by which a child is known again.
const markVar = "KILN_KEPT_AS"

// pidFile knows which process is a child's, across keepers.
type pidFile struct {
	path  string
	mark  string // KILN_KEPT_AS=RUNDIR:NAME
	child Child
}

// pidRecord names a process for good: a pid alone may be used again.
type pidRecord struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

func newPIDFile(runDir string, c Child) pidFile {
	return pidFile{
		path:  filepath.Join(runDir, "keeper", c.Name+".pid"),
		mark:  markVar + "=" + runDir + ":" + c.Name,
		child: c,
	}
}

// start starts the command in a session of its own, so that it outlives the
// keeper and hears none of its signals.
func (f pidFile) start(out *os.File) (*process, error) {
	own, err := os.StartProcess(f.child.Path, f.child.Args, &os.ProcAttr{
		Env:   override(os.Environ(), append(slices.Clone(f.child.Env), f.mark)),
		Files: []*os.File{nil, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	p, err := watch(own.Pid, own)
	if err != nil {
		_ = own.Kill()
		_, _ = own.Wait()
		return nil, err
	}
	if start, ok := startTime(own.Pid); ok {
		data, err := json.Marshal(pidRecord{own.Pid, start})
		if err == nil {
			err = os.WriteFile(f.path, data, 0o600)
		}
		if err != nil {
			// find looks through the processes if the file is missing.
			_ = os.Remove(f.path)
		}
	}
	return p, nil
}

func (f pidFile) remove() { _ = os.Remove(f.path) }

// find returns the child that an earlier keeper has left, or nil. The file may
// be missing (the keeper was killed before it wrote it); the mark in the
// environment of a session leader that runs the very command tells as well.
func (f pidFile) find() *process {
	if p := f.fromFile(); p != nil {
		return p
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !f.is(pid) {
			continue
		}
		if p, err := watch(pid, nil); err == nil {
			return p
		}
	}
	return nil
}

func (f pidFile) fromFile() *process {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return nil
	}
	var r pidRecord
	if json.Unmarshal(data, &r) != nil {
		return nil
	}
	p, err := watch(r.PID, nil)
	if err != nil {
		return nil
	}
	// Looked at after the pidfd is open: now the pid cannot change hands.
	if start, ok := startTime(r.PID); !ok || start != r.Start {
		p.letGo()
		return nil
	}
	return p
}

// others returns the other processes of the child: it was renewed, and they
// have not ended yet.
func (f pidFile) others(kept int) []*process {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var out []*process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == kept || !f.is(pid) {
			continue
		}
		if p, err := watch(pid, nil); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// is reports whether the process is the child. What the child has started
// bears the mark as well, but runs something else, or leads no session.
func (f pidFile) is(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil || !slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return string(v) == f.mark }) {
		return false
	}
	// Later arguments may be those of another version.
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	command := strings.Join(f.child.Args[:min(2, len(f.child.Args))], "\x00") + "\x00"
	if err != nil || !strings.HasPrefix(string(args), command) {
		return false
	}
	fields, ok := statFields(pid)
	return ok && fields[statSession] == strconv.Itoa(pid) && fields[statState] != "Z"
}

// Fields of /proc/PID/stat after the name, which may contain anything.
const (
	statState   = 0
	statSession = 3
	statStart   = 19
)

func statFields(pid int) ([]string, bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, false
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	return fields, len(fields) > statStart
}

// startTime returns when the process started, in clock ticks after boot.
func startTime(pid int) (uint64, bool) {
	fields, ok := statFields(pid)
	if !ok || fields[statState] == "Z" {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[statStart], 10, 64)
	return n, err == nil
}

// override returns env with vars in place of what it has by their names.
func override(env, vars []string) []string {
	for _, v := range vars {
		name, _, _ := strings.Cut(v, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
	}
	return append(env, vars...)
}
