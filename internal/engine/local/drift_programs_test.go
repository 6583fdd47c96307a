package local

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestDriftOfPrograms runs programs in servers that look like the image's, or
// like kiln's own, and are not.
func TestDriftOfPrograms(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addLayers(t, ocispec.ImageConfig{Entrypoint: []string{"/bin/program"}, Env: []string{"PATH=/bin"}}, []entry{
		{Header: tar.Header{Name: "bin/program", Mode: 0o755}, content: testProgram(t)},
		{Header: tar.Header{Name: "bin/another", Typeflag: tar.TypeLink, Linkname: "bin/program", Mode: 0o755}},
		{Header: tar.Header{Name: "etc/passwd", Mode: 0o644}, content: "root:x:0:0::/root:/bin/sh\n"},
	}, []entry{
		{Header: tar.Header{Name: "bin/.wh.another"}},
	})
	linked := w.addLayers(t, ocispec.ImageConfig{Entrypoint: []string{"/bin/another"}, Env: []string{"PATH=/bin"}}, []entry{
		{Header: tar.Header{Name: "bin/program", Mode: 0o755}, content: testProgram(t)},
		{Header: tar.Header{Name: "bin/another", Typeflag: tar.TypeLink, Linkname: "bin/program", Mode: 0o755}},
		{Header: tar.Header{Name: "etc/passwd", Mode: 0o644}, content: "root:x:0:0::/root:/bin/sh\n"},
	})
	if err := e.Prepare(t.Context(), linked); err != nil {
		t.Fatal(err)
	}
	d := &driftTest{t: t, servers: w.servers(t, e, image), alarms: e.Alarms(t.Context())}

	t.Run("of one file with two names", func(t *testing.T) {
		d.linkedPrograms(t, image)
		d.linkedPrograms(t, linked)
	})
	t.Run("deleted", d.deletedProgram)
	t.Run("called like the runtime", d.likeTheRuntime)
	t.Run("the runtime", d.theRuntime)
}

// linkedPrograms are no drift.
func (d *driftTest) linkedPrograms(t *testing.T, image model.Digest) {
	for _, space := range []bool{true, false} {
		ref := d.start(func(t *model.Template) { t.Image, t.UserNamespace = image, space }, "children", "3")
		if _, code := d.run(ref, "status"); code != 0 {
			t.Errorf("the program ends with %d", code)
		}
		d.inspect(t, ref, engine.Whole)
	}
}

func (d *driftTest) deletedProgram(t *testing.T) {
	for name, session := range map[string]model.SessionID{"by anybody": "", "by a person": "session"} {
		t.Run(name, func(t *testing.T) {
			ref := d.serving(nil)
			root := d.writable(t, ref)
			if session != "" {
				must(t, d.e.noteWriting(ref.ID, session, true))
			}
			must(t, os.WriteFile(root+"/bin/stray", []byte(testProgram(t)), 0o755))
			cmd := d.intrude(t, ref, "-a", "/bin/stray", "wait")
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			d.runs(t, cmd, "/bin/stray")
			must(t, os.Remove(root+"/bin/stray"))
			found, err := d.e.Inspect(t.Context(), ref.ID, engine.Whole)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(f model.Finding) bool {
				return f.What == "program from outside the image" && strings.HasPrefix(f.Detail, "its file was deleted") && f.Session == string(session)
			}) {
				t.Errorf("found %+v, want a program whose file was deleted (in session %q)", found, session)
			}
		})
	}
}

// runs waits until the command runs the program.
func (d *driftTest) runs(t *testing.T, cmd *exec.Cmd, program string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		// nsenter runs it in a process of its own where it joins those of the server.
		for _, pid := range append(childrenOf(cmd.Process.Pid), cmd.Process.Pid) {
			if path, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err == nil && strings.HasPrefix(path, program) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not run", program)
		}
	}
}

func childrenOf(pid int) []int {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(pid), "children"))
	var all []int
	for word := range strings.FieldsSeq(string(b)) {
		if child, err := strconv.Atoi(word); err == nil {
			all = append(all, child)
		}
	}
	return all
}

// likeTheRuntime are programs that have the name of the runtime in theirs.
func (d *driftTest) likeTheRuntime(t *testing.T) {
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sealed, err := unix.MemfdCreate("runc_cloned:/proc/self/exe", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(sealed) }()
	paths := map[string]string{
		"truncate": filepath.Join(dir, "truncate"), "runc": filepath.Join(dir, "runc"),
		"memfd:runc": "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(sealed),
	}
	for name, path := range paths {
		must(t, os.WriteFile(path, sleep, 0o755))
		t.Run(name, func(t *testing.T) {
			ref := d.serving(nil)
			d.inspect(t, ref, engine.Glance)
			d.drain()
			cmd := d.intrude(t, ref, "-n", path, "60")
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			d.alarm(t, ref.ID)
			found, err := d.e.Inspect(t.Context(), ref.ID, engine.Whole)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(f model.Finding) bool { return f.What == "foreign process" && strings.Contains(f.Where, name) }) {
				t.Errorf("found %+v", found)
			}
		})
	}
}

// theRuntime is known however it runs: from its file, or from a copy of it.
func (d *driftTest) theRuntime(t *testing.T) {
	b, err := os.ReadFile(d.e.binaries.runc)
	if err != nil {
		t.Fatal(err)
	}
	copied := func(name string, content []byte) string {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		path := "/proc/self/fd/" + strconv.Itoa(fd)
		must(t, os.WriteFile(path, content, 0o755))
		return path
	}
	for name, x := range map[string]struct {
		path string
		want bool
	}{
		"itself": {d.e.binaries.runc, true}, "copy": {copied("runc_cloned:/proc/self/exe", b), true},
		"longer":  {copied("runc_cloned:/proc/self/exe", append(slices.Clone(b), 0)), false},
		"another": {copied("runc_cloned:/proc/self/exe", append(slices.Clone(b[:len(b)-1]), b[len(b)-1]+1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			// It stops before its first instruction.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cmd := exec.Command(x.path)
			cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			if got := d.e.runsRuntime(cmd.Process.Pid, programOf(cmd.Process.Pid)); got != x.want {
				t.Errorf("is the runtime: %t, want %t", got, x.want)
			}
		})
	}
}
