package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// The namespaces that servers have of their own. A process can be in any of
// them without being in the others.
var spaceKinds = []string{"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"}

// spaces are namespaces as /proc shows them, as "mnt:[4026532621]".
type spaces [7]string

// spacesOf reads the namespaces of a process; what cannot be read is empty: the
// process has just ended.
func spacesOf(proc int, pid string) (s spaces) {
	var buffer [64]byte
	for i, kind := range spaceKinds {
		if n, err := unix.Readlinkat(proc, pid+"/ns/"+kind, buffer[:]); err == nil {
			s[i] = string(buffer[:n])
		}
	}
	return s
}

// territory is a running server as its processes are judged by it.
type territory struct {
	record *record
	spaces spaces
	root   uint64 // the mount that its root is
	rights rights // of its first process's configuration
}

// survey is one look at all processes of the machine, for all servers.
type survey struct {
	e       *Engine
	servers map[model.ServerID]*territory
	owners  map[string]*territory // by namespace
}

// survey finds out what belongs to the running servers.
func (e *Engine) survey() *survey {
	s := &survey{e: e, servers: map[model.ServerID]*territory{}, owners: map[string]*territory{}}
	for _, r := range e.records() {
		if r.state() != model.Running {
			continue
		}
		if t := e.territory(r); t != nil {
			s.servers[r.ID] = t
			for _, space := range t.spaces {
				if space != "" {
					s.owners[space] = t
				}
			}
		}
	}
	return s
}

// territory returns what belongs to the server; nil where its first process has
// just ended. It is remembered: its first process cannot leave its namespaces.
func (e *Engine) territory(r *record) *territory {
	e.drift.mu.Lock()
	known := e.drift.territories[r.ID]
	e.drift.mu.Unlock()
	if known != nil && known.record.Process == r.Process {
		return known
	}
	pid := strconv.Itoa(r.Process.PID)
	t := &territory{record: r, spaces: spacesOf(unix.AT_FDCWD, "/proc/"+pid)}
	machine := spacesOf(unix.AT_FDCWD, "/proc/thread-self") // the first thread may be left in a server's
	for i := range t.spaces {
		if t.spaces[i] == machine[i] {
			t.spaces[i] = "" // the machine's own
		}
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/proc/"+pid+"/root/", 0, unix.STATX_MNT_ID, &st); err == nil {
		t.root = st.Mnt_id
	}
	t.rights = e.wantedRights(r)
	if !r.Process.runs(e.boot) || t.spaces[0] == "" {
		return nil
	}
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	if e.drift.territories == nil {
		e.drift.territories = map[model.ServerID]*territory{}
	}
	e.drift.territories[r.ID] = t
	return t
}

// walk judges every process of the machine, and returns what it finds.
func (s *survey) walk() ([]model.Finding, error) {
	proc, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot look at the machine's processes: %w", err)
	}
	defer func() { _ = unix.Close(proc) }()
	names, err := namesIn("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot look at the machine's processes: %w", err)
	}
	groups := s.groups()
	var found []model.Finding
	for _, name := range names {
		name = filepath.Base(name)
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() { // kiln's own threads visit servers' networks
			continue
		}
		of := spacesOf(proc, name)
		t := groups[pid]
		for i := range of {
			if t == nil && of[i] != "" {
				t = s.owners[of[i]]
			}
		}
		if t != nil {
			found = append(found, s.judge(t, pid, of, groups[pid] == t)...)
		}
	}
	return found, nil
}

// groups returns whose control group each process is in.
func (s *survey) groups() map[int]*territory {
	groups := map[int]*territory{}
	for id, t := range s.servers {
		for _, pid := range processesIn(s.e.cgroupDir(execController(), id)) {
			groups[pid] = t
		}
	}
	return groups
}

// look judges one process that has just begun to run a program.
func (s *survey) look(pid int) []model.Finding {
	if pid == os.Getpid() {
		return nil
	}
	of := spacesOf(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid))
	group := cgroupOf(pid)
	t := s.servers[model.ServerID(groupServer(group, s.e.cgroup()))]
	inGroup := t != nil
	for i := range of {
		if t == nil && of[i] != "" {
			t = s.owners[of[i]]
		}
	}
	if t == nil {
		return nil
	}
	return s.judge(t, pid, of, inGroup)
}

const (
	howProcesses = "control groups and namespaces of the machine's processes"
	patience     = 10 * time.Second // with what the runtime starts, until it is the server's
)

// judge decides whether a process that is in the server's control group, or in
// one of its namespaces, is the server's or kiln's own. One that begins another
// program meanwhile, as the runtime does in its turn, is judged again.
func (s *survey) judge(t *territory, pid int, of spaces, inGroup bool) (found []model.Finding) {
	for range 3 {
		program := programOf(pid)
		found = s.judgeRunning(program, t, pid, of, inGroup)
		now := programOf(pid) // not known: it has ended
		if len(found) == 0 || !now.known || now.path == program.path && now.mount == program.mount {
			break
		}
	}
	return found
}

// judgeRunning judges a process that runs the program.
func (s *survey) judgeRunning(program program, t *territory, pid int, of spaces, inGroup bool) []model.Finding {
	begun, state, err := processStat(pid)
	if err != nil || state == 'Z' || state == 'X' {
		return nil // it has ended
	}
	if s.kilns(t, pid) {
		return nil
	}
	if s.e.runsRuntime(pid, program) && !s.e.lingers(process{PID: pid, Start: begun}) {
		return nil // the runtime, on the way into the server
	}
	finding := model.Finding{
		Server: t.record.ID, Detector: model.DetectProcesses, Where: fmt.Sprintf("process %d (%s)", pid, program.path),
		How: howProcesses, At: time.Now().UTC(),
	}
	var found []model.Finding
	add := func(what, detail string) {
		f := finding
		f.What, f.Detail = what, detail
		found = append(found, f)
	}
	why, foreign := s.stranger(t, pid, of, inGroup)
	if foreign {
		add("foreign process", why+saying(pid))
	}
	if why := program.outside(t); why != "" {
		add("program from outside the image", why+saying(pid))
		if program.mount == t.root { // a session's own, of which the file was replaced
			found[len(found)-1].Session = explainedAt(s.e.writtenBy(t.record.ID), program.changed)
		}
	}
	if !foreign {
		finding.Detector = model.DetectConfig
		for what, detail := range t.rights.exceeded(pid) {
			add(what, detail)
		}
	}
	if now, _, err := processStat(pid); err != nil || now != begun {
		return nil // another process has its number now: nothing is certain
	}
	return found
}

// stranger reports whether the process does not descend from the server's first
// process.
func (s *survey) stranger(t *territory, pid int, of spaces, inGroup bool) (string, bool) {
	if pid == t.record.Process.PID {
		return "", false
	}
	const pidSpace = 1
	var joined []string
	for i := range of {
		if of[i] != "" && of[i] == t.spaces[i] {
			joined = append(joined, spaceKinds[i])
		}
	}
	switch {
	case of == spaces{}:
		return "", false // it has just ended
	case !inGroup && !slices.Contains(processesIn(s.e.cgroupDir(execController(), t.record.ID)), pid):
		return "it is in the server's namespaces (" + strings.Join(joined, ", ") + ") and not in its control group", true
	case of[pidSpace] != t.spaces[pidSpace]:
		return "it is in the server's control group and not among its processes", true
	}
	// Children of the first process, and whoever lost their parent to it, have
	// it among their ancestors; who was brought in by setns has not.
	for range 3 { // a parent that ends meanwhile leaves a gap
		if descends, certain := descendsFrom(pid, t.record.Process.PID); certain {
			return "it does not descend from the server's first process", !descends
		}
	}
	return "", false
}

// descendsFrom follows the parents of a process; it is certain when the first
// process of the machine, or the ancestor, was reached.
func descendsFrom(pid, ancestor int) (descends, certain bool) {
	for range 1 << 15 {
		if pid == ancestor {
			return true, true
		}
		if pid <= 1 {
			return false, true
		}
		parent, err := parentOf(pid)
		if err != nil {
			return false, false
		}
		pid = parent
	}
	return false, false
}

// kilns reports whether kiln itself has put the process there: a check's
// command, or somebody's session, which is told of as such.
func (s *survey) kilns(t *territory, pid int) bool {
	if rest, ok := strings.CutPrefix(cgroupOf(pid), filepath.Join(s.e.cgroup(), string(t.record.ID))+"/"); ok {
		name, _, _ := strings.Cut(rest, "/")
		if s.e.own.group(name) {
			return true
		}
	}
	self, first := os.Getpid(), pid
	for range 64 {
		if s.e.own.process(pid) {
			return true
		}
		if pid <= 1 || pid == t.record.Process.PID {
			return false
		}
		parent, err := parentOf(pid)
		if err != nil {
			return false
		}
		if parent == self && pid == first && sameProgram(pid) {
			return true // a copy of this very process, which makes namespaces
		}
		pid = parent
	}
	return false
}

// sameProgram reports whether the process runs the program that this one runs.
func sameProgram(pid int) bool {
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(theirs, ours)
}

// runsRuntime reports whether the process runs kiln's own runc. It is known by
// every byte: it runs itself from a sealed copy, in memory or on a mount that is
// nowhere, of which neither the number nor the whole name is its own.
func (e *Engine) runsRuntime(pid int, p program) bool {
	if !strings.Contains(p.path, "runc") {
		return false
	}
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	defer func() { _ = theirs.Close() }()
	ours, err := os.Open(e.binaries.runc)
	if err != nil {
		return false
	}
	defer func() { _ = ours.Close() }()
	return sameContent(theirs, ours)
}

// sameContent compares two files, by their sizes first.
func sameContent(a, b *os.File) bool {
	one, err := a.Stat()
	if err != nil {
		return false
	}
	other, err := b.Stat()
	if err != nil || one.Size() != other.Size() || !one.Mode().IsRegular() {
		return false
	}
	if os.SameFile(one, other) {
		return true
	}
	const chunk = 64 << 10
	was, now := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := io.ReadFull(a, was)
		m, _ := io.ReadFull(b, now) // what it has less shows
		if !bytes.Equal(was[:n], now[:m]) {
			return false
		}
		if err != nil {
			return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		}
	}
}

// lingers reports whether the process was first seen longer ago than the runtime
// may take to become the server's, once its turn has come.
func (e *Engine) lingers(p process) bool {
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	if e.drift.arriving == nil {
		e.drift.arriving = map[process]time.Time{}
	}
	first, known := e.drift.arriving[p]
	if !known {
		e.drift.arriving[p] = time.Now()
		return false
	}
	return time.Since(first) > patience
}

// cgroupOf returns the control group of a process, in the hierarchy in which
// servers' commands have their own.
func cgroupOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] == execController() {
			return parts[2]
		}
	}
	return ""
}

// groupServer returns the server whose control group that is, or one below it.
func groupServer(group, instance string) string {
	rest, ok := strings.CutPrefix(group, instance+"/")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, "/")
	return id
}

// program is what a process runs.
type program struct {
	path    string // as the process sees it
	mount   uint64
	deleted bool      // its file has no name any more
	changed time.Time // when its file was, or when that lost its last name
	kind    int64     // of the file system
	known   bool
}

func programOf(pid int) program {
	link := fmt.Sprintf("/proc/%d/exe", pid)
	p := program{}
	var err error
	if p.path, err = os.Readlink(link); err != nil {
		p.path = "?"
		return p
	}
	var st unix.Statx_t
	var fs unix.Statfs_t
	if unix.Statx(unix.AT_FDCWD, link, 0, unix.STATX_MNT_ID|unix.STATX_NLINK|unix.STATX_CTIME, &st) == nil && unix.Statfs(link, &fs) == nil {
		p.mount, p.kind, p.known = st.Mnt_id, fs.Type, true
		p.deleted = st.Mask&unix.STATX_NLINK != 0 && st.Nlink == 0
		p.changed = time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))
	}
	return p
}

// outside says where the program lies, if that is not in the server's image.
func (p program) outside(t *territory) string {
	inRoot := t.root == 0 || p.mount == t.root
	switch {
	case !p.known || inRoot && !p.deleted:
		return ""
	case strings.HasPrefix(p.path, "/memfd:"):
		return "it lies in memory only (memfd)"
	case p.deleted:
		return "its file was deleted"
	case p.kind == unix.TMPFS_MAGIC:
		return "it lies on a tmpfs"
	default:
		return "it lies on another mount than the server's root"
	}
}

// saying returns ": COMMAND LINE" of a process, as far as it can be had.
func saying(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return ""
	}
	const most = 200
	text := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	if len(text) > most {
		text = text[:most] + "…"
	}
	return ": " + text
}

// rights are what the processes of a server may do at most.
type rights struct {
	bounding uint64
	known    bool
}

// exceeded yields what the process may do beyond that.
func (r rights) exceeded(pid int) iter.Seq2[string, string] {
	return func(yield func(what, detail string) bool) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !r.known {
			return
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			what, detail := "", ""
			switch name {
			case "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb":
				if n, err := strconv.ParseUint(value, 16, 64); err == nil && n&^r.bounding != 0 {
					what, detail = "capability added", fmt.Sprintf("%s is %016x, wanted no more than %016x", name, n, r.bounding)
				}
			case "NoNewPrivs":
				if value != "1" {
					what, detail = "privileges can be gained", "no_new_privs is not set"
				}
			case "Seccomp":
				if value != "2" {
					what, detail = "system calls not filtered", "its seccomp mode is "+value+", wanted 2"
				}
			}
			if what != "" && !yield(what, detail) {
				return
			}
		}
	}
}
