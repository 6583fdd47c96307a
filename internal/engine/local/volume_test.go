package local

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func withVolume(access model.VolumeAccess, size int64, user string) func(*model.Template) {
	return func(t *model.Template) {
		t.Service, t.User = "db", user
		t.Volumes = []model.Mount{{Volume: "data", Path: "/var/lib/db", Access: access, Size: size}}
	}
}

// onFileSystem has the test's instance live on a file system of its own.
func onFileSystem(t *testing.T, options string, make ...string) {
	t.Helper()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"truncate", "-s", "1G", image}, append(make, image), {"mount", "-o", "loop" + options, image, at}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	for p := at; strings.HasPrefix(p, os.TempDir()+"/"); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TMPDIR", at)
}

// A volume is kept apart from servers: what one leaves the next one finds, with
// the same owner, whatever ids the two have on the machine.
func TestVolumeOutlivesServers(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}, file{name: "/var/lib/db/", mode: 0o700, owner: 33}))
	one := s.serving(withVolume(model.SingleWriter, 0, "web"))
	if out, _ := s.run(one, "stat", "/var/lib/db"); !strings.HasPrefix(out, "700 33:33 ") {
		t.Errorf("the volume is %q, and belongs not to whom the image's directory does", out)
	}
	if out, code := s.run(one, "fill", "/var/lib/db/page", "1"); code != 0 {
		t.Fatalf("the server cannot write to its volume: %s", out)
	}
	// One server at a time.
	two := s.ref()
	template := s.template("serve", "8080")
	withVolume(model.SingleWriter, 0, "web")(&template)
	template.UserNamespace = true
	if err := e.Provision(t.Context(), two, template); model.CodeOf(err) != model.Unavailable || !strings.Contains(err.Error(), string(one.ID)) {
		t.Errorf("a second writer was let in: %v", err)
	}
	for what, err := range map[string]error{
		"restored": e.RestoreVolume(t.Context(), "db", "data", "x"), "removed": e.RemoveVolume(t.Context(), "db", "data", ""),
		"imported": e.ImportVolume(t.Context(), "db", "data", &bytes.Buffer{}),
	} {
		if model.CodeOf(err) != model.Precondition {
			t.Errorf("a volume that a server has was %s: %v", what, err)
		}
	}
	_, r := e.lookup(one.ID)
	if err := e.Stop(t.Context(), one, "", 0); err != nil {
		t.Fatal(err)
	}
	three := s.serving(withVolume(model.SingleWriter, 0, "web"))
	if _, next := e.lookup(three.ID); next.IDs == r.IDs {
		t.Fatal("both servers have the same ids; the test shows nothing")
	}
	if out, _ := s.run(three, "stat", "/var/lib/db/page"); !strings.HasPrefix(out, "600 33:34 ") {
		t.Errorf("the next server sees %q", out)
	}
	if out, code := s.run(three, "fill", "/var/lib/db/page", "2"); code != 0 {
		t.Errorf("the next server cannot write to the file: %s", out)
	}
	if left, err := os.ReadDir(e.mountsDir()); err != nil || len(left) != 0 {
		t.Errorf("mounts are left: %v (%v)", left, err)
	}
	all, err := e.ObserveVolumes(t.Context())
	if err != nil || len(all) != 1 || all[0].Used < 2<<20 || len(all[0].Servers) != 1 || all[0].Servers[0] != three.ID || all[0].CanCopy {
		t.Errorf("observed %+v, %v", all, err)
	}
	if err := e.SnapshotVolume(t.Context(), "db", "data", "s"); model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "ext4") {
		t.Errorf("ext4 makes no snapshots: %v", err)
	}
	exportAndImport(t, s, three)
}

func exportAndImport(t *testing.T, s *servers, ref engine.Ref) {
	t.Helper()
	var archive bytes.Buffer
	if err := s.e.ExportVolume(t.Context(), "db", "data", &archive); err != nil {
		t.Fatal(err)
	}
	if err := s.e.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	if err := s.e.RemoveVolume(t.Context(), "db", "data", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.e.volumesDir() + "/db"); err == nil {
		t.Error("something of the volume is left")
	}
	content := archive.Bytes()
	if err := s.e.ImportVolume(t.Context(), "db", "data", bytes.NewReader(content[:len(content)/2])); err == nil {
		t.Error("half an archive was taken")
	}
	if err := s.e.ImportVolume(t.Context(), "db", "data", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	again := s.serving(withVolume(model.SingleWriter, 0, "web"))
	for path, want := range map[string]string{"/var/lib/db": "700 33:33 ", "/var/lib/db/page": "600 33:34 "} {
		if out, _ := s.run(again, "stat", path); !strings.HasPrefix(out, want) {
			t.Errorf("%s came back as %q", path, out)
		}
	}
}

// Servers share a volume that is declared so.
func TestSharedVolume(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	one, two := s.serving(withVolume(model.Shared, 0, "web")), s.serving(withVolume(model.Shared, 0, "web"))
	if out, code := s.run(one, "fill", "/var/lib/db/page", "1"); code != 0 {
		t.Fatalf("a server cannot write: %s", out)
	}
	if out, _ := s.run(two, "stat", "/var/lib/db/page"); !strings.HasPrefix(out, "600 33:34 ") {
		t.Errorf("the other sees %q", out)
	}
	if out, _ := s.run(two, "stat", "/var/lib/db"); !strings.HasPrefix(out, "755 33:34 ") {
		t.Errorf("a volume at a place that the image has not is %q", out)
	}
}

func TestVolumeSnapshots(t *testing.T) {
	onFileSystem(t, "", "mkfs.btrfs", "-q")
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	ref := s.serving(withVolume(model.SingleWriter, 0, ""))
	fill := func(mib string) {
		if out, code := s.run(ref, "fill", "/var/lib/db/page", mib); code != 0 {
			t.Fatalf("cannot write: %s", out)
		}
	}
	fill("3")
	for range 2 { // the same again is done
		if err := e.SnapshotVolume(t.Context(), "db", "data", "before-2"); err != nil {
			t.Fatal(err)
		}
	}
	fill("5")
	if err := e.RestoreVolume(t.Context(), "db", "data", "before-2"); model.CodeOf(err) != model.Precondition {
		t.Errorf("restored under a server: %v", err)
	}
	if err := e.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	if err := e.RestoreVolume(t.Context(), "db", "data", "before-1"); model.CodeOf(err) != model.NotFound {
		t.Errorf("restored from nothing: %v", err)
	}
	if err := e.RestoreVolume(t.Context(), "db", "data", "before-2"); err != nil {
		t.Fatal(err)
	}
	page, err := os.Stat(filepath.Join(e.volume("db", "data").content(), "page"))
	if err != nil || page.Size() != 3<<20 {
		t.Errorf("the content is not the snapshot's: %v, %v", page, err)
	}
	all, err := e.ObserveVolumes(t.Context())
	if err != nil || len(all) != 1 || !all[0].CanCopy || fmt.Sprint(all[0].Snapshots) != "[before-2]" {
		t.Errorf("observed %+v, %v", all, err)
	}
	if err := e.RemoveVolume(t.Context(), "db", "data", "before-2"); err != nil {
		t.Fatal(err)
	}
	if all, _ := e.ObserveVolumes(t.Context()); len(all) != 1 || len(all[0].Snapshots) != 0 {
		t.Errorf("observed %+v", all)
	}
}

// A restore that was interrupted between its two renames leaves the old content.
func TestVolumeSettles(t *testing.T) {
	d := volumeDir(t.TempDir())
	for _, dir := range []string{d.old(), d.fresh()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.old(), "page"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.settle(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.content(), "page")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(string(d)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// Where the file system keeps project quotas, a volume holds no more than its
// size; where it does not, that is seen.
func TestVolumeIsBounded(t *testing.T) {
	quotas := exec.Command("sh", "-c", `zcat /proc/config.gz 2>/dev/null | grep -q '^CONFIG_XFS_QUOTA=y' || grep -qs '^CONFIG_XFS_QUOTA=y' /boot/config-$(uname -r)`).Run() == nil
	options := ""
	if quotas {
		options = ",prjquota"
	}
	onFileSystem(t, options, "mkfs.xfs", "-q")
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}))
	ref := s.serving(withVolume(model.SingleWriter, 8<<20, ""))
	if out, code := s.run(ref, "fill", "/var/lib/db/a", "5"); code != 0 {
		t.Fatalf("cannot write within the bound: %s", out)
	}
	all, err := e.ObserveVolumes(t.Context())
	if err != nil || len(all) != 1 || all[0].Bounded != quotas || !all[0].CanCopy {
		t.Fatalf("with quotas %t, observed %+v, %v", quotas, all, err)
	}
	if out, code := s.run(ref, "fill", "/var/lib/db/b", "5"); (code != 0) != quotas {
		t.Errorf("with quotas %t, more than its size was written with exit status %d: %s", quotas, code, out)
	}
}

// What is made in a directory of a project belongs to the project.
func TestProject(t *testing.T) {
	onFileSystem(t, "", "mkfs.xfs", "-q")
	dir, err := os.Open(os.Getenv("TMPDIR"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := setProject(dir, 1<<30|7); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir.Name(), "later"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var a fileAttributes
	if err := attributeCall(f, getAttributes, &a); err != nil || a.Project != 1<<30|7 {
		t.Errorf("the file belongs to project %d, %v", a.Project, err)
	}
}
