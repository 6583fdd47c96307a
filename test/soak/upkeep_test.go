package soak_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
)

var upkeep = flag.Duration("upkeep", 15*time.Minute, "how long servers are recycled, disturbed and deployed under load")

// What the shop declares beside the usual in TestUpkeep: every server lives for
// a minute at most.
const recycled = `
  lifetime {
    max_age = "1m"
    jitter  = "50%"
  }
`

// struckFor is how long after a disturbance requests to its server may fail:
// fails × (interval + timeout) of the shop's health check.
const struckFor = 3 * (200*time.Millisecond + time.Second)

// TestUpkeep recycles every server each minute, disturbs one every 20 s and
// deploys every two minutes, under load. Only requests to a disturbed server
// may fail, and only right after the disturbance. Every server that ends leaves
// a death record.
func TestUpkeep(t *testing.T) {
	s := open(t, drain.String(), "3s", *rate)
	s.extra = recycled
	end := time.Now().Add(*upkeep)
	strategy, refused := 0, 0
	s.deploy(otherThan(s.version), inTurn(0))
	nextDeploy := time.Now().Add(2 * time.Minute)
	for n := 0; time.Now().Before(end); n++ {
		next := time.Now().Add(20 * time.Second)
		kind := model.ChaosKinds()[n%len(model.ChaosKinds())]
		if _, err := s.kiln.Run(s.Context(), "chaos", "run", "shop", "--kind", string(kind), "--lasts", "8s"); err != nil {
			if failed, ok := errors.AsType[*exec.ExitError](err); !ok || failed.ExitCode() == 1 {
				t.Logf("%s: %v", kind, err)
			}
			refused++
		}
		if time.Now().After(nextDeploy) {
			strategy++
			s.deploy(otherThan(s.version), inTurn(strategy))
			nextDeploy = nextDeploy.Add(2 * time.Minute)
		}
		time.Sleep(time.Until(next))
	}
	s.extra = ""
	s.deploy(otherThan(s.version), "blue-green")
	s.until(2*time.Minute, "settled", status.idle)
	experiments := s.experiments()
	deaths := disturbances(experiments)
	rep := s.load.Stop()
	s.load = nil
	s.must(rep.WriteTable(t.Output()))
	cut, rest := blame(rep.Failures, deaths)
	for i, f := range rest[:min(20, len(rest))] {
		t.Errorf("failure %d of %d that no disturbance explains: %s of %q, %s after it began at %s: %s", i+1, len(rest), f.Class, f.Server,
			f.Ended.Sub(f.Began).Truncate(time.Millisecond), f.Began.Format("15:04:05.000"), f.Error)
	}
	if begun := float64(rep.Requests) / rep.Seconds; begun < *rate*0.9 {
		t.Errorf("the load ran at %.0f requests a second, not %.0f", begun, *rate)
	}
	records := s.records()
	if minutes := int(upkeep.Minutes()); records.recycled < 2*minutes || len(experiments) < minutes {
		t.Errorf("%d servers recycled and %d disturbed in %s: that proves nothing", records.recycled, len(experiments), *upkeep)
	}
	s.logOfTheDead(records.oldest)
	w := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "requests\t%d\nfailed by disturbances\t%v\nfailed without\t%d\n", rep.Requests, cut, len(rest))
	fmt.Fprintf(w, "servers ended\t%d\nwith a death record\t%d\nof them recycled\t%d\nexperiments\t%d\nrefused or unfinished\t%d\ndeploys\t%d\n",
		records.ended, records.recorded, records.recycled, len(experiments), refused, strategy+2)
	s.must(w.Flush())
}

// experiments returns what the report says of all of them.
func (s *shop) experiments() []api.Experiment {
	s.Helper()
	out, err := s.kiln.Run(s.Context(), "chaos", "report", "shop", "--json")
	s.must(err)
	var report api.ChaosReport
	s.must(json.Unmarshal(out, &report))
	counts := map[string]int{}
	for _, x := range report.Experiments {
		counts[fmt.Sprintf("%s %s", x.Kind, x.Outcome)]++
		if x.Outcome == model.ChaosFailed {
			s.Logf("experiment %s (%s of %s): %s", x.ID, x.Kind, x.Server, x.Reason)
		}
	}
	s.Logf("experiments: %v", counts)
	return report.Experiments
}

// disturbances are the experiments as what failures are blamed on.
func disturbances(experiments []api.Experiment) (deaths []death) {
	for _, x := range experiments {
		if x.AppliedAt == nil {
			continue
		}
		deaths = append(deaths, death{what: "server", servers: []string{string(x.Server)}, from: x.StartedAt, to: x.AppliedAt.Add(struckFor)})
	}
	return deaths
}

// departed is what the journal says of the servers that ended.
type departed struct {
	ended, recorded, recycled int
	oldest                    model.ServerID
}

// records wants a death record of every server that is gone, written down before
// it went.
func (s *shop) records() (e departed) {
	s.Helper()
	recorded := map[model.ServerID]bool{}
	s.must(s.client.Audit(s.Context(), api.EventQuery{}, func(event api.Event) error {
		var data struct {
			ID     model.ServerID    `json:"id"`
			Phase  model.ServerPhase `json:"phase"`
			Cause  string            `json:"cause"`
			Record model.DeathRecord `json:"record"`
		}
		if err := json.Unmarshal(event.Data, &data); err != nil {
			return err
		}
		switch {
		case event.Kind == (model.ServerRecorded{}).Kind():
			recorded[data.Record.Server] = true
			if data.Record.Evidence == "" || slices.Contains(data.Record.Missing, "all of it") {
				s.Errorf("the death record of %s has no evidence: %v", data.Record.Server, data.Record.Missing)
			}
		case event.Kind == (model.ServerAdvanced{}).Kind() && data.Phase == model.PhaseDestroyed:
			e.ended++
			if recorded[data.ID] {
				e.recorded++
			} else {
				s.Errorf("server %s was destroyed without a death record", data.ID)
			}
			if e.oldest == "" {
				e.oldest = data.ID
			}
		case event.Kind == (model.ServerCondemned{}).Kind() && data.Cause == string(model.CondemnedByLifetime):
			e.recycled++
		}
		return nil
	}))
	return e
}

// logOfTheDead wants the log of a server that is long gone, at once.
func (s *shop) logOfTheDead(id model.ServerID) {
	s.Helper()
	began := time.Now()
	out, err := s.kiln.Run(s.Context(), "logs", string(id))
	if err != nil || len(out) == 0 {
		s.Errorf("the log of %s, which ended long ago: %q %v", id, out, err)
	}
	if took := time.Since(began); took > time.Second {
		s.Errorf("the log of %s, which ended long ago, took %s", id, took)
	}
}
