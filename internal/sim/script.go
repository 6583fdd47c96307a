package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// op is one line of a script: let time pass, then do something.
type op struct {
	after time.Duration
	verb  string
	n     uint64 // what it is done to, and how
}

// nothing is the verb of an operation that only lets time pass.
const nothing = "nothing"

// Script is what happens in a run, besides what follows from it.
type Script []op

// String prints one operation a line.
func (s Script) String() string {
	var b strings.Builder
	for _, o := range s {
		fmt.Fprintf(&b, "+%-8s %s #%x\n", o.after.Round(time.Millisecond), o.verb, o.n)
	}
	return b.String()
}

// ParseScript reads what String prints. Empty lines and those that begin with
// "//" say nothing.
func ParseScript(text string) (Script, error) {
	var s Script
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		after, rest, _ := strings.Cut(line, " ")
		verb, number, _ := strings.Cut(rest, "#")
		d, err := time.ParseDuration(strings.TrimPrefix(after, "+"))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		n, err := strconv.ParseUint(number, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		s = append(s, op{after: d, verb: strings.TrimSpace(verb), n: n})
	}
	return s, nil
}

// verb is something that can happen in a run.
type verb struct {
	name   string
	weight int
	staged bool   // it belongs to deployments in stages, and comes more often in a run that is about them
	fault  string // the kind of fault that it is; "": none, or counted when it is met
	do     func(w *world, n uint64) bool
}

// weightIn returns how often the verb is drawn in a run, against others.
func (v verb) weightIn(stages bool) int {
	if v.staged && stages {
		return 8 * v.weight
	}
	return v.weight
}

// verbs lists everything that can happen: commands, and faults. Faults of calls
// are armed, and count when a call meets them.
func verbs() []verb {
	list := slicesConcat(commandVerbs(), upkeepVerbs(), accidentVerbs())
	arm := func(call string, faults []string, weight int) {
		for _, f := range faults {
			list = append(list, verb{name: "arm " + f, weight: weight, do: func(w *world, n uint64) bool {
				// A fault that no call meets soon would hit a calm time long after.
				for range 1 + n%3 {
					w.arm(call, f)
				}
				return true
			}})
		}
	}
	for _, call := range []string{"prepare", "provision", "stop", "collect", "destroy"} {
		arm(call, engineFaults[call], 2)
	}
	for _, call := range []string{"disturb", "calm"} { // called less often
		arm(call, engineFaults[call], 5)
	}
	arm("router", routerFaults, 3)
	arm("validate", validationFaults, 2)
	arm("record", recorderFaults, 2)
	arm("append", []string{"append fails"}, 3)
	arm("appended", []string{"append lies"}, 2)
	return list
}

func slicesConcat(lists ...[]verb) []verb {
	var all []verb
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// faults lists every kind of fault.
func faults() []string {
	list := []string{"daemon wakes late"}
	for _, v := range verbs() {
		switch {
		case v.fault != "":
			list = append(list, v.fault)
		case strings.HasPrefix(v.name, "arm "):
			list = append(list, strings.TrimPrefix(v.name, "arm "))
		}
	}
	return list
}

// playbook is verbs with what is needed to draw from them.
type playbook struct {
	verbs  []verb
	byName map[string]verb
}

func newPlaybook() *playbook {
	p := &playbook{verbs: verbs(), byName: map[string]verb{}}
	for _, v := range p.verbs {
		p.byName[v.name] = v
	}
	return p
}

func (v verb) isFault() bool { return v.fault != "" || strings.HasPrefix(v.name, "arm ") }

// draw chooses a command or a fault.
func (p *playbook) draw(r *rand.Rand, faults, stages bool) string {
	total := 0
	for _, v := range p.verbs {
		if v.isFault() == faults {
			total += v.weightIn(stages)
		}
	}
	at := r.IntN(total)
	for _, v := range p.verbs {
		if v.isFault() != faults {
			continue
		}
		if at -= v.weightIn(stages); at < 0 {
			return v.name
		}
	}
	return nothing
}

// newScript draws a script of so many operations. Some runs are stormy, some
// calm; one of four is about deployments in stages.
func (p *playbook) newScript(seed uint64, length int) Script {
	r := rand.New(rand.NewPCG(seed, 0x6b696c6e))
	storm, stages, commands := []float64{0.03, 0.12, 0.3}[r.IntN(3)], r.IntN(4) == 0, 0.2
	if stages {
		commands = 0.5 // a stage is soon over
	}
	script := make(Script, length)
	for i := range script {
		o := op{verb: nothing, n: r.Uint64()}
		switch x := r.Float64(); {
		case i < 2: // something good is declared from the start
			o.verb, o.n = "deploy", o.n&(1<<44-1)&^0xff|uint64(i)<<44
		case x < storm:
			o.verb = p.draw(r, true, stages)
		case x < storm+commands:
			o.verb = p.draw(r, false, stages)
		}
		o.after = pauseOf(r)
		script[i] = o
	}
	return script
}

// pauseOf draws the time before an operation: mostly short, so that things
// happen in the midst of others; at times long enough for every timer.
func pauseOf(r *rand.Rand) time.Duration {
	between := func(low, high time.Duration) time.Duration { return low + time.Duration(r.Int64N(int64(high-low))) }
	switch x := r.IntN(100); {
	case x < 45:
		return between(0, time.Second)
	case x < 80:
		return between(time.Second, 5*time.Second)
	case x < 95:
		return between(5*time.Second, 40*time.Second)
	case x < 99:
		return between(time.Minute, 4*time.Minute)
	default:
		return between(15*time.Minute, 20*time.Minute)
	}
}
