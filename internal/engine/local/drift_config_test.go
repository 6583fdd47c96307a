package local

import (
	"os/exec"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// TestDriftOfConfiguration changes from outside what the kernel holds a server
// by, and wants each change seen, and nothing else.
func TestDriftOfConfiguration(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	d := &driftTest{t: t, servers: w.servers(t, e, w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})), alarms: e.Alarms(t.Context())}

	t.Run("firewall", d.dormantFirewall)
}

func command(t *testing.T, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v %s", name, arguments, err, out)
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
