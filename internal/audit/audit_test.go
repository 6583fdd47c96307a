package audit

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

var start = time.Date(2026, 8, 1, 9, 0, 0, 0, time.UTC)

// script adds events, one after the other.
type script struct {
	c   *Collector
	seq uint64
	at  time.Time
}

func (s *script) add(by, service string, p model.Payload) {
	s.seq++
	s.at = s.at.Add(90 * time.Second)
	s.c.Add(Event{
		Event: model.Event{Seq: s.seq, At: s.at, Elapsed: model.Instant(s.seq) * model.Instant(90*time.Second), Actor: by, Data: p},
		Hash:  fmt.Sprintf("%064x", s.seq*0x9e3779b97f4a7c15), Service: service, Text: "event " + string(p.Kind()),
	})
}

func digestOf(b byte) model.Digest {
	return model.Digest("sha256:" + strings.Repeat(string(b), 64))
}

// deploy adds a release and its deployment with servers.
func (s *script) deploy(number int, image model.Digest, verdict model.Verdict, servers ...model.ServerID) {
	id := model.DeploymentID(fmt.Sprintf("d-aaaaa%d", number))
	policy := model.Policy{Servers: len(servers), Health: model.Health{Kind: model.CheckHTTP}, Validations: []model.Validation{{Name: "home page", Kind: model.CheckHTTP}}}
	s.add("ann", "shop", model.ImageAdded{Image: model.Image{Digest: image, Author: "ann", Source: "build", Provenance: model.Provenance{Commit: "4be1" + string(image[7]) + "f02c", Parents: []model.Parent{{Name: "base/debian:12", Digest: digestOf('b')}}}}})
	s.add("ann", "shop", model.ReleaseCreated{Release: model.Release{
		Service: "shop", Number: number, Template: model.Template{Service: "shop", Image: image, Env: map[string]string{"A_TOKEN": "never-shown"}},
		Policy: policy, Author: "ann", Reason: fmt.Sprintf("ticket %d <b>: prices with VAT", 4000+number),
	}})
	s.add("ann", "shop", model.DeploymentStarted{Deployment: model.Deployment{ID: id, Service: "shop", From: number - 1, To: number, Strategy: model.BlueGreen, Actor: "ann"}})
	for _, srv := range servers {
		s.add("kiln", "shop", model.ServerCreated{ID: srv, Service: "shop", Release: number, Cause: "deployment " + string(id)})
		if verdict != model.Succeeded {
			s.add("kiln", "shop", model.ServerAdvanced{ID: srv, Phase: model.PhaseParked, Reason: "validation home page: status 500"})
			continue
		}
		s.add("kiln", "shop", model.ServerAdvanced{ID: srv, Phase: model.PhaseReady})
		s.add("kiln", "shop", model.ServerValidated{ID: srv})
	}
	if verdict == model.Succeeded {
		s.add("kiln", "shop", model.ServiceSwitched{Service: "shop", Release: number, Deployment: id})
		for _, srv := range servers {
			s.add("kiln", "shop", model.ServerAdvanced{ID: srv, Phase: model.PhaseServing, Release: number})
		}
	}
	s.add("kiln", "shop", model.DeploymentEnded{ID: id, Service: "shop", Verdict: verdict, Reason: "release " + fmt.Sprint(number) + " is decided on"})
	s.add("kiln", "shop", model.DeploymentSettled{ID: id, Service: "shop", Finished: 12})
}

func (s *script) end(id model.ServerID, reason string) {
	s.add("kiln", "shop", model.ServerAdvanced{ID: id, Phase: model.PhaseDraining, Reason: reason})
	s.add("kiln", "shop", model.ServerAdvanced{ID: id, Phase: model.PhaseEnded, Reason: reason, Exit: &model.Exit{Known: true, Signal: "SIGTERM", Code: 143}})
	s.add("kiln", "shop", model.ServerRecorded{Record: model.DeathRecord{Server: id, Service: "shop", Evidence: string(digestOf('e')), Missing: []string{"the last hour of metrics: it ran for less"}}})
}

// story is what an auditor reads about.
func story(only string) Account {
	s := &script{c: NewCollector(only, start, start.Add(20*time.Hour)), at: start.Add(-4 * time.Hour)}
	s.add("kiln", "", model.InstanceCreated{Instance: "abcdef"})
	s.add("kiln", "", model.DaemonStarted{Epoch: 1, Version: "1.4.0"})
	s.deploy(1, digestOf('1'), model.Succeeded, "shop-aaaaaa", "shop-bbbbbb")
	s.deploy(2, digestOf('2'), model.Succeeded, "shop-cccccc", "shop-dddddd")
	s.end("shop-aaaaaa", "release 2 is in service") // all of it before the period
	s.at = start.Add(time.Hour)
	s.deploy(3, digestOf('3'), model.Failed, "shop-eeeeee")
	s.end("shop-bbbbbb", "release 2 is in service")
	s.at = start.Add(5 * time.Hour)
	s.deploy(4, digestOf('4'), model.Succeeded, "shop-ffffff", "shop-gggggg")
	s.end("shop-cccccc", "release 4 is in service")
	s.add("bob", "shop", model.SessionOpened{Session: model.Session{ID: "s-abcdef", Server: "shop-ffffff", Kind: model.SessionHotfix, By: "bob", Reason: "=cmd: prices are wrong", OpenedAt: s.at}})
	s.add("bob", "shop", model.SessionExtended{ID: "s-abcdef", Server: "shop-ffffff", By: "bob", Reason: "not done yet"})
	code := 0
	s.add("kiln", "shop", model.SessionEnded{ID: "s-abcdef", Server: "shop-ffffff", End: model.SessionEnd{At: s.at, How: "exit status 0", Exit: &code, Evidence: string(digestOf('c')), Changed: 2}})
	s.add("kiln", "shop", model.ServerCondemned{ID: "shop-ffffff", Cause: model.CondemnedBySession, Reason: "a hotfix has tainted it"})
	s.end("shop-ffffff", "a hotfix has tainted it")
	s.add("kiln", "shop", model.ServerDrifted{ID: "shop-gggggg", Findings: []model.Finding{{Server: "shop-gggggg", Detector: model.DetectFiles, What: "file added", Where: "/usr/bin/miner", How: "inotify of the upper layer", At: s.at}}, More: 3, Response: model.DriftReplace, Done: "it is being replaced"})
	x := model.Experiment{ID: "x-abcdef", Service: "shop", Server: "shop-gggggg", Kind: model.ChaosKill, By: "kiln", StartedAt: s.at, Started: model.Instant(time.Hour)}
	s.add("kiln", "shop", model.ExperimentStarted{Experiment: x})
	s.add("kiln", "shop", model.ExperimentAdvanced{ID: x.ID, Service: "shop", Applied: x.Started, Detected: x.Started + model.Instant(340*time.Millisecond)})
	s.add("kiln", "shop", model.ExperimentAdvanced{ID: x.ID, Service: "shop", Replaced: x.Started + model.Instant(2*time.Second)})
	s.add("kiln", "shop", model.ExperimentEnded{ID: x.ID, Service: "shop", Outcome: model.ChaosRecovered, Reason: "the service is whole again", Failed: 3})
	s.add("kiln", "shop", model.ServiceBackedOff{Service: "shop", Failures: 1, Reason: "server shop-gggggg failed"})
	s.add("kiln", "", model.ClockJumped{By: model.Duration(time.Hour)})
	s.add("ann", "blog", model.ReleaseCreated{Release: model.Release{Service: "blog", Number: 1, Template: model.Template{Image: digestOf('5')}}})
	return s.c.Account(Chain{Whole: true, Events: s.seq, Head: strings.Repeat("ab", 32), Signed: 1})
}

// What was written down while the wall clock was ahead is in the account too.
func TestClockSetBack(t *testing.T) {
	s := &script{c: NewCollector("", start, start.Add(time.Hour)), at: start.Add(30 * time.Hour)}
	s.deploy(1, digestOf('6'), model.Succeeded, "shop-hhhhhh")
	a := s.c.Account(Chain{Whole: true})
	if len(a.Services) != 1 || len(a.Services[0].Deployments) != 1 || a.Until.Before(start.Add(30*time.Hour)) {
		t.Errorf("until %s: %+v", a.Until, a.Services)
	}
}

// What a server of the one in force passes is not the next one's, which waits.
func TestChecksOfTheQueued(t *testing.T) {
	s := &script{c: NewCollector("", start, start.Add(time.Hour)), at: start}
	policy := model.Policy{Health: model.Health{Kind: model.CheckHTTP}}
	for n, d := range []string{"d-running", "d-waiting"} {
		s.add("ann", "shop", model.ReleaseCreated{Release: model.Release{Service: "shop", Number: n + 1, Policy: policy, Template: model.Template{Image: digestOf('1' + byte(n))}}})
		deployment := model.Deployment{ID: model.DeploymentID(d), Service: "shop", To: n + 1, Phase: model.DeployQueued}
		if n == 0 {
			deployment.Phase = model.DeployPreparing
			s.add("ann", "shop", model.DeploymentStarted{Deployment: deployment})
			continue
		}
		s.add("ann", "shop", model.DeploymentQueued{Deployment: deployment})
	}
	s.add("kiln", "shop", model.ServerCreated{ID: "shop-aaaaaa", Service: "shop", Release: 1})
	s.add("kiln", "shop", model.ServerAdvanced{ID: "shop-aaaaaa", Phase: model.PhaseReady})
	all := s.c.Account(Chain{Whole: true}).Services[0].Deployments
	if all[0].Checks[0].Passed != 1 || all[1].Checks[0].Passed != 0 {
		t.Errorf("passed by %d servers, and %d of the one that waits", all[0].Checks[0].Passed, all[1].Checks[0].Passed)
	}
}

func TestAccount(t *testing.T) {
	a := story("shop")
	if len(a.Services) != 1 || a.Instance != "abcdef" || len(a.Machine) != 1 {
		t.Fatalf("%d services of %q, %d of the machine", len(a.Services), a.Instance, len(a.Machine))
	}
	s := a.Services[0]
	var images []string
	for _, x := range s.Images {
		images = append(images, fmt.Sprintf("%d: %s by %s, %d servers, %s", x.Release, x.Commit, x.Author, x.Servers, x.Parents[0].Name))
	}
	if got := strings.Join(images, "\n"); got != "2: 4be12f02c by ann, 2 servers, base/debian:12\n4: 4be14f02c by ann, 2 servers, base/debian:12" {
		t.Errorf("images in service:\n%s", got)
	}
	if !s.Images[0].To.Equal(s.Images[1].From) || !s.Images[1].To.IsZero() {
		t.Errorf("in service: %+v", s.Images)
	}
	var deployments []string
	for _, d := range s.Deployments {
		line := fmt.Sprintf("%d→%d %s by %s:", d.From, d.To, d.Verdict, d.By)
		for _, c := range d.Checks {
			line += " " + c.Name + " " + c.result() + "."
		}
		deployments = append(deployments, line)
	}
	if got, want := strings.Join(deployments, "\n"), "2→3 failed by ann: health (http) not reached. home page (http) failed by 1, passed by 0.\n"+
		"3→4 succeeded by ann: health (http) passed by 2 servers. home page (http) passed by 2 servers."; got != want {
		t.Errorf("deployments:\n%s", got)
	}
	var servers []string
	for _, x := range s.Servers {
		servers = append(servers, string(x.ID)+" "+x.Why)
	}
	if got, want := strings.Join(servers, "\n"), "shop-bbbbbb release 2 is in service\nshop-cccccc release 4 is in service\nshop-dddddd \nshop-eeeeee \nshop-ffffff a hotfix has tainted it\nshop-gggggg "; got != want {
		t.Errorf("servers:\n%s", got)
	}
	x := s.Experiments[0]
	if len(s.Sessions) != 1 || len(s.Sessions[0].Extensions) != 1 || s.Sessions[0].Ended == nil || len(s.Drifts) != 1 || x.Failed != 3 || after(x.Started, x.Detected) != "340ms" ||
		after(x.Started, x.Replaced) != "2s" || len(s.Recycled) != 1 || s.Recycled[0].GoneAt.IsZero() || len(s.Other) != 1 {
		t.Errorf("%+v", s)
	}
	if all := story(""); len(all.Services) != 2 {
		t.Errorf("of all: %d services", len(all.Services))
	}
}

func TestNothing(t *testing.T) {
	a := NewCollector("", start, start.Add(time.Hour)).Account(Chain{})
	b, err := json.Marshal(a)
	if err != nil || strings.Contains(string(b), "null") {
		t.Errorf("%s, %v", b, err)
	}
	if err := a.HTML(new(bytes.Buffer)); err != nil {
		t.Error(err)
	}
}

func TestCSV(t *testing.T) {
	var out bytes.Buffer
	if err := story("shop").CSV(&out); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, r := range rows {
		count[r[1]]++
		for _, cell := range r {
			if strings.HasPrefix(cell, "=") {
				t.Errorf("a formula: %q", cell)
			}
		}
	}
	for what, n := range map[string]int{"chain": 1, "image in service": 2, "image": 2, "deployment": 2, "check": 4, "server": 6, "hotfix": 1, "extension": 1, "drift": 1, "chaos": 1, "replacement": 1, "event": 2} {
		if count[what] != n {
			t.Errorf("%d of %s, want %d", count[what], what, n)
		}
	}
	if rows[1][10] != "whole" || rows[1][14] == "" {
		t.Errorf("the chain: %q", rows[1])
	}
}

// A journal that is not whole is told before anything else, in every format.
func TestBrokenChain(t *testing.T) {
	a := story("shop")
	a.Chain = Chain{Events: 85, Head: "aa", Problems: []string{"event 7 was changed <after> it was written"}}
	var page, table bytes.Buffer
	if err := a.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`class="chain broken"`, "The journal is NOT whole.", "event 7 was changed &lt;after&gt; it was written", "must not be relied on"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page.String(), "The journal is whole") {
		t.Error("the page says that the journal is whole")
	}
	if err := a.CSV(&table); err != nil || !strings.Contains(strings.SplitN(table.String(), "\n", 3)[1], "NOT whole") {
		t.Errorf("the table begins %.200s, %v", table.String(), err)
	}
}
