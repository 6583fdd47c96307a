// Package soak_test runs a shop under a mixed load for as long as it takes to
// deploy, roll back and kill many times, and wants not one request to fail
// that no SIGKILL of the router or of the very server has cut.
package soak_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"kiln/test/load"
)

var (
	rate      = flag.Float64("rate", 2000, "requests per second")
	deploys   = flag.Int("deploys", 100, "deploys under load, over the strategies in turn")
	rollbacks = flag.Int("rollbacks", 40, "rollbacks under load, half of them warm")
	ends      = flag.Int("ends", 30, "processes killed in the second part of the soak")
	kills     = flag.Int("kills", 200, "times that the daemon is killed in a deploy")
	pairs     = flag.Int("pairs", 50, "times that two processes are killed at once")
	many      = flag.Int("many", 200, "servers at once")
	seed      = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the moments chosen")
	account   = flag.String("account", "", "write the soak's account to this file, as JSON")
)

// drain is what the declaration gives and what failures are judged by.
const drain = 10 * time.Second

// soakAccount is what a soak has to show.
type soakAccount struct {
	Seed      uint64         `json:"seed"`
	Seconds   float64        `json:"seconds"`
	Deploys   map[string]int `json:"deploys"` // by strategy
	Again     int            `json:"again"`   // begun anew, as a kill had cut their build or their daemon
	Rollbacks map[string]int `json:"rollbacks"`
	Killed    map[string]int `json:"killed"` // in the first part, whose requests must not fail
	Ended     map[string]int `json:"ended"`  // in the second
	Cut       map[string]int `json:"cut"`    // requests that a kill of the second part explains
	Failed    []load.Failure `json:"failed"` // that nothing explains
	First     *load.Report   `json:"first"`  // part
	Second    *load.Report   `json:"second"` //
}

func newAccount() *soakAccount {
	return &soakAccount{
		Seed: *seed, Deploys: map[string]int{}, Rollbacks: map[string]int{}, Killed: map[string]int{},
		Ended: map[string]int{}, Cut: map[string]int{},
	}
}

// TestSoak is two parts under one kind of load. In the first, deploys and
// rollbacks while daemon and builder are killed: no request fails. In the
// second everything is killed, and each failure has to have its cause.
func TestSoak(t *testing.T) {
	s := open(t, drain.String(), "3s", *rate)
	a, began := newAccount(), time.Now()
	s.deployAndRollBack(a)
	a.First = s.load.Stop()
	writeTable(t, a.First) // it stands, whatever becomes of the second part
	s.begins(*rate)
	a.Cut, a.Failed = s.killEverything(a)
	a.Seconds = time.Since(began).Seconds()
	a.Failed = append(slices.Clone(a.First.Failures), a.Failed...)
	a.write(t)
	for i, f := range a.Failed[:min(20, len(a.Failed))] {
		t.Errorf("failure %d of %d that no kill explains: %s, %s after it began: %s (%s)", i+1, len(a.Failed), f.Class,
			f.Ended.Sub(f.Began).Truncate(time.Millisecond), f.Error, f.Began.Format("15:04:05.000"))
	}
	for part, rep := range map[string]*load.Report{"first": a.First, "second": a.Second} {
		if begun := float64(rep.Requests) / rep.Seconds; begun < *rate*0.9 {
			t.Errorf("the load of the %s part ran at %.0f requests a second, not %.0f", part, begun, *rate)
		}
	}
}

func (s *shop) deployAndRollBack(a *soakAccount) {
	s.Helper()
	rolled := 0
	for n := range *deploys {
		s.disturbed(a, func() { s.deployAgain(a, inTurn(n)) })
		a.Deploys[inTurn(n)]++
		if rolled < *rollbacks && (n+1)**rollbacks/(*deploys) > rolled {
			kind := []string{"cold", "warm"}[rolled%2]
			if kind == "cold" {
				s.until(time.Minute, "cold", status.idle) // the warm set is gone
			}
			s.rollback()
			a.Rollbacks[kind]++
			rolled++
		}
	}
}

// deployAgain deploys until it succeeds: a killed daemon or builder may end a
// build, never more.
func (s *shop) deployAgain(a *soakAccount, strategy string) {
	s.Helper()
	version := otherThan(s.version)
	s.choose(version, strategy)
	s.allow(version)
	began := time.Now()
	for attempt := 1; ; attempt++ {
		r := s.run("deploy", "-f", s.file(), "-m", "version "+version)
		if !r.bad() {
			break
		}
		if attempt == 4 {
			s.Fatalf("deploy (%s): %s", strategy, r)
		}
		s.Logf("%-10s %s again: %s", "deploy", strategy, r)
		a.Again++
		s.until(2*time.Minute, "settled", func(st status) bool { return st.Deployment == nil })
	}
	s.Logf("%-10s %s to version %s in %.1f s", "deploy", strategy, version, time.Since(began).Seconds())
	s.serves(version)
}

// disturbed does something, and most times kills daemon or builder, or hands
// the router over to a new process, at a random moment of it.
func (s *shop) disturbed(a *soakAccount, do func()) {
	s.Helper()
	done := make(chan error, 1)
	what := []string{"", "daemon", "builder", "hand-over"}[s.rng.IntN(4)]
	after := time.Duration(s.rng.Int64N(int64(4 * time.Second)))
	go func() {
		time.Sleep(after)
		switch what {
		case "daemon":
			if err := s.kiln.Kill(); err != nil {
				done <- err
				return
			}
			done <- s.kiln.Start(s.Context())
		case "hand-over":
			done <- s.handOver()
		case "builder":
			_ = s.kiln.Signal("builder", syscall.SIGKILL) // none may run
			done <- nil
		default:
			done <- nil
		}
	}()
	do()
	s.must(<-done)
	if what != "" {
		a.Killed[what]++
	}
}

// handOver has the daemon hand the router over, and returns when another
// process serves.
func (s *shop) handOver() error {
	before, err := s.kiln.PIDs("router")
	if err != nil {
		return err
	}
	if err := s.kiln.Signal("daemon", syscall.SIGHUP); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		now, err := s.kiln.PIDs("router")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(now, func(pid int) bool { return !slices.Contains(before, pid) }) {
			return nil
		}
	}
	return errors.New("the router was not handed over within a minute")
}

// killEverything kills processes one by one, half of the time in a deploy.
func (s *shop) killEverything(a *soakAccount) (cut map[string]int, rest []load.Failure) {
	s.Helper()
	roles := []string{"router", "server", "keeper", "shim", "containerd", "daemon"}
	var deaths []death
	for n := range *ends {
		role := roles[n%len(roles)]
		before, target, wait := s.stands(), s.version, func() {}
		if n%2 == 0 {
			target, wait = s.begin(n / 2)
			time.Sleep(time.Duration(s.rng.Int64N(int64(3 * time.Second))))
		}
		d, err := s.kill(role)
		s.must(err)
		deaths = append(deaths, d)
		a.Ended[role]++
		if role == "daemon" {
			s.must(s.kiln.Start(s.Context()))
		}
		wait()
		s.until(2*time.Minute, "settled after the end of "+role, status.settled)
		if err := s.truth(before, target); err != nil {
			s.Fatalf("after the end of %s: %v", role, err)
		}
		s.version = s.served()
		s.Logf("killed %s %v: version %s serves", role, d.servers, s.version)
	}
	a.Second = s.load.Stop()
	s.load = nil
	return blame(a.Second.Failures, deaths)
}

func writeTable(t *testing.T, rep *load.Report) {
	t.Helper()
	if err := rep.WriteTable(t.Output()); err != nil {
		t.Error(err)
	}
}

// write prints the account, and keeps it as JSON where that is asked for.
func (a *soakAccount) write(t *testing.T) {
	t.Helper()
	writeTable(t, a.Second)
	w := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', 0)
	line := func(what string, counts map[string]int) {
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(w, "%s\t%s\t%d\n", what, name, counts[name])
		}
	}
	fmt.Fprintf(w, "soak\tseed\t%d\nsoak\tseconds\t%.0f\n", a.Seed, a.Seconds)
	line("deploys", a.Deploys)
	fmt.Fprintf(w, "deploys\tbegun again after a kill\t%d\n", a.Again)
	line("rollbacks", a.Rollbacks)
	line("first part: killed or handed over", a.Killed)
	fmt.Fprintf(w, "first part: requests\tall\t%d\nfirst part: requests\tfailed\t%d\n", a.First.Requests, a.First.Failed)
	line("second part: killed", a.Ended)
	fmt.Fprintf(w, "second part: requests\tall\t%d\n", a.Second.Requests)
	line("second part: cut by the end of", a.Cut)
	fmt.Fprintf(w, "both parts: requests\tfailed without a cause\t%d\n", len(a.Failed))
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	if *account == "" {
		return
	}
	b, err := json.MarshalIndent(a, "", "  ")
	if err == nil {
		err = os.WriteFile(*account, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestNoDrainIsSeen shows that the judgement can fail.
func TestNoDrainIsSeen(t *testing.T) {
	s := open(t, "0s", "0s", min(*rate, 500))
	for n := range 3 {
		s.deploy(otherThan(s.version), inTurn(n))
	}
	rep := s.load.Stop()
	s.load = nil
	s.must(rep.WriteTable(s.Output()))
	if rep.Failed == 0 {
		t.Error("without a drain, no failure was seen")
	}
}
