package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"kiln/internal/api"
	"kiln/internal/model"
)

// printf writes a result for people.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.Stdout, format, args...) }

// progressf writes a line of progress.
func (a *app) progressf(format string, args ...any) { fmt.Fprintf(a.Stderr, format+"\n", args...) }

// colour wraps text for a terminal that wants colours.
func (a *app) colour(code, text string) string {
	if !isTerminal(a.Stderr) || a.Env("NO_COLOR") != "" || a.Env("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// view shows a deployment: on a terminal as a table that is drawn anew, else
// as one line for each thing that happens.
type view struct {
	app      *app
	service  string
	id       model.DeploymentID
	live     bool
	drawn    int // lines below which the cursor stands
	last     string
	said     map[string]string // what was said last of each server
	began    time.Time
	servers  []api.ServerStatus // as they were seen last
	failures []*api.Failure
}

func (a *app) view(service string, id model.DeploymentID) *view {
	live := isTerminal(a.Stderr) && a.Env("TERM") != "dumb" && !a.opts.json
	return &view{app: a, service: service, id: id, live: live, began: a.Now(), said: map[string]string{}}
}

// keep holds a failure to be shown at the end, once for each server.
func (v *view) keep(f *api.Failure) {
	for i, old := range v.failures {
		if old.Server == f.Server {
			v.failures[i] = f
			return
		}
	}
	v.failures = append(v.failures, f)
}

// show takes in one line of progress.
func (v *view) show(p api.Progress) {
	v.erase()
	// That a deployment waits is a message too, and is shown as its state. The
	// table tells what happens to each server.
	told := v.live && !v.app.opts.verbose
	if !told && p.Message != "" && !strings.HasPrefix(p.Message, "deployment "+string(v.id)+" is ") && v.news(p.Message) {
		v.app.progressf("%s: %s", v.service, p.Message)
	}
	state := standing(v.service, p.Phase, p.WaitingFor, p.Staging, p.Release)
	if v.live {
		if p.Message == "" {
			v.servers = p.Servers
		}
		v.draw(state)
		return
	}
	if state != v.last && state != "" && p.Phase != model.DeployEnded {
		v.app.progressf("%s: %s", v.service, state)
	}
	v.last = state
}

// news reports whether a message says something else of its server than the one
// before it.
func (v *view) news(message string) bool {
	about, _, _ := strings.Cut(message, " ")
	old := v.said[about]
	v.said[about] = message
	return old != message
}

// draw writes the table of the servers below the messages.
func (v *view) draw(state string) {
	lines := []string{v.app.colour("1", fmt.Sprintf("%s  %s  %s", v.service, state, v.app.Now().Sub(v.began).Round(100*time.Millisecond)))}
	for _, s := range v.servers {
		lines = append(lines, v.server(s))
	}
	width := v.width()
	for _, l := range lines {
		fmt.Fprintln(v.app.Stderr, clip(l, width))
	}
	v.drawn = len(lines)
}

func (v *view) server(s api.ServerStatus) string {
	mark := v.app.colour("33", "·")
	switch {
	case s.Parked:
		mark = v.app.colour("31", "✗")
	case s.InService:
		mark = v.app.colour("32", "●")
	case s.Healthy:
		mark = v.app.colour("32", "✓")
	}
	text := fmt.Sprintf("  %s %-16s release %-4d %-10s %s", mark, s.ID, s.Release, s.Phase, s.Address)
	switch {
	case s.Parked:
		text += "  " + s.Reason
	case !s.Healthy && s.Health != "":
		text += "  " + s.Health
	}
	return text
}

// erase takes the table away.
func (v *view) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.app.Stderr, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// end leaves what was drawn last.
func (v *view) end() { v.drawn = 0 }

func (v *view) width() int {
	if f, ok := v.app.Stderr.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			return w
		}
	}
	return 80
}

// clip cuts a line to a width, not counting colours.
func clip(line string, width int) string {
	var b strings.Builder
	seen, escape := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			seen++
			if seen > width {
				continue
			}
		}
		b.WriteRune(r)
	}
	return b.String()
}

// failure shows everything that helps to understand a server that did not
// become fit for traffic.
func (a *app) failure(f *api.Failure) {
	w := a.Stderr
	fmt.Fprintf(w, "\n%s: %s\n", a.colour("31;1", string(f.Server)), f.Reason)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-12s %s\n", name, value)
		}
	}
	field("last probe", f.Probe)
	field("process", f.Exit)
	if f.Exit == "" && f.Port != 0 || len(f.Listening) > 0 {
		listening := "nothing"
		if len(f.Listening) > 0 {
			listening = strings.Join(f.Listening, ", ")
		}
		if f.Port != 0 {
			listening += fmt.Sprintf("; declared is port %d", f.Port)
		}
		field("listens on", listening)
	}
	if len(f.Log) > 0 {
		fmt.Fprintln(w, "  its last lines:")
		for _, l := range f.Log {
			fmt.Fprintf(w, "    | %s\n", printable(l))
		}
	}
	field("hint", f.Hint)
	fmt.Fprintln(w)
}

// printable shows what a server wrote without letting it steer the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '�'
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
}

// buildView shows a build as one line for each step.
type buildView struct {
	app     *app
	service string
	began   time.Time
	step    string
	logs    map[string][]string
}

// keptLines is how much of each step's output is kept for a failure.
const keptLines = 100

func (v *buildView) start() {
	v.logs = map[string][]string{}
	v.app.progressf("%s: building", v.service)
}

func (v *buildView) show(e api.BuildEvent) {
	if e.Note != "" {
		v.app.progressf("%s: %s", v.service, e.Note)
	}
	if e.Step != "" {
		v.step = e.Step
	}
	for l := range strings.SplitSeq(strings.TrimRight(e.Log, "\n"), "\n") {
		if e.Log == "" {
			break
		}
		kept := append(v.logs[v.step], l)
		v.logs[v.step] = kept[max(0, len(kept)-keptLines):]
		if v.app.opts.verbose {
			v.app.progressf("    | %s", printable(l))
		}
	}
	if strings.HasPrefix(e.Step, "[internal]") && e.State != "failed" && !v.app.opts.verbose {
		return
	}
	took := ""
	if e.TookMS > 0 {
		took = " " + (time.Duration(e.TookMS) * time.Millisecond).String()
	}
	switch e.State {
	case "done", "cached":
		v.app.progressf("%s: %s %s%s", v.service, e.Step, v.app.colour("32", e.State), took)
	case "failed":
		v.app.progressf("%s: %s %s%s", v.service, e.Step, v.app.colour("31", e.State), took)
	}
}

// failed shows what the step that failed wrote, unless that was shown.
func (v *buildView) failed() {
	if v.app.opts.verbose {
		return
	}
	for _, l := range v.logs[v.step] {
		v.app.progressf("    | %s", printable(l))
	}
}

func (v *buildView) done(r *api.ImageResult) {
	v.app.progressf("%s: built %s in %s", v.service, r.Image.Short(), v.app.Now().Sub(v.began).Round(time.Millisecond))
}
