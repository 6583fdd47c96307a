package soak_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kiln/test/load"
)

// death is a process that was killed, from just before until it was gone.
type death struct {
	what    string   // a role
	servers []string // that ended by it
	from    time.Time
	to      time.Time
}

// margin is how far a failure and its cause may be apart: clocks are read
// before and after what happens.
const margin = 100 * time.Millisecond

// sharedMargin is for requests that share a connection: they begin on it until
// the client has read that it is dead.
const sharedMargin = time.Second

// explains reports whether a request that was under way when the process died
// may have failed by it: anything that was in the router, or with that very
// server. What begins later has no excuse, nor has anything for a death of
// another process.
func (d death) explains(f load.Failure) bool {
	late := margin
	if f.Class == "h2" {
		late = sharedMargin
	}
	if f.Ended.Before(d.from) || f.Began.After(d.to.Add(late)) {
		return false
	}
	if strings.Contains(f.Error, "dial tcp") {
		return false // somebody always holds the listening sockets
	}
	switch d.what {
	case "router":
		return true
	case "server", "shim":
		return f.Server == "" || slices.Contains(d.servers, f.Server)
	default:
		return false
	}
}

// blame counts failures by what explains them, and returns those that nothing
// does.
func blame(failures []load.Failure, deaths []death) (by map[string]int, rest []load.Failure) {
	by = map[string]int{}
	for _, f := range failures {
		i := slices.IndexFunc(deaths, func(d death) bool { return d.explains(f) })
		if i < 0 {
			rest = append(rest, f)
			continue
		}
		by[deaths[i].what]++
	}
	return by, rest
}

func TestBlame(t *testing.T) {
	at := time.Now()
	after := func(d time.Duration) time.Time { return at.Add(d) }
	deaths := []death{
		{what: "keeper", from: at, to: after(time.Millisecond)},
		{what: "router", from: after(10 * time.Second), to: after(10*time.Second + time.Millisecond)},
		{what: "server", servers: []string{"shop-aaaaaa"}, from: after(20 * time.Second), to: after(20*time.Second + time.Millisecond)},
	}
	for _, c := range []struct {
		server       string
		began, ended time.Duration
		want         string
	}{
		{"", 0, time.Millisecond, ""}, // the keeper excuses nothing
		{"", 9 * time.Second, 11 * time.Second, "router"},
		{"shop-bbbbbb", 9 * time.Second, 11 * time.Second, "router"},
		{"", 11 * time.Second, 12 * time.Second, ""}, // it began when the router was gone
		{"", 8 * time.Second, 9 * time.Second, ""},
		{"shop-aaaaaa", 19 * time.Second, 21 * time.Second, "server"},
		{"shop-bbbbbb", 19 * time.Second, 21 * time.Second, ""}, // another server
		{"", 19 * time.Second, 21 * time.Second, "server"},
	} {
		by, rest := blame([]load.Failure{{Server: c.server, Began: after(c.began), Ended: after(c.ended)}}, deaths)
		if got := fmt.Sprint(by, len(rest)); c.want == "" && got != "map[] 1" || c.want != "" && by[c.want] != 1 {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
