package local

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kiln/internal/model"
)

// What a bound can be besides a number.
const (
	unlimited = math.MaxInt64
	notKnown  = -1 // it cannot be read
	absent    = -2 // the kernel has none there
)

// bounds are the limits of a control group.
type bounds struct {
	memory, swap int64 // bytes; with version 1 swap is that of both together
	quota        int64 // microseconds of processors in each period
	period       int64 // microseconds
	pids         int64
}

// boundsOf returns what the kernel bounds the server by.
func (c Config) boundsOf(id model.ServerID) bounds {
	if unified() {
		dir := c.cgroupDir("", id)
		read := func(name string) int64 { return readBounds(filepath.Join(dir, name))[0] }
		cpu := readBounds(filepath.Join(dir, "cpu.max"))
		return bounds{memory: read("memory.max"), swap: read("memory.swap.max"), quota: cpu[0], period: cpu[1], pids: read("pids.max")}
	}
	read := func(controller, name string) int64 {
		return readBounds(filepath.Join(c.cgroupDir(controller, id), name))[0]
	}
	return bounds{
		memory: read("memory", "memory.limit_in_bytes"), swap: read("memory", "memory.memsw.limit_in_bytes"),
		quota: read("cpu", "cpu.cfs_quota_us"), period: read("cpu", "cpu.cfs_period_us"), pids: read("pids", "pids.max"),
	}
}

// wantedBounds are what the template's resources come to with control groups of
// version 2 or 1; see limit.
func wantedBounds(r model.Resources, version2 bool) bounds {
	w := bounds{memory: unlimited, swap: unlimited, quota: unlimited, period: cpuPeriod, pids: unlimited}
	if r.Memory > 0 {
		w.memory = inPages(r.Memory)
		w.swap = w.memory
		if version2 {
			w.swap = 0
		}
	}
	if r.CPU > 0 {
		w.quota = cpuQuota(r.CPU)
	}
	if r.PIDs > 0 {
		w.pids = r.PIDs
	}
	return w
}

// inPages is what the kernel makes of an amount of memory: it counts in pages,
// and its largest number of them is no limit.
func inPages(n int64) int64 {
	if n > noLimit {
		return unlimited
	}
	if n < 0 {
		return n
	}
	page := int64(os.Getpagesize())
	return n / page * page
}

// readBounds reads up to two bounds in a row, as "25000 100000".
func readBounds(path string) [2]int64 {
	both := [2]int64{notKnown, notKnown}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		both[0] = absent
	}
	for i, word := range strings.Fields(string(b)) {
		if i == len(both) {
			break
		}
		if word == "max" || word == "-1" {
			both[i] = unlimited
		} else if n, err := strconv.ParseInt(word, 10, 64); err == nil {
			both[i] = n
		}
	}
	return both
}

// limits compares the control group's bounds.
func (c *configuration) limits() {
	const how = "the control group"
	want, now := wantedBounds(c.r.Template.Resources, unified()), c.e.boundsOf(c.r.ID)
	compare := func(where string, wanted, seen int64) {
		switch {
		case seen == wanted || seen == notKnown:
		case seen != absent:
			c.add("limit changed", where, fmt.Sprintf("wanted %s, seen %s", amount(wanted), amount(seen)), how)
		case wanted != unlimited && len(c.base.Groups) > 0: // else its group is not to be seen from here
			c.add("limit removed", where, fmt.Sprintf("wanted %s, seen none", amount(wanted)), how)
		}
	}
	compare("memory", want.memory, inPages(now.memory))
	if now.swap != absent { // not every kernel counts it
		compare("swap", want.swap, inPages(now.swap))
	}
	compare("pids", want.pids, now.pids)
	if now.period < 0 {
		now.period = want.period
	}
	if now.quota < 0 {
		compare("cpu", want.quota, now.quota)
	} else if want.processors() != now.processors() {
		c.add("limit changed", "cpu", fmt.Sprintf("wanted %s, seen %s", want.processors(), now.processors()), how)
	}
}

// processors says how much of the processors there is to be had: without a quota
// the period means nothing.
func (b bounds) processors() string {
	if b.quota == unlimited {
		return amount(b.quota)
	}
	return fmt.Sprintf("%d µs in each %d µs", b.quota, b.period)
}

func amount(n int64) string {
	if n == unlimited {
		return "no limit"
	}
	return strconv.FormatInt(n, 10)
}

// hardLimits returns what the process may raise its own limits to, by the
// kernel's names of them, as "open files". To ask for each (prlimit) would need
// a right over the process, which not every machine gives its root.
func hardLimits(pid int) (map[string]uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return nil, err
	}
	hard := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		const name = 26 // bytes wide; soft limit, hard limit and unit follow
		if len(line) <= name || !strings.HasPrefix(line, "Max ") {
			continue
		}
		words := strings.Fields(line[name:])
		if len(words) < 2 {
			continue
		}
		if words[1] == "unlimited" {
			hard[strings.TrimSpace(line[4:name])] = math.MaxUint64
		} else if n, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			hard[strings.TrimSpace(line[4:name])] = n
		}
	}
	return hard, nil
}

// raised notes in what the process may go beyond what the server's first one
// was given. Less is no drift: each process may give up what it has, and its
// children never get it back; none may take more, which needs a right that no
// server has.
func (c *configuration) raised(pid int, note func(where, detail string)) {
	now, err := hardLimits(pid)
	if err != nil {
		return // it has just ended
	}
	for name, limit := range now {
		if most, known := c.base.Limits[name]; known && limit > most {
			note(name, fmt.Sprintf("wanted no more than %s, seen %s", hardLimit(most), hardLimit(limit)))
		}
	}
}

func hardLimit(n uint64) string {
	if n == math.MaxUint64 {
		return "no limit"
	}
	return strconv.FormatUint(n, 10)
}
