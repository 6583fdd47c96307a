package local

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
