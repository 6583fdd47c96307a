// Package doctor looks at the machine: what kiln needs of it, what it lacks,
// and the exact command that mends it. It changes nothing but what it makes
// for a moment in a network namespace of its own.
package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kiln/internal/api"
	"kiln/internal/model"
)

// The states of a check.
const (
	OK   = "ok"
	Warn = "warn" // kiln works, but somebody should know
	Fail = "fail" // kiln does not work
)

// Machine says what to look at.
type Machine struct {
	DataDir string   // absolute
	Listens []string // listeners that the declaration asks for
	Daemon  Daemon
}

// Daemon is what is known of the daemon.
type Daemon struct {
	Socket   string
	Instance model.InstanceID // "": none answered
	Version  string
	Problem  string          // why none answered
	Troubles []model.Trouble // what keeps its routers from serving what is declared, and kiln itself from its work
}

// Bounds below which a machine is told so.
const (
	leastSpace  = 1 << 30 // bytes; less fails
	littleSpace = 5 << 30
)

// Run carries out every check.
func Run(ctx context.Context, m Machine) *api.Checks {
	out := &api.Checks{Checks: []api.Check{
		root(), kernel(), namespaces(), overlay(m.DataDir), seccomp(), controlGroups(),
		network(), forwarding(), firewall(ctx), space(m.DataDir), volumes(m.DataDir), executable(m.DataDir), runDir(), daemon(m.Daemon),
	}}
	for _, t := range m.Daemon.Troubles {
		out.Checks = append(out.Checks, warn(concerned(t), "", "%s", t.What))
	}
	for _, l := range m.Listens {
		out.Checks = append(out.Checks, listener(l, m.DataDir))
	}
	return out
}

// concerned is whom a trouble is of: a service, or kiln itself.
func concerned(t model.Trouble) string {
	if t.Service == "" {
		return "kiln itself"
	}
	return "service " + t.Service
}

func ok(name, format string, args ...any) api.Check {
	return api.Check{Name: name, State: OK, Detail: fmt.Sprintf(format, args...)}
}

func warn(name, fix, format string, args ...any) api.Check {
	return api.Check{Name: name, State: Warn, Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(name, fix, format string, args ...any) api.Check {
	return api.Check{Name: name, State: Fail, Detail: fmt.Sprintf(format, args...), Fix: fix}
}

func root() api.Check {
	if os.Geteuid() != 0 {
		return fail("root", "sudo kiln doctor", "this is not root: the daemon has to be, and not every check here can be made without")
	}
	return ok("root", "this is root")
}

func kernel() api.Check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fail("kernel", "", "cannot ask for the kernel's version: %s", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	if !newEnough(release, 5, 4) {
		return fail("kernel", "apt-get install linux-image-amd64 && reboot", "%s is older than 5.4", release)
	}
	return ok("kernel", "%s", release)
}

// newEnough reports whether a kernel release is at least major.minor.
func newEnough(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	digits := func(s string) int {
		end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(s)
		}
		n, _ := strconv.Atoi(s[:end])
		return n
	}
	a, b := digits(parts[0]), digits(parts[1])
	return a > major || a == major && b >= minor
}

func namespaces() api.Check {
	var missing []string
	for _, ns := range []string{"mnt", "net", "pid", "uts", "ipc"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return fail("namespaces", "", "the kernel has no namespaces of kind %s", strings.Join(missing, ", "))
	}
	return ok("namespaces", "mnt, net, pid, uts, ipc")
}

// overlay looks for overlayfs, and for a data directory that it can lie on.
func overlay(dataDir string) api.Check {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fail("overlayfs", "mount -t proc proc /proc", "cannot read /proc/filesystems: %s", err)
	}
	if !hasWord(string(known), "overlay") {
		return fail("overlayfs", "modprobe overlay && echo overlay > /etc/modules-load.d/overlay.conf", "the kernel has not loaded it")
	}
	var st unix.Statfs_t
	dir := existing(dataDir)
	if err := unix.Statfs(dir, &st); err != nil {
		return fail("overlayfs", "", "cannot look at %s: %s", dir, err)
	}
	switch st.Type {
	case unix.OVERLAYFS_SUPER_MAGIC:
		return fail("overlayfs", "kiln daemon --data-dir DIR, on a disk of the machine", "%s lies on an overlay itself, and layers cannot lie on one another", dir)
	case unix.NFS_SUPER_MAGIC:
		return fail("overlayfs", "kiln daemon --data-dir DIR, on a disk of the machine", "%s lies on NFS", dir)
	case unix.TMPFS_MAGIC:
		return warn("overlayfs", "kiln daemon --data-dir DIR, on a disk of the machine", "%s lies in memory: a reboot ends it", dir)
	}
	return ok("overlayfs", "loaded; %s can hold it", dir)
}

// existing returns the deepest directory of a path that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" || path == "." {
			return path
		}
		path = filepath.Dir(path)
	}
}

func hasWord(text, word string) bool {
	return slices.Contains(strings.Fields(text), word)
}

func seccomp() api.Check {
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		return fail("seccomp", "", "the kernel has no seccomp filters: build it with CONFIG_SECCOMP_FILTER")
	}
	return ok("seccomp", "filters are available")
}

// controlGroups looks for the controllers that limits need, of either version.
func controlGroups() api.Check {
	want := []string{"memory", "cpu", "pids"}
	version, have := "version 2", ""
	if unified, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		have = string(unified)
	} else {
		mounts, err := os.ReadFile("/proc/mounts")
		if err != nil {
			return fail("control groups", "mount -t proc proc /proc", "cannot read /proc/mounts: %s", err)
		}
		version, have = "version 1", mountedControllers(string(mounts))
	}
	var missing []string
	for _, c := range want {
		if !hasWord(have, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return fail("control groups", "add cgroup_enable=memory to GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot",
			"%s without %s", version, strings.Join(missing, ", "))
	}
	return ok("control groups", "%s with %s", version, strings.Join(want, ", "))
}

// mountedControllers returns the controllers of version 1 that are mounted.
func mountedControllers(mounts string) string {
	var all []string
	for line := range strings.SplitSeq(mounts, "\n") {
		f := strings.Fields(line)
		if len(f) >= 4 && f[2] == "cgroup" {
			all = append(all, strings.Split(f[3], ",")...)
		}
	}
	return strings.Join(all, " ")
}

func space(dataDir string) api.Check {
	dir := existing(dataDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fail("disk space", "", "cannot look at %s: %s", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	text := fmt.Sprintf("%.1f GiB are free at %s", float64(free)/(1<<30), dir)
	fix := "kiln daemon --data-dir DIR, on a larger disk"
	switch {
	case free < leastSpace:
		return fail("disk space", fix, "%s", text)
	case free < littleSpace:
		return warn("disk space", fix, "%s", text)
	}
	return ok("disk space", "%s", text)
}

// executable looks whether programs may run from where the runtime is unpacked.
func executable(dataDir string) api.Check {
	dir := existing(dataDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Flags&unix.ST_NOEXEC != 0 {
		return fail("data directory", "mount -o remount,exec "+mountPoint(dir), "%s is mounted noexec, and the runtime runs from there", dir)
	}
	return ok("data directory", "%s", dataDir)
}

// mountPoint returns the mount that a directory lies on.
func mountPoint(dir string) string {
	var here unix.Stat_t
	if unix.Stat(dir, &here) != nil {
		return dir
	}
	for dir != "/" {
		var above unix.Stat_t
		if unix.Stat(filepath.Dir(dir), &above) != nil || above.Dev != here.Dev {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func runDir() api.Check {
	dir := existing("/run/kiln")
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return fail("run directory", "sudo kiln doctor", "cannot write to %s: %s", dir, err)
	}
	return ok("run directory", "%s", dir)
}

func daemon(d Daemon) api.Check {
	if d.Instance == "" {
		return warn("daemon", "kiln daemon", "%s", d.Problem)
	}
	return ok("daemon", "version %s answers at %s, instance %s", d.Version, d.Socket, d.Instance)
}
