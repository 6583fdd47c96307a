package local

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory returns the memory that servers can have, and what of it could be given
// out: the machine's, or less where a control group above the servers has a
// limit, as in a container.
func (c Config) memory() (total, free int64, err error) {
	if total, free, err = machineMemory(); err != nil {
		return 0, 0, err
	}
	for _, group := range []string{"/", c.cgroup()} {
		limit, left, limited := groupMemory(group)
		if limited && limit < total {
			total, free = limit, min(free, left)
		}
	}
	return total, free, nil
}

// groupMemory returns a control group's limit and what is left of it; what the
// kernel keeps of files and could drop counts as left.
func groupMemory(group string) (limit, left int64, limited bool) {
	dir, files := filepath.Join(cgroupRoot, "memory", group), [3]string{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
	if unified() {
		dir, files = filepath.Join(cgroupRoot, group), [3]string{"memory.max", "memory.current", "inactive_file"}
	}
	limit, limited = readCount(filepath.Join(dir, files[0])) // v2 says "max" for none
	used, known := readCount(filepath.Join(dir, files[1]))
	if !limited || !known {
		return 0, 0, false
	}
	used -= readKeyed(filepath.Join(dir, "memory.stat"), files[2])
	return limit, max(0, limit-max(0, used)), true
}

// machineMemory reads what the kernel says of all memory.
func machineMemory() (total, free int64, err error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the machine's memory: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(words[1], 10, 64)
		switch words[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			free = kib << 10
		}
	}
	return total, free, nil
}
