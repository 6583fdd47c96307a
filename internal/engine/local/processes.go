package local

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/internal/engine"
)

// processes lists the processes of a control group as the server sees them.
func processes(group string) []engine.Process {
	var found []engine.Process
	inside := map[int]int{} // numbers as the host sees them to those of the server
	parents := map[int]int{}
	boot := bootTime()
	for _, pid := range processesIn(group) {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		status, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || err2 != nil {
			continue // it has just ended
		}
		p := engine.Process{Command: strings.TrimSpace(strings.ReplaceAll(string(command[:min(len(command), evidenceCommand)]), "\x00", " "))}
		parent := describe(&p, string(status))
		if start, _, err := processStat(pid); err == nil && !boot.IsZero() {
			p.Started = boot.Add(time.Duration(start) * time.Second / ticksPerSecond).UTC().Truncate(time.Millisecond)
		}
		inside[pid], parents[p.PID] = p.PID, parent
		found = append(found, p)
	}
	for i := range found {
		found[i].Parent = inside[parents[found[i].PID]]
	}
	slices.SortFunc(found, func(a, b engine.Process) int { return cmp.Compare(a.PID, b.PID) })
	return found
}

// ticksPerSecond is what the kernel tells programs, whatever it counts with.
const ticksPerSecond = 100

// describe fills in what /proc/PID/status says, and returns the parent's number
// as the host sees it.
func describe(p *engine.Process, status string) (parent int) {
	number := func(words []string, i int) int {
		if i >= len(words) {
			return 0
		}
		n, _ := strconv.Atoi(words[i])
		return n
	}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		words := strings.Fields(value)
		switch key {
		case "NSpid":
			p.PID = number(words, len(words)-1) // in its innermost namespace
		case "PPid":
			parent = number(words, 0)
		case "State":
			p.State = strings.TrimSpace(value)
		case "Uid":
			p.User = uint32(number(words, 0))
		case "VmRSS":
			p.Memory = int64(number(words, 0)) << 10
		case "Threads":
			p.Threads = number(words, 0)
		case "Name":
			if p.Command == "" { // as of one that has ended and was not waited for
				p.Command = "[" + strings.TrimSpace(value) + "]"
			}
		}
	}
	return parent
}

// bootTime returns when the machine was started; zero where it does not say.
func bootTime() time.Time {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	if seconds := keyed(b, "btime"); seconds > 0 {
		return time.Unix(seconds, 0)
	}
	return time.Time{}
}
