package doctor

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelVersions(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44-fc-v595": true, "5.4.0-1": true, "5.3.18": false, "4.19.0": false, "5.10-rc1": true, "garbage": false, "": false,
	} {
		if got := newEnough(release, 5, 4); got != want {
			t.Errorf("newEnough(%q) = %t", release, got)
		}
	}
}

func TestControllersOfVersionOne(t *testing.T) {
	mounts := "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\nproc /proc proc rw 0 0\n"
	have := mountedControllers(mounts)
	for c, want := range map[string]bool{"memory": true, "cpu": true, "pids": false} {
		if hasWord(have, c) != want {
			t.Errorf("%s in %q: want %t", c, have, want)
		}
	}
}

// A listener that another program holds is found, with who holds it.
func TestTakenListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := listener(l.Addr().String(), "/data")
	if c.State != Fail || !strings.Contains(c.Detail, "doctor.test") || !strings.Contains(c.Fix, "kill ") {
		t.Errorf("got %+v", c)
	}
	l.Close()
	if c := listener(l.Addr().String(), "/data"); c.State != OK {
		t.Errorf("freed: got %+v", c)
	}
	if c := listener("192.0.2.7:80", "/data"); c.State != Fail {
		t.Errorf("a foreign address: got %+v", c)
	}
}

// A listener that several processes hold is this kiln's if its router is one of them.
func TestSharedListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	router := exec.Command("/bin/sh", "router", "/data")
	router.Dir, router.ExtraFiles = t.TempDir(), []*os.File{f}
	if err := os.WriteFile(filepath.Join(router.Dir, "router"), []byte("echo runs; read line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := router.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := router.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := router.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(in.Close(), router.Wait()) }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if c := listener(l.Addr().String(), "/data"); c.State != OK || !strings.Contains(c.Detail, "held by this kiln's router") {
		t.Errorf("got %+v", c)
	}
	if c := listener(l.Addr().String(), "/other"); c.State != Fail || !strings.Contains(c.Detail, "another kiln") {
		t.Errorf("of another data directory: got %+v", c)
	}
}

func TestCommandLine(t *testing.T) {
	if got := commandLine(os.Getpid()); len(got) == 0 || got[0] != os.Args[0] || len(got) != len(os.Args) {
		t.Errorf("got %q, want %q", got, os.Args)
	}
	if got := commandLine(-1); got != nil {
		t.Errorf("no process: got %q", got)
	}
}

func TestListeningTable(t *testing.T) {
	table := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0
   1: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0
   2: 00000000:0051 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 0`
	if got := listening(table, 80); len(got) != 1 || got[0] != "4242" {
		t.Errorf("got %v", got)
	}
}

// Whatever the machine is like, every check says something, and what fails says
// how it is mended or why it cannot be.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	checks := Run(t.Context(), Machine{DataDir: dir + "/not/there/yet", Daemon: Daemon{Problem: "nobody answers"}})
	if len(checks.Checks) < 12 {
		t.Errorf("only %d checks", len(checks.Checks))
	}
	for _, c := range checks.Checks {
		if c.Name == "" || c.Detail == "" || c.State != OK && c.State != Warn && c.State != Fail {
			t.Errorf("got %+v", c)
		}
		if c.Name == "daemon" && (c.State != Warn || c.Fix != "kiln daemon") {
			t.Errorf("got %+v", c)
		}
		if c.Name == "network" && os.Geteuid() == 0 && c.State == Warn {
			t.Errorf("root could not try: %+v", c)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Error("it made something in the data directory")
	}
}

// The last mount at a place is the one that is seen.
func TestProjectQuotas(t *testing.T) {
	const hidden = "30 1 8:1 / /data rw,relatime - xfs /dev/sda1 rw,prjquota\n"
	const seen = "31 30 8:2 / /data rw,relatime - ext4 /dev/sdb1 rw\n"
	if !projectQuotas(hidden, "/data") || projectQuotas(hidden+seen, "/data") || projectQuotas(hidden, "/") {
		t.Error("project quotas are taken from the wrong mount")
	}
	if check := volumes(t.TempDir()); check.State != OK || !strings.Contains(check.Detail, "snapshots") || !strings.Contains(check.Detail, "sizes are") {
		t.Errorf("%+v", check)
	}
}
