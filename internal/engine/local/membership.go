package local

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kiln/internal/model"
)

// groupsOf returns the control groups of a process by hierarchy: "" is that of
// version 2, the others are named by their controllers, as "cpu,cpuacct".
// Hierarchies that control nothing (name=systemd) are left out. The paths are
// those that cgroupDir makes: both begin where this process's namespace does.
func groupsOf(pid int) (map[string]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && !strings.HasPrefix(parts[1], "name=") {
			groups[parts[1]] = parts[2]
		}
	}
	return groups, nil
}

// group is the server's control group, in every hierarchy that has one for it.
func (c Config) group(id model.ServerID) string { return filepath.Join(c.cgroup(), string(id)) }

// groupsMade returns the hierarchies in which the runtime has put the server's
// first process into a group of its own: it does so in those that there are.
func (c Config) groupsMade(id model.ServerID, pid int) ([]string, error) {
	groups, err := groupsOf(pid)
	if err != nil {
		return nil, err
	}
	made := []string{}
	for hierarchy, group := range groups {
		if group == c.group(id) {
			made = append(made, hierarchy)
		}
	}
	slices.Sort(made)
	return made, nil
}

// processes looks at the server's processes, those that the kernel lists in its
// control group and the first one in any case: whether they are in all of the
// group's hierarchies, and what they may have. What is found is told once for
// all of them.
func (c *configuration) processes() {
	first := c.r.Process.PID
	pids := []int{first}
	for _, pid := range processesIn(c.e.cgroupDir(execController(), c.r.ID)) {
		if pid != first {
			pids = append(pids, pid)
		}
	}
	left, raised := deviations{}, deviations{}
	for _, pid := range pids {
		noteLeft, noteRaised := left.of(c, pid), raised.of(c, pid)
		c.left(pid, noteLeft)
		c.raised(pid, noteRaised)
	}
	left.tell(c, "control group left", "the control groups of its processes")
	raised.tell(c, "limit changed", "the limits of its processes")
}

// left notes the hierarchies in which the process is no longer in the server's
// control group, nor in one below.
func (c *configuration) left(pid int, note func(where, detail string)) {
	now, err := groupsOf(pid)
	if err != nil {
		return // it has just ended
	}
	want := c.e.group(c.r.ID)
	for _, hierarchy := range c.base.Groups {
		if group := now[hierarchy]; group != want && !strings.HasPrefix(group, want+"/") {
			where := hierarchy
			if where == "" {
				where = "unified"
			}
			note(where, fmt.Sprintf("wanted %s, seen %s", want, group))
		}
	}
}

// deviations are what was seen of processes, by what they deviate in.
type deviations map[string][]deviation

// deviation is one process's.
type deviation struct {
	pid    int
	detail string
}

// of returns what notes deviations of a process. It asks only then whether the
// process is one of the server's own: most deviate in nothing.
func (d deviations) of(c *configuration, pid int) func(where, detail string) {
	return func(where, detail string) {
		if c.owns(pid) {
			d[where] = append(d[where], deviation{pid, detail})
		}
	}
}

// tell adds one finding for each thing that processes deviate in.
func (d deviations) tell(c *configuration, what, how string) {
	for _, where := range slices.Sorted(maps.Keys(d)) {
		those := d[where]
		detail := fmt.Sprintf("%s: process %d (%s)", those[0].detail, those[0].pid, programOf(those[0].pid).path)
		if more := len(those) - 1; more > 0 {
			detail += fmt.Sprintf(" and %d more", more)
		}
		c.add(what, where, detail, how)
	}
}

// owns reports whether the process is one of the server's, and lives. What is
// on its way into the server, or was put there by kiln, has the groups and
// limits that it was started with; strangers are told of as such.
func (c *configuration) owns(pid int) bool {
	if ending(pid) {
		return false
	}
	if pid == c.r.Process.PID {
		return true
	}
	if descends, certain := descendsFrom(pid, c.r.Process.PID); !descends || !certain {
		return false
	}
	return !(&survey{e: c.e}).kilns(&territory{record: c.r}, pid)
}

// ending reports whether the process has begun to end: the kernel takes it out
// of its groups before it shows its end.
func ending(pid int) bool {
	const exiting = 4 // PF_EXITING
	fields, err := statFields(pid)
	if err != nil || fields[0] == "Z" || fields[0] == "X" {
		return true
	}
	var flags uint64
	_, err = fmt.Sscan(fields[6], &flags)
	return err != nil || flags&exiting != 0
}
