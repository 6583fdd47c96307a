package builder

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// memoryGroup is the control group that builds share: what their steps take
// together, and this process with them, stays below its limit.
type memoryGroup struct {
	dir     string // in the hierarchy of the memory controller
	unified bool   // control groups of version 2
	limit   int64  // bytes
	log     *slog.Logger
}

// spared keeps the kernel from ending this process where a step is to blame:
// from -1000, never, to 1000, first.
const spared = "-900"

// limitMemory makes the group and joins it. A machine whose kernel does not
// count memory has builds without a limit, and that is logged.
func limitMemory(id model.InstanceID, limit int64, log *slog.Logger) (*memoryGroup, error) {
	g := newMemoryGroup(id, limit, log)
	if limit <= 0 {
		return g, nil
	}
	if err := g.make(); err != nil {
		g.limit = 0
		log.Warn("builds have no limit of memory", "error", err)
		return g, nil
	}
	own := filepath.Join(g.dir, "builder") // version 2 has processes in leaves only
	err := os.MkdirAll(own, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(own, cgroupProcFile), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start the builder: its memory cannot be limited: %w", err)
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(spared), 0) // a wish
	return g, nil
}

func newMemoryGroup(id model.InstanceID, limit int64, log *slog.Logger) *memoryGroup {
	g := &memoryGroup{limit: limit, log: log}
	var st unix.Statfs_t
	if g.unified = unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC; g.unified {
		g.dir = filepath.Join(cgroupRoot, cgroupParent(id))
	} else {
		g.dir = filepath.Join(cgroupRoot, "memory", cgroupParent(id))
	}
	return g
}

// make makes the group and sets its limit, swap included.
func (g *memoryGroup) make() error {
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return err
	}
	limit := []byte(strconv.FormatInt(g.limit, 10))
	if !g.unified {
		// memsw may not be below the other one, nor that above it.
		memsw := filepath.Join(g.dir, "memory.memsw.limit_in_bytes")
		_ = os.WriteFile(memsw, []byte("-1"), 0)
		if err := os.WriteFile(filepath.Join(g.dir, "memory.limit_in_bytes"), limit, 0); err != nil {
			return err
		}
		_ = os.WriteFile(memsw, limit, 0) // absent where swap is not counted
		return nil
	}
	return g.setUnified(limit)
}

func (g *memoryGroup) setUnified(limit []byte) error {
	path := cgroupRoot
	rel, err := filepath.Rel(cgroupRoot, g.dir)
	if err != nil {
		return err
	}
	for part := range strings.SplitSeq(rel, string(filepath.Separator)) {
		// Fails where it is on already, or where it cannot be; the limit shows.
		_ = os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+memory"), 0)
		path = filepath.Join(path, part)
	}
	_ = os.WriteFile(filepath.Join(g.dir, "memory.swap.max"), []byte("0"), 0)
	return os.WriteFile(filepath.Join(g.dir, "memory.max"), limit, 0)
}

// leave takes this process out of the group, so that it can be removed.
func (g *memoryGroup) leave() {
	if g.limit <= 0 {
		return
	}
	root := filepath.Join(cgroupRoot, "memory")
	if g.unified {
		root = cgroupRoot
	}
	if err := os.WriteFile(filepath.Join(root, cgroupProcFile), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		g.log.Warn("cannot leave the builder's control group", "error", err)
	}
}

// watch returns what tells, later, whether the limit was reached since.
func (g *memoryGroup) watch() (reached func() bool) {
	if g.limit <= 0 {
		return func() bool { return false }
	}
	if g.unified {
		before := g.kills()
		return func() bool { return g.kills() > before }
	}
	// Recent kernels do not count failures any more; the most that was taken
	// can be read, and set back. A page or two below the limit is at it.
	const highest = "memory.max_usage_in_bytes"
	_ = os.WriteFile(filepath.Join(g.dir, highest), []byte("0"), 0)
	return func() bool {
		const near = 1 << 20
		b, err := os.ReadFile(filepath.Join(g.dir, highest))
		if err != nil {
			return false
		}
		most, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
		return err == nil && most >= g.limit-near
	}
}

// kills counts the processes that the kernel ended because of the limit.
func (g *memoryGroup) kills() int64 {
	b, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64) // not a number: none
			return n
		}
	}
	return 0
}

// String says the limit as people write it.
func (g *memoryGroup) String() string {
	const mebi = 1 << 20
	return fmt.Sprintf("%d MiB", (g.limit+mebi-1)/mebi)
}
