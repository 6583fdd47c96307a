package cli

import (
	"encoding/json"

	"kiln/internal/api"
)

// evidence is the part of what was collected that is shown to people; --json
// gives all of it.
type evidence struct {
	Log []struct {
		Text string `json:"text"`
	} `json:"log"`
	Changes []struct {
		Path string `json:"path"`
		Kind string `json:"kind"`
	} `json:"changes"`
	Listening []struct {
		Network string `json:"network"`
		Address string `json:"address"`
	} `json:"listening"`
	Processes []struct {
		PID     int    `json:"pid"`
		Command string `json:"command"`
	} `json:"processes"`
}

const shownLines = 20 // of each kind of evidence, the last ones

// record prints a death record.
func (a *app) record(r *api.DeathRecord) {
	a.printf("%s  release %d of %s, image %s\n", r.Server, r.Release, r.Service, r.Image.Short())
	a.printf("  ended    %s\n  reason   %s\n", stamp(r.EndedAt), r.Reason)
	if r.Exit != nil {
		a.printf("  process  %s\n", r.Exit)
	}
	for _, m := range r.Missing {
		a.printf("  missing  %s\n", m)
	}
	var e evidence
	if len(r.Files) == 0 {
		return
	}
	if err := json.Unmarshal(r.Files, &e); err != nil {
		a.printf("  what was collected cannot be read: %s\n", err)
		return
	}
	section(a, "changed", e.Changes, func(i int) string { return e.Changes[i].Kind + " " + e.Changes[i].Path })
	section(a, "listened", e.Listening, func(i int) string { return e.Listening[i].Network + " " + e.Listening[i].Address })
	section(a, "processes", e.Processes, func(i int) string { return e.Processes[i].Command })
	section(a, "last lines", e.Log, func(i int) string { return e.Log[i].Text })
}

func section[T any](a *app, title string, items []T, text func(int) string) {
	if len(items) == 0 {
		return
	}
	a.printf("  %s\n", title)
	from := max(0, len(items)-shownLines)
	if from > 0 {
		a.printf("    … %d more with --json\n", from)
	}
	for i := from; i < len(items); i++ {
		a.printf("    %s\n", printable(text(i)))
	}
}
