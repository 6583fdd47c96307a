package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// section is one measurement's result.
type section struct {
	title string
	how   string // what was measured, for people who want to doubt it
	rows  []row
}

// row is one comparison, or one figure if there is no peer.
type row struct {
	what  string
	unit  string
	ours  float64
	peer  string
	their float64
	ratio float64
	goal  string
	met   *bool
}

// series are the figures of one side, a round each.
type series []float64

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// compare returns the row of two sides measured in the same rounds: its ratio
// is the median of the rounds' ratios. atMost > 0 is a goal for the ratio,
// atLeast > 0 likewise.
func compare(what, unit string, ours series, peer string, theirs series, atMost, atLeast float64) row {
	var ratios []float64
	for i := range min(len(ours), len(theirs)) {
		ratios = append(ratios, ours[i]/theirs[i])
	}
	r := row{what: what, unit: unit, ours: median(ours), peer: peer, their: median(theirs), ratio: median(ratios)}
	switch {
	case atMost > 0:
		r.goal, r.met = fmt.Sprintf("≤ %g", atMost), new(r.ratio <= atMost)
	case atLeast > 0:
		r.goal, r.met = fmt.Sprintf("≥ %g", atLeast), new(r.ratio >= atLeast)
	}
	return r
}

// figure returns the row of a figure without a peer; atMost is its goal.
func figure(what, unit string, ours series, atMost float64) row {
	r := row{what: what, unit: unit, ours: median(ours)}
	if atMost > 0 {
		r.goal, r.met = fmt.Sprintf("≤ %g %s", atMost, unit), new(r.ours <= atMost)
	}
	return r
}

// write writes the section as Markdown.
func (s *section) write(w io.Writer) {
	fmt.Fprintf(w, "## %s\n\n%s\n\n", s.title, s.how)
	fmt.Fprintln(w, "| what | kiln | against | figure | ratio | goal | |")
	fmt.Fprintln(w, "|---|--:|---|--:|--:|--:|---|")
	for _, r := range s.rows {
		met := ""
		if r.met != nil {
			met = map[bool]string{true: "met", false: "**missed**"}[*r.met]
		}
		peer, their, ratio := r.peer, "", ""
		if peer != "" {
			their, ratio = number(r.their)+" "+r.unit, fmt.Sprintf("%.2f", r.ratio)
		}
		fmt.Fprintf(w, "| %s | %s %s | %s | %s | %s | %s | %s |\n", r.what, number(r.ours), r.unit, peer, their, ratio, r.goal, met)
	}
	fmt.Fprintln(w)
}

// number writes three digits that count.
func number(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return fmt.Sprintf("%.2f", f)
	}
}

// document writes docs/benchmarks.md.
func document(ctx context.Context, file, load string, sections []*section) error {
	var text strings.Builder
	fmt.Fprintf(&text, `# Benchmarks

Written by `+"`make bench`"+` on %s. Every figure with a ratio was measured against its peer in the same run, the
two sides in turns; figures are medians of the rounds, ratios medians of the rounds' ratios. A machine as small
and shared as this one says little about absolute figures; the ratios are what is meant.

Machine: %d cores, %s, Linux %s; load average when the run began: %s. Peers, from Debian's packages: %s.

`, time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), memTotal(), firstWord(ctx, "uname", "-r"), load, strings.Join(peers(ctx), ", "))
	for _, s := range sections {
		s.write(&text)
	}
	if file == "-" {
		_, err := io.WriteString(os.Stdout, text.String())
		return err
	}
	return writeFile(file, strings.TrimRight(text.String(), "\n")+"\n", 0o644)
}

// peers returns the versions of what kiln is measured against.
func peers(ctx context.Context) []string {
	var all []string
	for _, p := range []string{"docker.io", "runc", "haproxy", "nginx-light", "wrk", "docker-registry"} {
		out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", p).Output()
		if err == nil {
			all = append(all, p+" "+string(out))
		}
	}
	return all
}

func firstWord(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// loadAverage is how busy the machine is, over the last minute.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg") // always there
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func memTotal() string {
	text, _ := os.ReadFile("/proc/meminfo") // always there
	for line := range strings.Lines(string(text)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "MemTotal: %f kB", &kib); n == 1 {
			return fmt.Sprintf("%.0f GiB", kib/(1<<20))
		}
	}
	return "unknown memory"
}
