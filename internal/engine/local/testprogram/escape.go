package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// escape tries to get out of the server in every way that it knows, and prints a
// line for each: "ok" and its name where it failed, as it shall, or "ESCAPED".
// It takes the addresses that it shall try to reach: the machine's, another
// server's, HOST:PORT each.
func escape(targets []string) error {
	attempts := onFiles()
	maps.Copy(attempts, onTheKernel())
	for _, target := range targets {
		attempts["reach "+target] = func() error { return reach(target) }
	}
	said := make(chan string)
	for name, try := range attempts {
		go func() {
			// A thread of its own that is never used again, whatever becomes of it.
			runtime.LockOSThread()
			if err := try(); err != nil {
				said <- fmt.Sprintf("ok %s: %s", name, err)
			} else {
				said <- "ESCAPED " + name
			}
		}()
	}
	for range attempts {
		fmt.Println(<-said)
	}
	fmt.Printf("tried %d\n", len(attempts))
	return nil
}

// onFiles are attempts on mounts, devices and files.
func onFiles() map[string]func() error {
	return map[string]func() error{
		"remount the root writable":  remount,
		"mount a tmpfs":              func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") },
		"mount the machine's disk":   mountDisk,
		"unmount /proc":              func() error { return unix.Unmount("/proc", unix.MNT_DETACH) },
		"bind over /etc/hosts":       func() error { return unix.Mount("/tmp", "/etc/hosts", "", unix.MS_BIND, "") },
		"pivot the root":             func() error { return unix.PivotRoot("/tmp", "/tmp") },
		"open a tree to move mounts": openTree,
		"make a device of the disk":  func() error { return mknod(unix.S_IFBLK, unix.Mkdev(254, 0)) },
		"make a device of memory":    func() error { return mknod(unix.S_IFCHR, unix.Mkdev(1, 1)) },
		"write to the root":          func() error { return os.WriteFile("/escaped", nil, 0o644) },
		"write over its own program": func() error { return write("/bin/program") },
		"write /proc/sys/kernel":     func() error { return write("/proc/sys/kernel/core_pattern") },
		"write /proc/sys/vm":         func() error { return write("/proc/sys/vm/drop_caches") },
		"write /proc/sysrq-trigger":  func() error { return write("/proc/sysrq-trigger") },
		"write /sys":                 func() error { return write("/sys/kernel/uevent_helper") },
		"write to its control group": controlGroup,
		"read the machine's memory":  func() error { return read("/proc/kcore") },
		"read the kernel's messages": func() error { return readMessages() },
	}
}

// onTheKernel are attempts on the kernel, on other processes, and on sockets.
func onTheKernel() map[string]func() error {
	return map[string]func() error{
		"load a module":             func() error { return unix.InitModule([]byte{0}, "") },
		"load a module from a file": func() error { return unix.FinitModule(0, "", 0) },
		"load a kernel":             func() error { return call(unix.SYS_KEXEC_LOAD) },
		"set the clock":             func() error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) },
		"set the host name":         func() error { return unix.Sethostname([]byte("escaped")) },
		"restart the machine": func() error {
			return call(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_OFF)
		},
		"make namespaces":                func() error { return unshare(unix.CLONE_NEWNS) },
		"make a user namespace":          func() error { return unshare(unix.CLONE_NEWUSER) },
		"join a namespace":               joinNamespace,
		"trace a neighbour":              traceNeighbour,
		"see a neighbour's processes":    neighbours,
		"signal a neighbour":             signalNeighbours,
		"load a program into the kernel": func() error { return call(unix.SYS_BPF, 0, 0, 0) },
		"watch the machine's counters":   func() error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, ^uintptr(0), ^uintptr(0), 0) },
		"use a handle of a file":         func() error { return call(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0) },
		"use the kernel's keys":          func() error { return call(unix.SYS_KEYCTL, 0, 0, 0) },
		"gain rights by a program":       gain,
		"become another user outside":    func() error { return os.Chown("/bin/program", 0, 0) },
		"find the daemon's socket":       func() error { return sockets("kiln.sock") },
		"find containerd's socket":       func() error { return sockets("containerd.sock") },
		"reach an abstract socket":       abstract,
		"send raw packets":               raw,
		"change its links":               links,
		"reach the metadata address":     func() error { return reach("169.254.169.254:80") },
	}
}

func call(number uintptr, arguments ...uintptr) error {
	var a [6]uintptr
	copy(a[:], arguments)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	switch errno {
	case 0:
		return nil
	case unix.EPERM, unix.EACCES, unix.ENOSYS:
		return errno
	default:
		// The kernel looked at what was asked: it was not refused.
		return nil
	}
}

func remount() error {
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "")
}

func mountDisk() error {
	var failed error
	for _, disk := range []string{"/dev/vda", "/dev/sda", "/dev/nvme0n1"} {
		if failed = unix.Mount(disk, "/tmp", "ext4", 0, ""); failed == nil {
			return nil
		}
	}
	return failed
}

func openTree() error {
	_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
	return err
}

// mknod makes a device; one that cannot be opened is of no use.
func mknod(kind uint32, device uint64) error {
	path := "/tmp/device"
	defer func() { _ = os.Remove(path) }()
	if err := unix.Mknod(path, kind|0o600, int(device)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_ = f.Close()
	}
	return err
}

func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := f.Read(make([]byte, 16)); n == 0 {
		return fmt.Errorf("it is empty: %w", err) // another file lies over it
	}
	return nil
}

func readMessages() error {
	_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 100))
	return err
}

// controlGroup tries to give itself more, or to leave.
func controlGroup() error {
	failed := errors.New("there is none to be seen")
	for _, name := range []string{"memory/memory.limit_in_bytes", "pids/pids.max", "pids/cgroup.procs", "memory.max", "cgroup.procs", "devices/devices.allow"} {
		f, err := os.OpenFile(filepath.Join("/sys/fs/cgroup", name), os.O_WRONLY, 0)
		if err == nil {
			_ = f.Close()
			return nil
		}
		failed = err
	}
	return failed
}

func unshare(what int) error { return unix.Unshare(what) }

func joinNamespace() error {
	f, err := os.Open("/proc/1/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), 0)
}

func traceNeighbour() error {
	for pid := 2; pid < 1<<15; pid++ {
		if pid != os.Getpid() && !own(pid) && unix.PtraceSeize(pid) == nil && stranger(pid) {
			return nil
		}
	}
	return errors.New("there is nobody")
}

// own reports whether the process is of this program.
func own(pid int) bool {
	mine, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && os.SameFile(mine, theirs)
}

// stranger reports whether there is such a process, of another program, and not
// for a moment only: threads of this one come and go.
func stranger(pid int) bool {
	for range 3 {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil || own(pid) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

func neighbours() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && stranger(pid) {
			return nil
		}
	}
	return errors.New("there is nobody")
}

func signalNeighbours() error {
	for pid := 2; pid < 1<<15; pid++ {
		if syscall.Kill(pid, 0) == nil && stranger(pid) {
			return nil
		}
	}
	return errors.New("there is nobody")
}

// gain looks whether a program can have rights that its caller has not.
func gain() error {
	n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	if n == 1 {
		return errors.New("no_new_privs is set")
	}
	return nil
}

// sockets looks for a socket of the machine's everywhere.
func sockets(name string) error {
	for _, dir := range []string{"/run", "/run/kiln", "/run/containerd", "/var/run", "/var/lib/kiln", "/proc/1/root/run"} {
		if conn, err := net.Dial("unix", filepath.Join(dir, name)); err == nil {
			_ = conn.Close()
			return nil
		}
	}
	return errors.New("there is none")
}

// abstract looks for sockets without a file: those belong to a network
// namespace, and none of the machine's shall be in this one.
func abstract() error {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	if slices.Contains(b, '@') {
		return nil
	}
	return errors.New("there is none")
}

func raw() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300)
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	return nil
}

// links tries to change the server's own link, with which it could take another
// server's address.
func links() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	if err := request.SetInet4Addr([]byte{198, 18, 99, 99}); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, request)
}

func reach(address string) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
