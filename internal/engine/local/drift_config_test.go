package local

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestDriftOfConfiguration changes from outside what the kernel holds a server
// by, and wants each change seen, and nothing else.
func TestDriftOfConfiguration(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	d := &driftTest{t: t, servers: w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})), alarms: e.Alarms(t.Context())}

	t.Run("control groups", d.controlGroups)
	t.Run("an earlier baseline", d.earlierBaseline)
	t.Run("process limits", d.processLimits)
	t.Run("bounds", d.bounds)
	t.Run("ending", d.ending)
	t.Run("addresses", d.addresses)
	t.Run("routes", d.routes)
}

// wants wants exactly these findings of the server's configuration.
func (d *driftTest) wants(t *testing.T, ref engine.Ref, want ...string) {
	t.Helper()
	found, err := d.e.Inspect(t.Context(), ref.ID, engine.Glance)
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	checkFindings(t, slices.DeleteFunc(found, func(f model.Finding) bool { return f.Detector != model.DetectConfig }), want)
}

// bounded is a template's edit that sets every bound.
func bounded(t *model.Template) {
	t.Resources = model.Resources{Memory: 48<<20 + 123, CPU: 250, PIDs: 30}
}

func command(t *testing.T, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v %s", name, arguments, err, out)
	}
}

func put(t *testing.T, text string, path ...string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(path...), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// controlGroups moves processes of a server out of its control group, in all
// hierarchies one after the other.
func (d *driftTest) controlGroups(t *testing.T) {
	ref := d.start(bounded, "children", "3")
	d.wants(t, ref)
	_, r := d.e.lookup(ref.ID)
	base, err := d.e.baseline(r)
	if err != nil || len(base.Groups) == 0 {
		t.Fatalf("the server has control groups in %q (%v)", base.Groups, err)
	}
	move := func(hierarchy string, pid int, group string) {
		t.Helper()
		put(t, strconv.Itoa(pid), cgroupRoot, hierarchy, group, "cgroup.procs")
	}
	for _, hierarchy := range base.Groups {
		where, dir := hierarchy, hierarchy
		if hierarchy == "" {
			where = "unified"
			if !unified() { // beside those of version 1
				dir = "unified"
			}
		}
		t.Run(where, func(t *testing.T) {
			pids := []int{d.pid(ref)}
			if hierarchy != execController() { // who leaves that is a stranger, wherever it is from
				pids = append(pids, d.child(t, ref))
			}
			for _, pid := range pids {
				move(dir, pid, "/")
				d.wants(t, ref, "control group left "+where)
				move(dir, pid, d.e.group(ref.ID))
				d.wants(t, ref)
			}
		})
	}
	// What joins it from outside is a stranger and no more than that.
	if !unified() {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		move(execController(), cmd.Process.Pid, d.e.group(ref.ID))
		d.wants(t, ref)
	}
}

// child returns a process that the server's first has started, as soon as there is
// one. What else is in its control group may be the runtime's, about to end.
func (d *driftTest) child(t *testing.T, ref engine.Ref) int {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, pid := range processesIn(d.e.cgroupDir(execController(), ref.ID)) {
			if parent, err := parentOf(pid); err == nil && parent == d.pid(ref) {
				return pid
			}
		}
	}
	t.Fatalf("%s has one process only", ref.ID)
	return 0
}

// earlierBaseline has a server that was made by a kiln which kept less of it.
func (d *driftTest) earlierBaseline(t *testing.T) {
	ref := d.serving(nil)
	_, r := d.e.lookup(ref.ID)
	b, err := d.e.baseline(r)
	if err != nil {
		t.Fatal(err)
	}
	earlier := *b
	earlier.Limits, earlier.Groups = nil, nil
	earlier.Mounts = append(slices.Clone(b.Mounts), "/gone tmpfs / rw")
	put(t, string(encode(t, earlier)), d.e.baselineFile(ref.ID))
	d.wants(t, ref, "mount removed /gone")
	d.wants(t, ref, "mount removed /gone")
	if now, err := d.e.baseline(r); err != nil || !maps.Equal(now.Limits, b.Limits) || !slices.Equal(now.Groups, b.Groups) {
		t.Errorf("its limits and groups are %v and %v, want %v and %v (%v)", now.Limits, now.Groups, b.Limits, b.Groups, err)
	}
}

// processLimits has processes of a server lower their limits, which they may,
// and have more than the server was made with.
func (d *driftTest) processLimits(t *testing.T) {
	ref := d.start(nil, "children", "3")
	first, child := d.pid(ref), d.child(t, ref)
	set := func(pid, resource int, soft, hard uint64) {
		t.Helper()
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: soft, Max: hard}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, resource := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_NPROC, unix.RLIMIT_MEMLOCK, unix.RLIMIT_STACK, unix.RLIMIT_AS} {
		set(child, resource, 1<<10, 2<<10)
		d.wants(t, ref)
	}
	set(first, unix.RLIMIT_NOFILE, 100, 100)
	d.wants(t, ref)
	// What kiln runs in it has the limits that kiln gives it, not what is left.
	if out, code := d.run(ref, "status"); code != 0 {
		t.Errorf("status %d: %s", code, out)
	}
	d.wants(t, ref)
	// To raise one takes a right that the machine's root may lack: so the server
	// is said to have been made with less.
	madeWith := func(limits map[string]uint64) {
		t.Helper()
		_, r := d.e.lookup(ref.ID)
		b, err := d.e.baseline(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Limits) < 16 {
			t.Errorf("of a server's limits these are known: %v", b.Limits)
		}
		maps.Copy(b.Limits, limits)
		put(t, string(encode(t, b)), d.e.baselineFile(ref.ID))
	}
	madeWith(map[string]uint64{"open files": 200, "locked memory": 100})
	d.wants(t, ref, "limit changed open files", "limit changed locked memory") // of the children, of all
	madeWith(map[string]uint64{"open files": 100, "locked memory": 1 << 40})
	for _, pid := range processesIn(d.e.cgroupDir(execController(), ref.ID)) {
		set(pid, unix.RLIMIT_NOFILE, 100, 100)
	}
	d.wants(t, ref)
}

// bounds changes what the server's control group is bounded by.
func (d *driftTest) bounds(t *testing.T) {
	type file struct{ hierarchy, name, value string }
	cases := map[string][]file{ // what is seen, by what is written
		"limit changed cpu":  {{"cpu", "cpu.cfs_period_us", "1000000"}},
		"limit changed swap": {{"memory", "memory.memsw.limit_in_bytes", "1073741824"}},
		"limit changed pids": {{"pids", "pids.max", "29"}},
	}
	if unified() {
		cases = map[string][]file{
			"limit changed cpu":  {{"", "cpu.max", "25000 1000000"}},
			"limit changed swap": {{"", "memory.swap.max", "1073741824"}},
			"limit changed pids": {{"", "pids.max", "29"}},
		}
	}
	for want, files := range cases {
		t.Run(want, func(t *testing.T) {
			ref := d.serving(bounded)
			d.wants(t, ref)
			for _, f := range files {
				put(t, f.value, d.e.cgroupDir(f.hierarchy, ref.ID), f.name)
			}
			d.wants(t, ref, want)
		})
	}
	t.Run("none", func(t *testing.T) {
		ref := d.serving(nil)
		if !unified() { // without a quota the period means nothing
			put(t, "50000", d.e.cgroupDir("cpu", ref.ID), "cpu.cfs_period_us")
		} else {
			put(t, "max 50000", d.e.cgroupDir("", ref.ID), "cpu.max")
		}
		d.wants(t, ref)
	})
	t.Run("gone", func(t *testing.T) {
		if unified() {
			t.Skip("the group of version 2 cannot be removed while processes are in it")
		}
		ref := d.serving(bounded)
		group := d.e.cgroupDir("pids", ref.ID)
		memory := d.e.cgroupDir("memory", ref.ID)
		for _, pid := range processesIn(group) {
			put(t, strconv.Itoa(pid), cgroupRoot, "memory", "cgroup.procs")
		}
		if err := removeEmptyGroup(memory); err != nil {
			t.Fatal(err)
		}
		d.wants(t, ref, "control group left memory", "limit removed memory")
		// So that it can end as any other.
		if err := os.Mkdir(memory, 0o755); err != nil {
			t.Fatal(err)
		}
	})
}

// ending looks at servers while they end: the kernel takes a process out of its
// control groups before that is to be seen of it.
func (d *driftTest) ending(t *testing.T) {
	for range 10 {
		ref := d.start(nil, "eat", "300")
		_, r := d.e.lookup(ref.ID)
		d.wants(t, ref)
		base, err := d.e.baseline(r)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); d.used(ref) < 300<<20 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		if err := unix.Kill(r.Process.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for r.Process.runs(d.e.boot) {
			c := &configuration{e: d.e, r: r, base: base}
			c.processes()
			if len(c.found) > 0 {
				t.Fatalf("its end is taken for drift: %+v", c.found)
			}
		}
	}
}

// inNet runs ip in the server's network namespace.
func (d *driftTest) inNet(t *testing.T, ref engine.Ref, arguments ...string) {
	t.Helper()
	command(t, "nsenter", append([]string{"-t", strconv.Itoa(d.pid(ref)), "-n", "ip"}, arguments...)...)
}

func (d *driftTest) addresses(t *testing.T) {
	gateway := d.e.network.gateway.String()
	for _, c := range []struct {
		name string
		do   []string
		want []string
	}{
		{"IPv4 of lo", []string{"address", "add", "10.99.0.1/32", "dev", "lo"}, []string{"address added 10.99.0.1/32"}},
		{"IPv6 of lo", []string{"-6", "address", "add", "fd00::1/128", "dev", "lo"}, []string{"address added fd00::1/128"}},
		{"IPv6 of eth0", []string{"-6", "address", "add", "fd00::2/128", "dev", "eth0", "nodad"}, []string{"address added fd00::2/128"}},
		{"a network on eth0", []string{"address", "add", "10.99.0.1/24", "brd", "+", "dev", "eth0"}, []string{"address added 10.99.0.1/24"}},
		{"a neighbour", []string{"address", "add", "10.99.0.1", "peer", gateway + "/16", "dev", "eth0"}, []string{"address added 10.99.0.1/32", "route added 198.18.0.0/16"}},
		{"link-local of eth0", []string{"-6", "address", "add", "fe80::2/64", "dev", "eth0", "nodad"}, []string{"address added fe80::2/64"}},
		{"none of lo", []string{"address", "flush", "dev", "lo", "scope", "host"}, []string{"address removed 127.0.0.1/8"}},
		{"eth0 down", []string{"link", "set", "eth0", "down"}, []string{"link down eth0", "route removed default", "route removed " + gateway + "/32"}},
		{"lo down", []string{"link", "set", "lo", "down"}, []string{"link down lo"}},
		{"a link that is up", []string{"link", "add", "gre0", "up", "type", "veth"}, []string{"link added gre0", "link added veth0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref := d.serving(nil)
			d.wants(t, ref)
			d.inNet(t, ref, c.do...)
			d.wants(t, ref, c.want...)
		})
	}
	t.Run("the machine's end", func(t *testing.T) {
		ref := d.serving(nil)
		link := d.e.link(ref.ID)
		put(t, "0", "/proc/sys/net/ipv6/conf", link, "disable_ipv6")
		command(t, "ip", "-6", "address", "add", "fd00::3/128", "dev", link, "nodad")
		d.wants(t, ref, "address added fd00::3/128")
	})
}

func (d *driftTest) routes(t *testing.T) {
	gateway := d.e.network.gateway.String()
	for _, c := range []struct {
		name string
		do   []string
		want []string
	}{
		{"gone", []string{"route", "delete", "default"}, []string{"route removed default"}},
		{"by another way", []string{"route", "replace", "default", "dev", "lo"}, []string{"route changed default"}},
		{"more", []string{"route", "add", "192.0.2.0/24", "via", gateway}, []string{"route added 192.0.2.0/24"}},
		{"another table", []string{"route", "add", "192.0.2.0/24", "via", gateway, "table", "77"}, []string{"route added 192.0.2.0/24"}},
		{"as if it were the kernel's", []string{"route", "add", "default", "dev", "lo", "metric", "7", "proto", "kernel"}, []string{"route added default"}},
		{"to itself", []string{"route", "add", "local", "192.0.2.0/24", "dev", "lo"}, []string{"route added 192.0.2.0/24"}},
		{"IPv6", []string{"-6", "route", "add", "default", "dev", "eth0"}, []string{"route added default"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref := d.serving(nil)
			d.wants(t, ref)
			d.inNet(t, ref, c.do...)
			d.wants(t, ref, c.want...)
		})
	}
}

// TestBounds checks what bounds come to in the files of both versions.
func TestBounds(t *testing.T) {
	for text, want := range map[string][2]int64{
		"25000 100000\n": {25000, 100000}, "max 100000\n": {unlimited, 100000}, "-1\n": {unlimited, notKnown},
		"max\n": {unlimited, notKnown}, "": {notKnown, notKnown}, "who knows\n": {notKnown, notKnown}, "1 2 3\n": {1, 2},
	} {
		path := filepath.Join(t.TempDir(), "bound")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readBounds(path); got != want {
			t.Errorf("%q is read as %d, want %d", text, got, want)
		}
	}
	if got := readBounds(filepath.Join(t.TempDir(), "none")); got[0] != absent {
		t.Errorf("a file that is not there is read as %d", got)
	}
	page := int64(os.Getpagesize())
	r := model.Resources{Memory: 100*page + 1, CPU: 1, PIDs: 7}
	want := bounds{memory: 100 * page, swap: 100 * page, quota: 1000, period: 100_000, pids: 7}
	if got := wantedBounds(r, false); got != want {
		t.Errorf("version 1: %+v, want %+v", got, want)
	}
	want.swap = 0
	if got := wantedBounds(r, true); got != want {
		t.Errorf("version 2: %+v, want %+v", got, want)
	}
	want = bounds{memory: unlimited, swap: unlimited, quota: unlimited, period: 100_000, pids: unlimited}
	if got := wantedBounds(model.Resources{}, true); got != want {
		t.Errorf("nothing: %+v, want %+v", got, want)
	}
}

func (d *driftTest) used(ref engine.Ref) int64 {
	u, _ := d.e.usage(ref.ID)
	return u.Memory
}
