package local

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kiln/internal/model"
)

// TestMemory checks that what is free is not more than a control group above the
// servers allows.
func TestMemory(t *testing.T) {
	const limit = 256 << 20
	c := Config{Instance: model.InstanceID(strings.ToLower(rand.Text()[:6]))}
	total, free, err := c.memory()
	if err != nil || total <= limit || free <= 0 || free > total {
		t.Fatalf("the machine has %d, free %d (%v)", total, free, err)
	}
	dir, file := filepath.Join(cgroupRoot, "memory", c.cgroup()), "memory.limit_in_bytes"
	if unified() {
		dir, file = filepath.Join(cgroupRoot, c.cgroup()), "memory.max"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeGroup(c.cgroup()); err != nil {
			t.Error(err)
		}
	})
	if total, _, err = c.memory(); err != nil || total <= limit {
		t.Errorf("without a limit the group has %d (%v)", total, err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	if total, free, err = c.memory(); err != nil || total != limit || free <= 0 || free > limit {
		t.Errorf("with a limit of %d there are %d, free %d (%v)", limit, total, free, err)
	}
}
