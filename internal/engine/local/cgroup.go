package local

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

const cgroupRoot = "/sys/fs/cgroup"

// unified reports whether the machine has control groups v2 only. With v1, or
// both, limits and counts are in v1's hierarchies.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroupDir returns the directory of the server's control group for a
// controller.
func (c Config) cgroupDir(controller string, id model.ServerID) string {
	if unified() {
		return filepath.Join(cgroupRoot, c.cgroup(), string(id))
	}
	return filepath.Join(cgroupRoot, controller, c.cgroup(), string(id))
}

// hierarchies returns the roots of the hierarchies that hold control groups.
func hierarchies() []string {
	if unified() {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var roots []string
	for _, entry := range entries {
		if entry.IsDir() { // v1 has links beside them, as cpu for cpu,cpuacct
			roots = append(roots, filepath.Join(cgroupRoot, entry.Name()))
		}
	}
	return roots
}

func swapAccounted() bool {
	if unified() {
		return true
	}
	_, err := os.Stat(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

// processesIn returns the processes of the control group and those below it.
func processesIn(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a group that vanishes has no processes
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		for word := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids)
}

// killGroup kills every process in the control group, until there is none, for
// execKillLimit at most.
func killGroup(dir string) error {
	deadline := time.Now().Add(execKillLimit)
	for {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2, at once
		pids := processesIn(dir)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not end", len(pids))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// removeGroup removes the control group at path, and those below it, from all
// hierarchies.
func removeGroup(path string) error {
	var errs []error
	for _, root := range hierarchies() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(root, path), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		slices.Reverse(dirs) // children first
		for _, dir := range dirs {
			if err := removeEmptyGroup(dir); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// removeEmptyGroup removes a group whose last process may just be ending.
func removeEmptyGroup(dir string) error {
	for range 100 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot remove control group %s: %w", dir, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("cannot remove control group %s: it holds processes", dir)
}

// sample reads what the server uses now; nil when its group is gone.
func (c Config) sample(id model.ServerID, now time.Time) *engine.Stats {
	s := &engine.Stats{At: now.UTC()}
	var ok bool
	if unified() {
		dir := c.cgroupDir("", id)
		s.Memory, ok = readCount(filepath.Join(dir, "memory.current"))
		s.CPUMicros = readKeyed(filepath.Join(dir, "cpu.stat"), "usage_usec")
		s.PIDs, _ = readCount(filepath.Join(dir, "pids.current"))
	} else {
		s.Memory, ok = readCount(filepath.Join(c.cgroupDir("memory", id), "memory.usage_in_bytes"))
		nanos, _ := readCount(filepath.Join(c.cgroupDir("cpuacct", id), "cpuacct.usage"))
		s.CPUMicros = nanos / 1000
		s.PIDs, _ = readCount(filepath.Join(c.cgroupDir("pids", id), "pids.current"))
	}
	if !ok {
		return nil
	}
	return s
}

func readCount(path string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n, err == nil
}

func readKeyed(path, key string) int64 { return keyed(readAll(path), key) }

// keyed returns the number after the key in lines like "usage_usec 42".
func keyed(text []byte, key string) int64 {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), key+" "); ok {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}
