package load

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Report is the account of a load.
type Report struct {
	Seconds  float64                 `json:"seconds"`
	Requests int                     `json:"requests"`
	Failed   int                     `json:"failed"`
	Excused  int                     `json:"excused"`  // failed, but longer than a drain need wait for
	Shed     int                     `json:"shed"`     // never begun: too many were in flight
	Retried  int                     `json:"retried"`  // sent again by the client, as HTTP allows
	Restarts int                     `json:"restarts"` // WebSockets that were closed with 1012
	Classes  map[string]*ClassReport `json:"classes"`
	Versions map[string]int          `json:"versions"` // answers by the version that gave them
	Failures []Failure               `json:"failures,omitempty"`
}

// Failure is one request that failed, and was not excused.
type Failure struct {
	Class  string    `json:"class"`
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended"`
	Server string    `json:"server,omitempty"` // if its answer had begun
	Error  string    `json:"error"`
}

// maxFailures bounds how many are kept; all are counted.
const maxFailures = 50_000

// ClassReport is the account of one class.
type ClassReport struct {
	Total   int            `json:"total"`
	Failed  int            `json:"failed"`
	Excused int            `json:"excused"`
	P50     float64        `json:"p50_ms"` // over the length it was meant to have
	P99     float64        `json:"p99_ms"`
	Errors  map[string]int `json:"errors,omitempty"`
}

// WriteJSON writes the report as one document.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Summary says it in one line.
func (r *Report) Summary() string {
	parts := []string{fmt.Sprintf("%d requests in %.0f s (%.0f a second), %d failed",
		r.Requests, r.Seconds, float64(r.Requests)/max(r.Seconds, 0.001), r.Failed)}
	for _, part := range []struct {
		n    int
		what string
	}{{r.Excused, "longer than the drain"}, {r.Shed, "shed"}, {r.Restarts, "WebSockets moved by 1012"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return strings.Join(parts, ", ")
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "class\trequests\tfailed\texcused\tp50 ms\tp99 ms\t")
	for _, name := range slices.Sorted(maps.Keys(r.Classes)) {
		c := r.Classes[name]
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.1f\t%.1f\t\n", name, c.Total, c.Failed, c.Excused, c.P50, c.P99)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Classes)) {
		for _, text := range slices.Sorted(maps.Keys(r.Classes[name].Errors)) {
			fmt.Fprintf(w, "  %s: %d× %s\n", name, r.Classes[name].Errors[text], text)
		}
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

// account counts while the load runs.
type account struct {
	mu     sync.Mutex
	total  Report
	delays map[string]*histogram
}

func newAccount() *account {
	return &account{
		total:  Report{Classes: map[string]*ClassReport{}, Versions: map[string]int{}},
		delays: map[string]*histogram{},
	}
}

func (a *account) shed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total.Shed++
}

func (a *account) close(after time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total.Seconds = after.Seconds()
}

// add judges a finished job.
func (a *account) add(j *job) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.total.Classes[j.class]
	if c == nil {
		c = &ClassReport{Errors: map[string]int{}}
		a.total.Classes[j.class], a.delays[j.class] = c, &histogram{}
	}
	a.total.Requests++
	c.Total++
	if j.retried {
		a.total.Retried++
	}
	if j.polite {
		a.total.Restarts++
	}
	if j.version != "" {
		a.total.Versions[j.version]++
	}
	if j.err == nil && j.allowed != nil && j.version != "" && !j.allowed[j.version] {
		j.err = fmt.Errorf("answered by version %s after the switch to another", j.version)
	}
	if j.err == nil {
		a.delays[j.class].add(j.took - j.length)
		return
	}
	c.Errors[plain(j.err)]++
	if float64(j.length) < judged*float64(j.drain) {
		c.Failed++
		a.total.Failed++
		if len(a.total.Failures) < maxFailures {
			a.total.Failures = append(a.total.Failures, Failure{
				Class: j.class, Began: j.began, Ended: time.Now(), Server: j.server, Error: plain(j.err),
			})
		}
	} else {
		c.Excused++
		a.total.Excused++
	}
}

func (a *account) report() *Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	rep := a.total
	rep.Versions = maps.Clone(a.total.Versions)
	rep.Failures = slices.Clone(a.total.Failures)
	rep.Classes = map[string]*ClassReport{}
	for name, c := range a.total.Classes {
		copied := *c
		copied.Errors = maps.Clone(c.Errors)
		copied.P50, copied.P99 = a.delays[name].quantile(0.50), a.delays[name].quantile(0.99)
		rep.Classes[name] = &copied
	}
	return &rep
}

// variable is what differs between two errors of the same kind.
var variable = regexp.MustCompile(`(\d{1,3}\.){3}\d{1,3}:\d+(->(\d{1,3}\.){3}\d{1,3}:\d+)?|(ms|bytes|events|every)=\d+`)

// plain returns an error's text without what is particular to one connection,
// so that errors can be counted by kind.
func plain(err error) string {
	text := variable.ReplaceAllString(err.Error(), "…")
	return strings.Join(strings.Fields(text[:min(len(text), 200)]), " ")
}

// histogram counts durations in steps of 4 %, from a tenth of a millisecond.
type histogram struct {
	steps [512]int
	count int
}

const (
	firstStep = 0.1 // ms
	stepRatio = 1.04
)

func (h *histogram) add(d time.Duration) {
	ms := float64(d) / float64(time.Millisecond)
	step := 0
	if ms > firstStep {
		step = int(math.Log(ms/firstStep)/math.Log(stepRatio)) + 1
	}
	h.steps[min(step, len(h.steps)-1)]++
	h.count++
}

// quantile returns the upper edge of the step that holds the quantile, in ms.
func (h *histogram) quantile(q float64) float64 {
	rest := int(math.Ceil(q * float64(h.count)))
	for i, n := range h.steps {
		if rest -= n; rest <= 0 && h.count > 0 {
			return math.Round(firstStep*math.Pow(stepRatio, float64(i))*100) / 100
		}
	}
	return 0
}
