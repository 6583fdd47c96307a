package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// TestInside looks at a server from inside: what it may do, and what it may not.
// That is the same with a user namespace and without.
func TestInside(t *testing.T) {
	t.Run("user namespace", func(t *testing.T) { inside(t, false) })
	t.Run("the machine's users", func(t *testing.T) { inside(t, true) })
}

func inside(t *testing.T, plain bool) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin", "FROM_IMAGE=1", "BOTH=image"}, WorkingDir: "/work", StopSignal: "SIGUSR1"},
		file{name: "/var/cache/web/", mode: 0o750}, file{name: "/var/cache/web/in-image", content: "x", mode: 0o644})
	s := w.servers(t, e, image)
	s.plain = plain

	t.Run("root", func(t *testing.T) {
		ref := s.serving(nil)
		status, _ := s.run(ref, "status")
		// CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, NET_BIND_SERVICE.
		for _, want := range []string{"CapEff:\t00000000000004e3", "CapBnd:\t00000000000004e3", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t0\t0"} {
			if !strings.Contains(status, want) {
				t.Errorf("a command has not %q:\n%s", want, status)
			}
		}
		main, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid(ref)))
		if err != nil || !strings.Contains(string(main), "CapEff:\t00000000000004e3") || !strings.Contains(string(main), "Seccomp:\t2") {
			t.Errorf("the main process has other rights (%v):\n%s", err, main)
		}
		if out, code := s.run(ref, "fill", "/work/file", "0"); code == 0 || !strings.Contains(out, "read-only") {
			t.Errorf("the working directory can be written: %s", out)
		}
		if out, code := s.run(ref, "fill", "/tmp/file", "65"); code == 0 || !strings.Contains(out, "no space") {
			t.Errorf("/tmp has no bound: %s", out)
		}
	})
	t.Run("another user", func(t *testing.T) {
		ref := s.serving(func(t *model.Template) {
			t.User = "web"
			t.Env = map[string]string{"BOTH": "template"}
			t.Ephemeral = []model.Ephemeral{{Path: "/var/cache/web", Size: 8 << 20}, {Path: "/new/place", Size: 1 << 20}}
		})
		status, _ := s.run(ref, "status")
		for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Uid:\t33\t33", "Gid:\t34\t34", "Groups:\t40 \n"} {
			if !strings.Contains(status, want) {
				t.Errorf("a command has not %q:\n%s", want, status)
			}
		}
		for place, want := range map[string]string{
			"/var/cache/web": "750 33:34 8388608", "/new/place": "755 33:34 1048576", "/run": "755 33:34 16777216", "/tmp": "1777 0:0 67108864",
		} {
			if out, _ := s.run(ref, "stat", place); out != want+"\n" {
				t.Errorf("%s is %q, want %q", place, out, want)
			}
		}
		if out, code := s.run(ref, "fill", "/var/cache/web/file", "7"); code != 0 {
			t.Errorf("an ephemeral place cannot be written: %s", out)
		}
		if out, code := s.run(ref, "fill", "/var/cache/web/more", "2"); code == 0 || !strings.Contains(out, "no space") {
			t.Errorf("an ephemeral place has no bound: %s", out)
		}
		environ, _ := s.run(ref, "read", "/proc/1/environ")
		for _, want := range []string{"FROM_IMAGE=1", "BOTH=template", "HOME=/home/web"} {
			if !strings.Contains(environ, want+"\x00") {
				t.Errorf("the environment has not %s: %q", want, environ)
			}
		}
	})
	t.Run("names", func(t *testing.T) {
		ref := s.serving(nil)
		hosts, _ := s.run(ref, "read", "/etc/hosts")
		address := s.observe(ref).Address
		if !strings.Contains(hosts, address+"\t"+string(ref.ID)) {
			t.Errorf("/etc/hosts is %q", hosts)
		}
		if name, _ := s.run(ref, "read", "/etc/hostname"); name != string(ref.ID)+"\n" {
			t.Errorf("/etc/hostname is %q", name)
		}
		if conf, _ := s.run(ref, "read", "/etc/resolv.conf"); conf != resolvConf() {
			t.Errorf("/etc/resolv.conf is %q", conf)
		}
	})
	t.Run("limits", func(t *testing.T) {
		ref := s.serving(func(t *model.Template) {
			t.Resources = model.Resources{Memory: 48 << 20, CPU: 250, PIDs: 30}
		})
		if got := limits(e.Config, ref.ID); got != "50331648 25000 30" {
			t.Errorf("the control group has the limits %q", got)
		}
	})
	t.Run("a program that needs more memory", func(t *testing.T) {
		ref := s.start(func(t *model.Template) { t.Resources.Memory = 16 << 20 }, "eat", "64")
		if exit := s.awaitExit(ref); !exit.Known || !exit.OOM || exit.Code != 137 {
			t.Errorf("it ended with %+v (%s)", exit, exit)
		}
	})
	t.Run("the image's stop signal", func(t *testing.T) {
		ref := s.serving(nil)
		if err := e.Stop(t.Context(), ref, "", killWait); err != nil {
			t.Fatalf("Stop: %v", err)
		}
		if exit := s.observe(ref).Exit; exit.Code != 20 { // 10 + SIGUSR1
			t.Errorf("it ended with %+v", exit)
		}
	})
	t.Run("evidence", func(t *testing.T) { evidence(t, s) })
}

// limits reads memory, CPU quota and processes back.
func limits(c Config, id model.ServerID) string {
	if unified() {
		dir := c.cgroupDir("", id)
		quota, _ := os.ReadFile(filepath.Join(dir, "cpu.max"))
		memory, _ := readCount(filepath.Join(dir, "memory.max"))
		pids, _ := readCount(filepath.Join(dir, "pids.max"))
		return fmt.Sprintf("%d %s %d", memory, strings.Fields(string(quota))[0], pids)
	}
	memory, _ := readCount(filepath.Join(c.cgroupDir("memory", id), "memory.limit_in_bytes"))
	quota, _ := readCount(filepath.Join(c.cgroupDir("cpu", id), "cpu.cfs_quota_us"))
	pids, _ := readCount(filepath.Join(c.cgroupDir("pids", id), "pids.max"))
	return fmt.Sprintf("%d %d %d", memory, quota, pids)
}

func evidence(t *testing.T, s *servers) {
	ref := s.serving(nil)
	_, r := s.e.lookup(ref.ID)
	if left, err := os.ReadDir(r.Upper); err != nil || len(left) != 0 {
		t.Errorf("a fresh server's layer holds %v (%v)", left, err)
	}
	// What somebody with the right to do so would leave.
	for _, err := range []error{
		os.MkdirAll(filepath.Join(r.Upper, "var/cache/web"), 0o755),
		os.WriteFile(filepath.Join(r.Upper, "var/cache/web/in-image"), []byte("other"), 0o644),
		os.WriteFile(filepath.Join(r.Upper, "var/new"), []byte("n"), 0o644),
		os.Mkdir(filepath.Join(r.Upper, "etc"), 0o755),
		unix.Mknod(filepath.Join(r.Upper, "etc/group"), unix.S_IFCHR, 0),
		// The overlay makes directories as they are in the image; one has other rights.
		os.Chown(filepath.Join(r.Upper, "etc"), int(r.IDs), int(r.IDs)),
		os.Chown(filepath.Join(r.Upper, "var"), int(r.IDs), int(r.IDs)),
		os.Chown(filepath.Join(r.Upper, "var/cache"), int(r.IDs), int(r.IDs)),
		os.Chown(filepath.Join(r.Upper, "var/cache/web"), int(r.IDs), int(r.IDs)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	found, err := s.e.Collect(t.Context(), ref)
	if err != nil {
		t.Fatalf("Collect: %v", err)
	}
	if got, want := fmt.Sprint(found.Changes), "[{/etc/group removed 0} {/var/cache/web changed 0} {/var/cache/web/in-image changed 5} {/var/new added 1}]"; got != want {
		t.Errorf("changes are %s, want %s", got, want)
	}
	if l := found.Listening; len(l) != 1 || l[0].Network != "tcp" || l[0].Address != "[::]:8080" {
		t.Errorf("it listens on %v", l)
	}
	if p := found.Processes; len(p) != 1 || p[0].PID != 1 || p[0].Command != "/bin/program serve 8080" || p[0].Threads < 1 || p[0].Started.IsZero() {
		t.Errorf("its processes are %v", p)
	}
	if found.Stats == nil || found.Stats.Memory == 0 || found.Stats.CPUMicros == 0 || found.Stats.PIDs == 0 {
		t.Errorf("its sample is %+v", found.Stats)
	}
	if len(found.Missing) != 0 {
		t.Errorf("missing: %q", found.Missing)
	}
}
