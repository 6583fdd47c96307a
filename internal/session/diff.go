package session

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a text that is compared line by line.
const (
	diffBytes = 1 << 20
	diffEdits = 2000 // lines that differ; what differs more is shown as replaced whole
	around    = 3    // lines that are shown around a change
)

// isText reports whether the content can be shown as lines.
func isText(b []byte) bool {
	return len(b) <= diffBytes && utf8.Valid(b) && !bytes.ContainsRune(b, 0)
}

// edit is a run of lines that are in both texts ('='), the old ('-') or the new
// ('+').
type edit struct {
	op   byte
	line string
}

// unified returns the difference of two texts as a unified diff, "" if they are
// the same.
func unified(oldName, newName, before, after string) string {
	if before == after {
		return ""
	}
	edits := compare(lines(before), lines(after))
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", oldName, newName)
	for from, to := hunk(edits, 0); to > from; from, to = hunk(edits, to) {
		writeHunk(&out, edits, from, to)
	}
	return out.String()
}

// lines splits a text into lines with their ends.
func lines(s string) []string {
	all := strings.SplitAfter(s, "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return all
}

// hunk returns the next changes from at on that stand so close together that
// what is shown around them touches, with that; an empty run where there are none.
func hunk(edits []edit, at int) (from, to int) {
	first, last := -1, -1
	for i := at; i < len(edits) && (last < 0 || i-last <= 2*around); i++ {
		if edits[i].op == '=' {
			continue
		}
		if last = i; first < 0 {
			first = i
		}
	}
	if first < 0 {
		return 0, 0
	}
	return max(at, first-around), min(len(edits), last+1+around)
}

func writeHunk(out *strings.Builder, edits []edit, from, to int) {
	oldLine, newLine := count(edits[:from], '+')+1, count(edits[:from], '-')+1
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(oldLine, count(edits[from:to], '+')), span(newLine, count(edits[from:to], '-')))
	for _, e := range edits[from:to] {
		mark := e.op
		if mark == '=' {
			mark = ' '
		}
		out.WriteByte(mark)
		out.WriteString(e.line)
		if !strings.HasSuffix(e.line, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// count counts the edits that are not of one kind.
func count(edits []edit, without byte) int {
	n := 0
	for _, e := range edits {
		if e.op != without {
			n++
		}
	}
	return n
}

func span(line, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", line-1)
	case 1:
		return strconv.Itoa(line)
	default:
		return fmt.Sprintf("%d,%d", line, n)
	}
}

// compare returns the edits that make b of a: the fewest, as Myers finds them.
func compare(a, b []string) []edit {
	var edits []edit
	begin := 0
	for begin < len(a) && begin < len(b) && a[begin] == b[begin] {
		edits = append(edits, edit{'=', a[begin]})
		begin++
	}
	end := 0
	for end < len(a)-begin && end < len(b)-begin && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	edits = append(edits, myers(a[begin:len(a)-end], b[begin:len(b)-end])...)
	for _, line := range a[len(a)-end:] {
		edits = append(edits, edit{'=', line})
	}
	return edits
}

// myers finds the shortest way through the grid of both texts, diagonal by
// diagonal. trace[d] is how far each diagonal is reached with d edits.
func myers(a, b []string) []edit {
	most := min(len(a)+len(b), diffEdits)
	reach := make([]int, 2*most+3)
	at := func(k int) int { return k + most + 1 }
	var trace [][]int
	for d := 0; d <= most; d++ {
		for k := -d; k <= d; k += 2 {
			x := reach[at(k-1)] + 1
			if k == -d || (k != d && reach[at(k-1)] < reach[at(k+1)]) {
				x = reach[at(k+1)]
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			reach[at(k)] = x
			if x >= len(a) && x-k >= len(b) {
				return walkBack(a, b, append(trace, nil), at)
			}
		}
		trace = append(trace, slices.Clone(reach))
	}
	edits := make([]edit, 0, len(a)+len(b))
	for _, line := range a {
		edits = append(edits, edit{'-', line})
	}
	for _, line := range b {
		edits = append(edits, edit{'+', line})
	}
	return edits
}

// walkBack goes the way that was found from its end.
func walkBack(a, b []string, trace [][]int, at func(int) int) []edit {
	var edits []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d > 0; d-- {
		before, k := trace[d-1], x-y
		from := k - 1
		if k == -d || (k != d && before[at(k-1)] < before[at(k+1)]) {
			from = k + 1
		}
		startX := before[at(from)] // after the edit, before the lines that are the same
		if from == k-1 {
			startX++
		}
		for x > startX {
			x, y = x-1, y-1
			edits = append(edits, edit{'=', a[x]})
		}
		if from == k+1 {
			y--
			edits = append(edits, edit{'+', b[y]})
		} else {
			x--
			edits = append(edits, edit{'-', a[x]})
		}
	}
	for x > 0 && y > 0 {
		x, y = x-1, y-1
		edits = append(edits, edit{'=', a[x]})
	}
	slices.Reverse(edits)
	return edits
}
