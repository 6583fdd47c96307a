package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiln/internal/audit"
	"kiln/internal/model"
)

func (a *app) historyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history SERVICE", Short: "The line of a service's images: what came from what, and what served when",
		Long: `Shows every image that was built for the service or that a release of it had, the newest first:
from which commit, by whom and why it was built, which image it goes on from, and which
releases of it served when. Images that were removed since are in it, too.`,
		Example: "  kiln images history shop\n  kiln images history shop --json",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			var h audit.History
			if err := a.api().ImageHistory(ctx, args[0], &h); err != nil {
				return err
			}
			if a.opts.json {
				return a.document(h)
			}
			a.showHistory(h)
			return nil
		}),
	}
}

// showHistory draws the line: an image, and beside it the lanes of those that are
// still to come.
func (a *app) showHistory(h audit.History) {
	if len(h.Images) == 0 {
		a.printf("%s has no images yet\n", h.Service)
		return
	}
	g := &graph{}
	for _, x := range h.Images {
		for _, line := range g.join(x.Digest) {
			a.printf("%s\n", line)
		}
		head := fmt.Sprintf("%s  %s  %s  %s", x.Digest.Short(), stamp(x.At), commitText(x.Commit, x.Dirty), printable(strings.TrimSuffix(x.Author+": "+x.Reason, ": ")))
		drawn := g.image(x.Digest, x.From)
		a.printf("%s%s\n", drawn, strings.TrimRight(head, " "))
		for _, note := range notesOf(x) {
			a.printf("%-*s  %s\n", len(drawn), g.beside(), printable(note))
		}
	}
}

// notesOf says what else is to be said of an image.
func notesOf(x audit.Ancestor) []string {
	var notes []string
	if x.Source != "build" {
		notes = append(notes, "source: "+x.Source)
	}
	switch {
	case x.How == model.ByCheckout:
		notes = append(notes, "its source was taken out of "+x.From.Short())
	case x.Branch:
		notes = append(notes, "a branch from "+x.From.Short())
	}
	if bad := x.Rejected(); bad != "" {
		notes = append(notes, bad+", "+stamp(x.Rejection.At))
	}
	if !x.RemovedAt.IsZero() {
		notes = append(notes, "removed "+stamp(x.RemovedAt))
	}
	for _, r := range slices.Backward(x.Releases) {
		notes = append(notes, servingInWords(r))
	}
	if len(x.Releases) == 0 && x.RemovedAt.IsZero() {
		notes = append(notes, "no release has it")
	}
	return notes
}

// servingInWords says when a release served.
func servingInWords(r audit.Serving) string {
	text := fmt.Sprintf("release %d of %s", r.Number, r.Service)
	if r.Environment != "" {
		text = fmt.Sprintf("release %d of %s in %s", r.Number, r.Declared, r.Environment)
	}
	if r.Rollback != 0 {
		text += fmt.Sprintf(" (rollback to %d)", r.Rollback)
	}
	if r.Promoted != nil {
		text += fmt.Sprintf(" (promoted from %s)", r.Promoted.Environment)
	}
	if len(r.Served) == 0 {
		verdict := string(r.Verdict)
		if verdict == "" {
			verdict = "its deployment is under way"
		}
		return text + ": did not serve, " + verdict
	}
	var spans []string
	for _, s := range r.Served {
		spans = append(spans, spanInWords(s.From, s.To))
	}
	return text + ": served " + strings.Join(spans, ", ")
}

func spanInWords(from, to time.Time) string {
	if to.IsZero() {
		return "since " + stamp(from)
	}
	until := stamp(to)
	if from.UTC().Format(time.DateOnly) == to.UTC().Format(time.DateOnly) {
		until = to.UTC().Format(time.TimeOnly)
	}
	return stamp(from) + " – " + until
}

// graph draws which image goes on from which, the newest first. A lane is what a
// newer image waits for.
type graph struct {
	lanes []model.Digest // "": an end, which is free
}

// join returns the lines that bring the lanes which wait for an image together.
func (g *graph) join(d model.Digest) []string {
	first := slices.Index(g.lanes, d)
	if first < 0 {
		return nil
	}
	var lines []string
	for i := len(g.lanes) - 1; i > first; i-- {
		if g.lanes[i] != d {
			continue
		}
		cells := []byte(g.beside())
		for k := 2*first + 1; k < 2*i; k++ {
			if cells[k] == ' ' && k < 2*i-1 && first+1 < i {
				cells[k] = '_'
			}
		}
		cells[2*i-1], cells[2*i] = '/', ' '
		lines = append(lines, strings.TrimRight(string(cells), " "))
		g.lanes[i] = ""
		g.trim()
	}
	return lines
}

// image draws an image, and notes what its lane waits for from here on.
func (g *graph) image(d, from model.Digest) string {
	at := slices.Index(g.lanes, d)
	if at < 0 {
		if at = slices.Index(g.lanes, ""); at < 0 {
			at, g.lanes = len(g.lanes), append(g.lanes, "")
		}
	}
	g.lanes[at] = d
	cells := []byte(g.beside())
	cells[2*at] = '*'
	g.lanes[at] = from
	g.trim()
	return string(cells)
}

// beside draws the lanes beside a text.
func (g *graph) beside() string {
	var b strings.Builder
	for _, d := range g.lanes {
		if d == "" {
			b.WriteString("  ")
		} else {
			b.WriteString("| ")
		}
	}
	if len(g.lanes) == 0 {
		b.WriteString("  ")
	}
	return b.String()
}

func (g *graph) trim() {
	for n := len(g.lanes); n > 0 && g.lanes[n-1] == ""; n-- {
		g.lanes = g.lanes[:n-1]
	}
}
