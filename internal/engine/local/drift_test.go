package local

import (
	"context"
	"fmt"
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
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestDrift changes real servers in every way that a detector is there for, and
// wants each seen, and nothing else.
func TestDrift(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}},
		file{name: "/etc/motd", content: "be welcome\n", mode: 0o644}, file{name: "/var/lib/app/", mode: 0o750})
	s := w.servers(t, e, image)
	d := &driftTest{t: t, servers: s, alarms: e.Alarms(t.Context())}

	t.Run("nothing", d.nothing)
	t.Run("files", d.files)
	t.Run("processes", d.processes)
	t.Run("programs", d.programs)
	t.Run("configuration", d.configuration)
	t.Run("layers", d.layers)
	t.Run("fleet", d.fleet)
}

type driftTest struct {
	t *testing.T
	*servers
	alarms <-chan model.ServerID
}

// inspect wants exactly these findings, each as "WHAT WHERE".
func (d *driftTest) inspect(t *testing.T, ref engine.Ref, depth engine.Depth, want ...string) []model.Finding {
	t.Helper()
	found, err := d.e.Inspect(t.Context(), ref.ID, depth)
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	checkFindings(t, found, want)
	return found
}

func checkFindings(t *testing.T, found []model.Finding, want []string) {
	t.Helper()
	var got []string
	for _, f := range found {
		got = append(got, f.What+" "+f.Where)
		if f.How == "" || f.Detector == "" || f.At.IsZero() {
			t.Errorf("a finding does not say everything: %+v", f)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.EqualFunc(got, want, func(g, w string) bool {
		return g == w || (strings.HasSuffix(w, "…") && strings.HasPrefix(g, strings.TrimSuffix(w, "…")))
	}) {
		t.Errorf("found %q, want %q\n%+v", got, want, found)
	}
}

// alarm wants to be told of the server within two seconds.
func (d *driftTest) alarm(t *testing.T, id model.ServerID) {
	t.Helper()
	deadline := time.After(2 * time.Second)
	for {
		select {
		case got := <-d.alarms:
			if got == id {
				return
			}
		case <-deadline:
			t.Fatalf("no alarm of %q within two seconds", id)
		}
	}
}

// intrude runs a command in namespaces of the server.
func (d *driftTest) intrude(t *testing.T, ref engine.Ref, arguments ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(d.pid(ref))}, arguments...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// nothing is what is to be found in servers that are as they were made, while
// commands run in them and they start processes of their own.
func (d *driftTest) nothing(t *testing.T) {
	kinds := map[string]func(*model.Template){
		"user namespace": nil,
		"plain":          func(t *model.Template) { t.UserNamespace = false },
		"another user": func(t *model.Template) {
			t.User, t.Resources = "web", model.Resources{Memory: 48<<20 + 123, CPU: 250, PIDs: 30}
			t.Ephemeral = []model.Ephemeral{{Path: "/var/lib/app", Size: 8 << 20}, {Path: "/new/place", Size: 1 << 20}}
		},
	}
	for name, edit := range kinds {
		t.Run(name, func(t *testing.T) {
			ref := d.start(edit, "children", "3")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for range 5 {
					_, _ = d.e.Exec(ctx, ref, engine.Exec{Command: []string{"program", "status"}})
				}
			}()
			for running := true; running; {
				select {
				case <-ended:
					running = false
				default:
				}
				if _, err := d.e.walk(time.Now()); err != nil {
					t.Error(err)
				}
				d.inspect(t, ref, engine.Glance)
			}
			d.inspect(t, ref, engine.Whole)
			d.inspect(t, ref, engine.Patient)
		})
	}
}

func (d *driftTest) files(t *testing.T) {
	ref := d.serving(nil)
	_, r := d.e.lookup(ref.ID)
	d.drain()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/etc/new", d.pid(ref)), []byte("x"), 0o644); err == nil {
		t.Error("the machine's root can write into a server's read-only root")
	}
	d.drain()
	for _, err := range []error{
		os.Mkdir(filepath.Join(r.Upper, "etc"), 0o755),
		os.Chown(filepath.Join(r.Upper, "etc"), int(r.IDs), int(r.IDs)),
		os.WriteFile(filepath.Join(r.Upper, "etc/new"), []byte("n"), 0o644),
		os.WriteFile(filepath.Join(r.Upper, "etc/motd"), []byte("go away"), 0o644),
		unix.Mknod(filepath.Join(r.Upper, "etc/group"), unix.S_IFCHR, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d.alarm(t, ref.ID)
	found, err := d.e.Inspect(t.Context(), ref.ID, engine.Glance)
	if err != nil {
		t.Fatal(err)
	}
	checkFindings(t, slices.DeleteFunc(found, func(f model.Finding) bool { return f.Detector != model.DetectFiles }),
		[]string{"file added /etc/new", "file changed /etc/motd", "file removed /etc/group"})
	if err := os.Chmod(filepath.Join(r.Upper, "etc"), 0o777); err != nil {
		t.Fatal(err)
	}
	found, _ = d.e.Inspect(t.Context(), ref.ID, engine.Glance)
	if !slices.ContainsFunc(found, func(f model.Finding) bool { return f.What == "directory changed" && f.Where == "/etc" }) {
		t.Errorf("a directory's mode is not seen: %+v", found)
	}
	many := filepath.Join(r.Upper, "many")
	if err := os.Mkdir(many, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxFindings {
		if err := os.WriteFile(filepath.Join(many, strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if found, _ = d.e.Inspect(t.Context(), ref.ID, engine.Glance); len(found) < maxFindings || len(found) > maxFindings+20 {
		t.Errorf("of very many files %d are listed", len(found))
	}
}

func (d *driftTest) drain() {
	for {
		select {
		case <-d.alarms:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

func (d *driftTest) processes(t *testing.T) {
	for _, spaces := range [][]string{{"-m"}, {"-n"}, {"-p"}, {"-i"}, {"-u"}, {"-a"}} {
		t.Run(spaces[0], func(t *testing.T) {
			ref := d.serving(nil)
			d.inspect(t, ref, engine.Glance)
			d.drain()
			// Its own program where the machine's are not to be seen.
			command := []string{"/bin/sleep", "60"}
			if spaces[0] == "-m" || spaces[0] == "-a" {
				command = []string{"/bin/program", "wait"}
			}
			cmd := d.intrude(t, ref, append(slices.Clone(spaces), command...)...)
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			d.alarm(t, ref.ID)
			want := []string{"foreign process process …"}
			found, err := d.e.Inspect(t.Context(), ref.ID, engine.Whole)
			if err != nil {
				t.Fatal(err)
			}
			found = slices.DeleteFunc(found, func(f model.Finding) bool { return f.What == "program from outside the image" })
			if len(found) < 1 || found[0].What != "foreign process" {
				t.Errorf("found %+v, want %q", found, want)
			}
		})
	}
	t.Run("into the control group", func(t *testing.T) {
		ref := d.serving(nil)
		d.drain()
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		procs := filepath.Join(d.e.cgroupDir(execController(), ref.ID), "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
		found, err := d.e.Inspect(t.Context(), ref.ID, engine.Whole)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(found, func(f model.Finding) bool { return f.What == "foreign process" }) {
			t.Errorf("found %+v", found)
		}
	})
	t.Run("in everything, and adopted by its first process", func(t *testing.T) {
		ref := d.serving(nil)
		cmd := exec.Command("sh", "-c", "echo $$ > "+filepath.Join(d.e.cgroupDir(execController(), ref.ID), "cgroup.procs")+
			"; exec nsenter -t "+strconv.Itoa(d.pid(ref))+" -m -u -i -n -p /bin/program orphan")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		found, err := d.e.Inspect(t.Context(), ref.ID, engine.Whole)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(found, func(f model.Finding) bool { return f.What == "capability added" }) {
			t.Errorf("found %+v", found)
		}
	})
}

func (d *driftTest) programs(t *testing.T) {
	for _, from := range []string{"memfd", "tmpfs", "deleted"} {
		t.Run(from, func(t *testing.T) {
			ref := d.start(nil, "replicate", from)
			// The first alarm may be that it has begun at all.
			for deadline := time.Now().Add(5 * time.Second); ; {
				d.alarm(t, ref.ID)
				if found, err := d.e.Inspect(t.Context(), ref.ID, engine.Glance); err != nil || len(found) > 0 || time.Now().After(deadline) {
					break
				}
			}
			d.inspect(t, ref, engine.Glance, "program from outside the image process …")
		})
	}
}

func (d *driftTest) configuration(t *testing.T) {
	ref := d.serving(func(t *model.Template) {
		t.Resources = model.Resources{Memory: 48 << 20, CPU: 250, PIDs: 30}
		t.Env = map[string]string{"SECRET": "hush"}
	})
	d.inspect(t, ref, engine.Glance)
	if !unified() {
		if err := os.WriteFile(filepath.Join(d.e.cgroupDir("pids", ref.ID), "pids.max"), []byte("60"), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.e.cgroupDir("cpu", ref.ID), "cpu.cfs_quota_us"), []byte("-1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	in := func(arguments ...string) {
		t.Helper()
		cmd := d.intrude(t, ref, arguments...)
		if err := cmd.Wait(); err != nil {
			t.Errorf("nsenter %q: %v", arguments, err)
		}
	}
	in("-n", "ip", "address", "add", "10.99.0.1/32", "dev", "eth0")
	in("-n", "ip", "link", "add", "spy0", "type", "veth", "peer", "name", "spy1")
	bundle := d.e.bundleFile(ref.ID)
	b, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle, []byte(strings.Replace(string(b), "SECRET=hush", "SECRET=loud", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := d.e.Inspect(t.Context(), ref.ID, engine.Glance)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprint(found), "loud") || strings.Contains(fmt.Sprint(found), "hush") {
		t.Errorf("a finding tells a secret: %+v", found)
	}
	found = slices.DeleteFunc(found, func(f model.Finding) bool { return f.Detector != model.DetectConfig })
	checkFindings(t, found, []string{
		"limit changed pids", "limit changed cpu", "address added 10.99.0.1/32", "link added spy0", "link added spy1", "environment changed SECRET",
	})
	t.Run("mounts", func(t *testing.T) {
		ref := d.serving(nil)
		mountInto(t, d.pid(ref), "tmpfs", "/var")
		found, err := d.e.Inspect(t.Context(), ref.ID, engine.Glance)
		if err != nil {
			t.Fatal(err)
		}
		found = slices.DeleteFunc(found, func(f model.Finding) bool { return f.Detector != model.DetectConfig })
		checkFindings(t, found, []string{"mount added /var"})
	})
}

// mountInto mounts a tmpfs in the mount namespace of a process.
func mountInto(t *testing.T, pid int, kind, at string) {
	t.Helper()
	failed := make(chan error)
	go func() {
		failed <- func() error {
			runtime.LockOSThread() // never unlocked: it ends with this function
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
				return err
			}
			return unix.Mount(kind, at, kind, 0, "")
		}()
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

func (d *driftTest) layers(t *testing.T) {
	one, other := d.serving(nil), d.serving(nil)
	d.inspect(t, one, engine.Glance)
	_, r := d.e.lookup(one.ID)
	lower := r.Lowers[len(r.Lowers)-1]
	motd := filepath.Join(lower, "etc/motd")
	was, err := os.ReadFile(motd)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("touched and the same", func(t *testing.T) {
		touch(t, motd)
		d.stale()
		d.inspect(t, one, engine.Glance)
	})
	t.Run("content", func(t *testing.T) {
		if err := os.WriteFile(motd, []byte("be Welcome\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		d.stale()
		for _, ref := range []engine.Ref{one, other} {
			d.inspect(t, ref, engine.Glance, "file changed /etc/motd")
			d.inspect(t, ref, engine.Whole, "file changed /etc/motd")
		}
		if err := os.WriteFile(motd, was, 0o644); err != nil {
			t.Fatal(err)
		}
		d.stale()
		d.inspect(t, other, engine.Glance)
		d.inspect(t, one, engine.Whole)
	})
	t.Run("more and less", func(t *testing.T) {
		added := filepath.Join(lower, "etc/added")
		if err := os.WriteFile(added, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(motd, motd+".away"); err != nil {
			t.Fatal(err)
		}
		d.inspect(t, one, engine.Whole, "file added /etc/added", "file added /etc/motd.away", "file removed /etc/motd")
		if err := os.Remove(added); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(motd+".away", motd); err != nil {
			t.Fatal(err)
		}
		d.inspect(t, one, engine.Whole)
	})
	t.Run("before anybody looked", func(t *testing.T) {
		// As if it had been changed between unpacking and the first look.
		l, err := d.e.layerOf(lower)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(motd, []byte("be Welcome\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		l.sum, l.at = 0, time.Time{}
		l.mu.Unlock()
		if err := os.Remove(l.list); err != nil {
			t.Fatal(err)
		}
		d.inspect(t, one, engine.Glance)
		d.inspect(t, one, engine.Patient, "file changed /etc/motd")
		d.inspect(t, other, engine.Glance, "file changed /etc/motd")
		if err := os.WriteFile(motd, was, 0o644); err != nil {
			t.Fatal(err)
		}
		d.inspect(t, other, engine.Whole)
	})
}

// stale has the next glance look at the layers anew.
func (d *driftTest) stale() {
	d.e.drift.mu.Lock()
	defer d.e.drift.mu.Unlock()
	for _, l := range d.e.drift.layers {
		l.mu.Lock()
		l.at = time.Time{}
		l.mu.Unlock()
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
}

func (d *driftTest) fleet(t *testing.T) {
	look := func(want ...string) {
		t.Helper()
		found, err := d.e.InspectFleet(t.Context())
		if err != nil {
			t.Fatalf("InspectFleet: %v", err)
		}
		checkFindings(t, found, want)
	}
	d.serving(func(t *model.Template) { t.Connects = []string{"db"} })
	look()
	table := d.e.table()
	nft := func(arguments ...string) {
		t.Helper()
		command(t, "nft", arguments...)
	}
	mended := func() {
		t.Helper()
		if err := d.e.Mend(t.Context()); err != nil {
			t.Fatalf("Mend: %v", err)
		}
		look()
	}
	d.drain()
	nft("flush", "chain", "inet", table, "forward")
	d.alarm(t, "")
	look("firewall chain changed forward")
	mended()
	nft("add", "element", "inet", table, "connects", "{", "eth9", ".", "10.1.2.3", "}")
	look("firewall set changed connects")
	mended()
	nft("delete", "table", "inet", table)
	look("firewall removed table " + table)
	mended()
	d.drain()
	nft("add", "table", "inet", table, "{ flags dormant; }")
	d.alarm(t, "")
	look("firewall table changed table " + table)
	mended()
	if out, err := exec.Command("nft", "list", "table", "inet", table).CombinedOutput(); err != nil || strings.Contains(string(out), "dormant") {
		t.Errorf("the table is not in force again: %s (%v)", out, err)
	}
	name := d.e.linkPrefix() + "aaaaaa"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	d.drain()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p" + name[1:]}); err != nil {
		t.Fatal(err)
	}
	d.alarm(t, "")
	look("link added " + name)
	mended()
	if err := removeLink(d.e.namesLink()); err != nil {
		t.Fatal(err)
	}
	look("link removed " + d.e.namesLink())
	mended()
	ctx := d.e.scoped(t.Context())
	if _, err := d.e.client.SnapshotService(snapshotter).Prepare(ctx, "stranger", "", rootLabels()); err != nil {
		t.Fatal(err)
	}
	look("foreign snapshot stranger")
	if err := d.e.client.SnapshotService(snapshotter).Remove(ctx, "stranger"); err != nil {
		t.Fatal(err)
	}
	look()
}
