package spec

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// Position is a place in the declaration. Lines and columns count from 1;
// columns count characters.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Width  int    `json:"width"` // characters that are meant, at least 1, on this line
}

// String returns FILE:LINE:COLUMN.
func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Diagnostic is one thing that is wrong with a declaration.
type Diagnostic struct {
	Position
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`    // what was probably meant, or what to write
	Source  string `json:"source"`            // the line it is about
	Warning bool   `json:"warning,omitempty"` // it may stay as it is
}

// String shows the diagnostic with its source line and a caret below it.
func (d Diagnostic) String() string {
	var b strings.Builder
	kind := ""
	if d.Warning {
		kind = "warning: "
	}
	fmt.Fprintf(&b, "%s: %s%s\n", d.Position, kind, d.Message)
	number := fmt.Sprintf("%5d", d.Line)
	fmt.Fprintf(&b, "%s | %s\n", number, d.Source)
	fmt.Fprintf(&b, "%s | %s%s\n", strings.Repeat(" ", len(number)), caretIndent(d.Source, d.Column), strings.Repeat("^", max(1, d.Width)))
	if d.Hint != "" {
		fmt.Fprintf(&b, "%s   %s\n", strings.Repeat(" ", len(number)), d.Hint)
	}
	return b.String()
}

// caretIndent returns what brings a caret below the column: tabs stay tabs, so
// that it fits however wide a terminal makes them.
func caretIndent(line string, column int) string {
	var b strings.Builder
	for _, r := range line {
		if column <= 1 {
			break
		}
		column--
		if r == '\t' {
			b.WriteRune('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	for ; column > 1; column-- {
		b.WriteByte(' ')
	}
	return b.String()
}

// Diagnostics are all that is wrong, in the order of the file. None means that
// the declaration is good.
type Diagnostics []Diagnostic

// Error implements error: every diagnostic in full.
func (ds Diagnostics) Error() string {
	parts := make([]string, len(ds))
	for i, d := range ds {
		parts[i] = d.String()
	}
	return strings.Join(parts, "\n")
}

// sorted orders them by place. What is found in each environment is said once.
func (ds Diagnostics) sorted() Diagnostics {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		if a.Column != b.Column {
			return a.Column - b.Column
		}
		return strings.Compare(a.Message, b.Message)
	})
	return slices.Compact(ds)
}

// source is the text that diagnostics point into.
type source struct {
	name  string
	lines []string
}

func newSource(name string, src []byte) *source {
	return &source{name: name, lines: strings.Split(strings.ReplaceAll(string(src), "\r\n", "\n"), "\n")}
}

// position maps a range of the HCL library to a place of the file.
func (s *source) position(r hcl.Range) Position {
	p := Position{File: s.name, Line: min(max(1, r.Start.Line), len(s.lines)), Column: max(1, r.Start.Column), Width: 1}
	length := utf8.RuneCountInString(s.lines[p.Line-1])
	switch {
	case r.End.Line == r.Start.Line && r.End.Column > r.Start.Column:
		p.Width = r.End.Column - r.Start.Column
	case r.End.Line > r.Start.Line:
		p.Width = length - p.Column + 1
	}
	p.Width = max(1, min(p.Width, length-p.Column+1))
	return p
}

// diagnose makes a diagnostic that shows the line it is about.
func (s *source) diagnose(p Position, hint, format string, args ...any) Diagnostic {
	return Diagnostic{Position: p, Message: fmt.Sprintf(format, args...), Hint: hint, Source: strings.ToValidUTF8(s.lines[p.Line-1], "�")}
}

// fromHCL translates what the HCL library found.
func (s *source) fromHCL(in hcl.Diagnostics) Diagnostics {
	var out Diagnostics
	for _, d := range in {
		if d.Severity != hcl.DiagError {
			continue
		}
		at := hcl.Range{Start: hcl.InitialPos, End: hcl.InitialPos}
		if d.Subject != nil {
			at = *d.Subject
		}
		text := strings.ToLower(d.Summary[:min(1, len(d.Summary))]) + d.Summary[min(1, len(d.Summary)):]
		out = append(out, s.diagnose(s.position(at), d.Detail, "%s", text))
	}
	return out
}
