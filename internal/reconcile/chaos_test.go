package reconcile

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones of the tests

	"kiln/internal/model"
)

func testZones() map[string]*time.Location {
	zones := map[string]*time.Location{}
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Asia/Kolkata"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			panic(err)
		}
		zones[name] = zone
	}
	return zones
}

// chaosPolicy reads chaos=MEAN kinds=A,B hours=… zone=… of a script.
func chaosPolicy(args map[string]string) model.ChaosPolicy {
	if args["chaos"] == "" {
		return model.ChaosPolicy{}
	}
	mean, err := time.ParseDuration(args["chaos"])
	if err != nil {
		panic(err)
	}
	p := model.ChaosPolicy{MeanBetween: model.Duration(mean), Hours: args["hours"], TimeZone: args["zone"]}
	for kind := range strings.SplitSeq(args["kinds"], ",") {
		p.Kinds = append(p.Kinds, model.ChaosKind(kind))
	}
	return p
}

// experiment begins or ends one: chaos shop kind=freeze lasts=10s.
func (w *world) experiment(verb, service string, args map[string]string) error {
	var events []model.Payload
	var err error
	if verb == "calm" {
		events, _, err = StopChaos(w.s, service, "ann")
	} else {
		lasts, _ := time.ParseDuration(args["lasts"])
		req := ChaosRequest{Service: service, Kind: model.ChaosKind(args["kind"]), Lasts: model.Duration(lasts), By: "ann", Server: model.ServerID(args["server"])}
		events, _, err = RunChaos(w.s, req, w.observe(), w.now)
	}
	if err != nil {
		return err
	}
	w.append("ann", events...)
	if args["wait"] != "no" {
		w.wait(time.Second)
	}
	return nil
}

func (w *world) disturb(a Action) *model.Error {
	srv := w.servers[a.Server]
	switch {
	case a.Verb == Calm:
		delete(w.frozen, a.Server)
	case srv == nil || srv.State != model.Running:
		return model.Errorf(model.Precondition, "%s does not run", a.Server)
	case a.Disturbance.Kind == model.ChaosLatency:
		return model.Errorf(model.Invalid, "this machine cannot make packets late")
	case a.Disturbance.Kind == model.ChaosTerminate && w.behaves[w.s.Services[a.Service].Release(w.s.Server(a.Server).Release).Template.Image] == "stubborn":
		// It takes its time; the script kills it.
	case !a.Disturbance.Kind.Lasting():
		w.exit(a.Server, model.Exit{Known: true, Code: 137, Signal: "SIGKILL"})
	case a.Disturbance.Kind == model.ChaosFreeze:
		w.frozen[a.Server] = true
	}
	return nil
}

func describeExperiment(p model.Payload) string {
	switch p := p.(type) {
	case model.ExperimentStarted:
		return fmt.Sprintf("%s experiment %s by %s: %s %s", p.Experiment.Service, p.Experiment.ID, p.Experiment.By, p.Experiment.Kind, p.Experiment.Server)
	case model.ExperimentAdvanced:
		switch {
		case p.Ending != "":
			return fmt.Sprintf("%s is to end as %s: %s", p.ID, p.Ending, p.Reason)
		case p.Replaced != 0:
			return fmt.Sprintf("%s: whole again", p.ID)
		case p.Detected != 0:
			return fmt.Sprintf("%s: noticed", p.ID)
		case p.Armed != 0:
			return fmt.Sprintf("%s: its server may be away", p.ID)
		default:
			return fmt.Sprintf("%s: in force", p.ID)
		}
	case model.ExperimentEnded:
		return fmt.Sprintf("%s %s", p.ID, strings.ToUpper(string(p.Outcome)))
	default:
		return ""
	}
}

// TestChaosHours: hours over midnight belong to the day on which they begin, and
// go by the clocks of the zone, also on days on which those are put on or back.
func TestChaosHours(t *testing.T) {
	week := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	for _, c := range []struct {
		name, hours, zone, at, opens, closes string
		days                                 []time.Weekday
	}{
		{"in them", "09:00-15:00", "Europe/Berlin", "2026-11-20T10:00:00+01:00", "2026-11-20T09:00:00+01:00", "2026-11-20T15:00:00+01:00", week},
		{"before them", "09:00-15:00", "Europe/Berlin", "2026-11-20T07:00:00+01:00", "2026-11-20T09:00:00+01:00", "2026-11-20T15:00:00+01:00", week},
		{"at their end", "09:00-15:00", "Europe/Berlin", "2026-11-20T15:00:00+01:00", "2026-11-23T09:00:00+01:00", "2026-11-23T15:00:00+01:00", week},
		{"at their beginning", "09:00-15:00", "Europe/Berlin", "2026-11-20T09:00:00+01:00", "2026-11-20T09:00:00+01:00", "2026-11-20T15:00:00+01:00", week},
		{"over midnight", "22:00-04:00", "Europe/Berlin", "2026-11-21T03:00:00+01:00", "2026-11-20T22:00:00+01:00", "2026-11-21T04:00:00+01:00", week},
		{"over midnight, of a day that is not", "22:00-04:00", "Europe/Berlin", "2026-11-22T03:00:00+01:00", "2026-11-23T22:00:00+01:00", "2026-11-24T04:00:00+01:00", week},
		{"clocks put on", "01:00-04:00", "Europe/Berlin", "2026-03-29T03:30:00+02:00", "2026-03-29T01:00:00+01:00", "2026-03-29T04:00:00+02:00", nil},
		{"clocks put back", "01:00-04:00", "Europe/Berlin", "2026-10-25T02:30:00+01:00", "2026-10-25T01:00:00+02:00", "2026-10-25T04:00:00+01:00", nil},
		{"another zone, another day", "20:00-23:00", "America/New_York", "2026-11-21T02:00:00Z", "2026-11-21T01:00:00Z", "2026-11-21T04:00:00Z", []time.Weekday{time.Friday}},
		{"half an hour off", "00:00-01:00", "Asia/Kolkata", "2026-11-20T18:45:00Z", "2026-11-20T18:30:00Z", "2026-11-20T19:30:00Z", nil},
		{"all day", "", "Europe/Berlin", "2026-11-20T10:00:00Z", "2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z", []time.Weekday{time.Friday}},
		{"to midnight", "18:00-24:00", "Europe/Berlin", "2026-11-20T20:00:00Z", "2026-11-20T17:00:00Z", "2026-11-20T23:00:00Z", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := moment(t, c.at).In(testZones()[c.zone])
			opens, closes, ok := chaosHours(model.ChaosPolicy{Hours: c.hours, Days: c.days}, at)
			if !ok || !opens.Equal(moment(t, c.opens)) || !closes.Equal(moment(t, c.closes)) {
				t.Errorf("at %s: %s to %s (%t), want %s to %s", at, opens, closes, ok, c.opens, c.closes)
			}
		})
	}
	for _, hours := range []string{"9-15", "09:00-25:00", "09:00-09:00", "09:61-10:00", "-9:00-15:00", "xx:00-yy:00"} {
		if _, _, ok := chaosHours(model.ChaosPolicy{Hours: hours}, time.Now()); ok {
			t.Errorf("%q is taken for hours", hours)
		}
	}
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestChaosIntervals: the times between experiments are exponentially
// distributed, and follow from the state alone.
func TestChaosIntervals(t *testing.T) {
	const n, mean = 20000, time.Hour
	var sum, squares float64
	below := 0
	for i := range n {
		s := &model.State{Instance: "abcdef"}
		svc := &model.Service{Name: "shop", InService: 1, Experiments: []*model.Experiment{{ID: model.ExperimentID(fmt.Sprint("x-", i)), Ended: 100}}}
		at, _ := nextExperiment(s, svc, mean)
		again, _ := nextExperiment(s, svc, mean)
		if at != again {
			t.Fatal("the same state gives two times")
		}
		d := at.Sub(100).Hours()
		sum, squares = sum+d, squares+d*d
		if d < math.Ln2 {
			below++
		}
	}
	average := sum / n
	deviation := math.Sqrt(squares/n - average*average)
	if math.Abs(average-1) > 0.05 || math.Abs(deviation-1) > 0.05 || math.Abs(float64(below)/n-0.5) > 0.02 {
		t.Errorf("mean %.3f h, deviation %.3f h, %.1f %% below the median", average, deviation, 100*float64(below)/n)
	}
}

// TestChaosOverTheWeek: whatever came due while the hours were closed is made at
// some time of the next, not all at their beginning.
func TestChaosOverTheWeek(t *testing.T) {
	zones := testZones()
	zone := zones["Europe/Berlin"]
	p := model.ChaosPolicy{MeanBetween: model.Duration(24 * time.Hour), Hours: "22:00-04:00", TimeZone: "Europe/Berlin", Days: []time.Weekday{time.Friday}}
	perHour := map[int]int{}
	start := time.Date(2026, 11, 16, 0, 0, 0, 0, zone)
	for i := range 120 {
		s := &model.State{Instance: "abcdef"}
		svc := &model.Service{Name: "shop", InService: 1, Experiments: []*model.Experiment{{ID: model.ExperimentID(fmt.Sprint("x-", i)), Ended: 1}}}
		found := false
		for wall := start; wall.Before(start.AddDate(0, 0, 7)); wall = wall.Add(20 * time.Minute) {
			now := model.Now{Elapsed: 1 + model.Instant(wall.Sub(start)), Wall: wall.UTC()}
			v := &service{step: &step{s: s, obs: Observation{Zones: zones}, now: now}, svc: svc}
			if v.chaosDue(p) {
				perHour[wall.Hour()]++
				found = true
				if day := wall.Weekday(); wall.Hour() >= 22 && day != time.Friday || wall.Hour() < 4 && day != time.Saturday || wall.Hour() >= 4 && wall.Hour() < 22 {
					t.Fatalf("due at %s", wall)
				}
				break
			}
		}
		if !found && i == 0 {
			t.Error("nothing is due in a whole week")
		}
	}
	for _, hour := range []int{22, 23, 0, 1, 2, 3} {
		if perHour[hour] < 8 {
			t.Errorf("%d of 120 in the hour from %d: %v", perHour[hour], hour, perHour)
		}
	}
	v := &service{step: &step{s: &model.State{Instance: "abcdef"}, now: model.Now{Elapsed: model.Instant(1000 * time.Hour)}}, svc: &model.Service{Name: "shop"}}
	if v.chaosDue(p) {
		t.Error("something is due in a zone that the machine does not know")
	}
}
