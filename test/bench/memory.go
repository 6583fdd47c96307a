package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// memory measures what each process of kiln uses at rest, and what a server
// costs beside its own program.
func memory(ctx context.Context, b *bench) (*section, error) {
	if err := b.twoReleases(ctx, 3, "0s"); err != nil {
		return nil, err
	}
	time.Sleep(10 * time.Second) // at rest
	all, err := b.kiln.Processes()
	if err != nil {
		return nil, err
	}
	used := map[string]series{}
	for _, p := range all {
		mib, err := pss(p.PID)
		if err != nil {
			continue // it has ended meanwhile
		}
		used[p.Role] = append(used[p.Role], mib)
	}
	s := &section{
		title: "Memory at rest",
		how: "Proportional set size (what a process would free by ending) with three servers of examples/shop running and no traffic. " +
			"A shim runs for each server; the builder runs only when something is built.",
	}
	for _, role := range slices.Sorted(maps.Keys(used)) {
		what := "the " + role
		if n := len(used[role]); n > 1 {
			what = fmt.Sprintf("each %s (%d)", role, n)
		}
		s.rows = append(s.rows, figure(what, "MiB", used[role], 0))
	}
	return s, b.clear(ctx)
}

// pss returns a process's proportional set size in MiB.
func pss(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kib); n == 1 {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("no Pss of process %d", pid)
}
