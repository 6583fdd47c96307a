package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestDriftOfConfiguration changes from outside what the kernel holds a server
// by, and wants each change seen, and nothing else.
func TestDriftOfConfiguration(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	d := &driftTest{t: t, servers: w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})), alarms: e.Alarms(t.Context())}

	t.Run("firewall", d.dormantFirewall)
	t.Run("bounds", d.bounds)
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

func (d *driftTest) dormantFirewall(t *testing.T) {
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
	d.drain()
	command(t, "nft", "add", "table", "inet", d.e.table(), "{ flags dormant; }")
	d.alarm(t, "")
	look("firewall table changed table " + d.e.table())
	if err := d.e.Mend(t.Context()); err != nil {
		t.Fatalf("Mend: %v", err)
	}
	look()
	if out, err := exec.Command("nft", "list", "table", "inet", d.e.table()).CombinedOutput(); err != nil || strings.Contains(string(out), "dormant") {
		t.Errorf("the table is not in force again: %s (%v)", out, err)
	}
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
