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

// TestUserNamespace checks that whoever is root in a server is nobody on the
// machine, and that the server does not notice.
func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	s := w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}},
		file{name: "/srv/own", content: "web's\n", mode: 0o640, owner: 33}, file{name: "/srv/private", content: "root's\n", mode: 0o600}))
	one, two := s.serving(nil), s.serving(func(t *model.Template) { t.User = "web" })

	first := map[uint32]bool{}
	for ref, user := range map[string]uint32{string(one.ID): 0, string(two.ID): 33} {
		_, r := e.lookup(model.ServerID(ref))
		if r.IDs < firstIDs || first[r.IDs] {
			t.Errorf("%s has the ids from %d on", ref, r.IDs)
		}
		first[r.IDs] = true
		own := fmt.Sprintf("/proc/%d/", r.Process.PID)
		if got, want := words(t, own+"uid_map"), fmt.Sprintf("0 %d 65536", r.IDs); got != want {
			t.Errorf("uid_map is %q, want %q", got, want)
		}
		if got, want := words(t, own+"gid_map"), fmt.Sprintf("0 %d 65536", r.IDs); got != want {
			t.Errorf("gid_map is %q, want %q", got, want)
		}
		uid := r.IDs + user
		if status := words(t, own+"status"); !strings.Contains(status, fmt.Sprintf("Uid: %d %d %d %d ", uid, uid, uid, uid)) {
			t.Errorf("the main process is not user %d on the machine: %s", uid, status)
		}
		for _, kind := range []string{"user", "net", "pid", "mnt", "ipc", "uts", "cgroup"} {
			server, err := os.Readlink(own + "ns/" + kind)
			machine, err2 := os.Readlink("/proc/self/ns/" + kind)
			if err != nil || err2 != nil || server == machine {
				t.Errorf("the %s namespace is the machine's (%v, %v)", kind, err, err2)
			}
		}
		checkNetworkOwner(t, e, model.ServerID(ref))
	}

	for path, want := range map[string]string{"/srv/own": "640 33:33", "/srv/private": "600 0:0", "/": "755 0:0", "/etc/passwd": "644 0:0"} {
		if out, _ := s.run(one, "stat", path); !strings.HasPrefix(out, want+" ") {
			t.Errorf("%s is %q, want %q", path, out, want)
		}
	}
	if out, code := s.run(two, "read", "/srv/own"); code != 0 || out != "web's\n" {
		t.Errorf("the user does not read the file that it owns: %s", out)
	}
	if out, code := s.run(two, "read", "/srv/private"); code == 0 {
		t.Errorf("a user reads another's file: %s", out)
	}
	if out, code := s.run(one, "read", "/srv/private"); code != 0 || out != "root's\n" {
		t.Errorf("root does not read its own file: %s", out)
	}
	// Every user may bind every port.
	low := s.start(func(t *model.Template) { t.User = "web" }, "serve", "80")
	awaitPort(t, e, low.ID, 80)

	// In the image nothing was changed.
	_, r := e.lookup(one.ID)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(r.Lowers[len(r.Lowers)-1], "srv/own"), &st); err != nil || st.Uid != 33 {
		t.Errorf("the image's file belongs to %d (%v)", st.Uid, err)
	}
	if left, err := os.ReadDir(e.mountsDir()); err != nil || len(left) != 0 {
		t.Errorf("mounts are left: %v (%v)", left, err)
	}
}

// checkNetworkOwner checks that the server's network belongs to its own user
// namespace: root in it is root of its network, and of no other.
func checkNetworkOwner(t *testing.T, e *Engine, id model.ServerID) {
	t.Helper()
	network, err := os.Open(e.netns(id))
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	owner, err := unix.IoctlRetInt(int(network.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(owner) }()
	var got, want unix.Stat_t
	if err := unix.Fstat(owner, &got); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(e.userns(id), &want); err != nil {
		t.Fatal(err)
	}
	if got.Ino != want.Ino {
		t.Errorf("the network namespace of %s belongs to user namespace %d, the server is in %d", id, got.Ino, want.Ino)
	}
}

// words returns the words of a file, with a space between.
func words(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func TestIDs(t *testing.T) {
	taken := map[uint32]bool{}
	for n := range uint64(2000) {
		ids := idsFor("abcdef", model.ServerID("web-"+model.Sixes("abcdef", n)), taken)
		if ids < firstIDs || ids%idsPerServer != 0 || uint64(ids)+idsPerServer > 1<<32-idsPerServer || taken[ids] {
			t.Fatalf("server %d gets the ids from %d on", n, ids)
		}
		taken[ids] = true
	}
}

// TestRunDirectory checks that a run directory that servers cannot pass is
// refused before one is started.
func TestRunDirectory(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "closed", "run")
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	for parent := dir; parent != "/tmp" && parent != "/"; parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	err := Config{RunDir: run}.letServersPass()
	if model.CodeOf(err) != model.Precondition || model.HintOf(err) != "chmod o+x "+filepath.Dir(run) {
		t.Errorf("it says %v (%s)", err, model.HintOf(err))
	}
	if err := os.Chmod(filepath.Dir(run), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := (Config{RunDir: run}).letServersPass(); err != nil {
		t.Error(err)
	}
}
