package model

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// journal folds payloads one after the other.
type journal struct {
	t *testing.T
	s *State
}

func newJournal(t *testing.T) *journal {
	j := &journal{t, NewState()}
	j.add(InstanceCreated{Instance: "abcdef"}, DaemonStarted{Epoch: 1, BootID: "b1"})
	return j
}

func (j *journal) try(p Payload) error {
	return j.s.Apply(Event{Seq: j.s.Seq + 1, Epoch: 1, At: time.Unix(0, 0), Elapsed: j.s.Elapsed + 1, Data: p})
}

func (j *journal) add(payloads ...Payload) {
	j.t.Helper()
	for _, p := range payloads {
		if err := j.try(p); err != nil {
			j.t.Fatal(err)
		}
	}
}

func release(n int, image Digest) ReleaseCreated {
	return ReleaseCreated{Release: Release{Service: "shop", Number: n, Template: Template{Service: "shop", Image: image}}}
}

// TestApplyRefuses: what cannot follow from the state was not written by kiln.
func TestApplyRefuses(t *testing.T) {
	created := ServerCreated{ID: "shop-abcdef", Service: "shop", Release: 1}
	started := DeploymentStarted{Deployment: Deployment{ID: "d-aaaaaa", Service: "shop", To: 1}}
	for _, c := range []struct {
		name   string
		before []Payload
		event  Payload
		want   string
	}{
		{"a release out of order", nil, release(2, "a"), "follows release 0"},
		{"a deployment without its release", []Payload{release(1, "a")}, DeploymentStarted{Deployment: Deployment{Service: "shop", To: 2}}, "no release 2"},
		{"two deployments at once", []Payload{release(1, "a"), started}, started, "runs already"},
		{"the end of another deployment", []Payload{release(1, "a"), started}, DeploymentEnded{ID: "d-bbbbbb", Service: "shop"}, "does not run"},
		{"an unknown service", nil, ServiceDestroying{Service: "shop"}, "no service"},
		{"a server of no service", nil, created, "no service"},
		{"a server twice", []Payload{release(1, "a"), created}, created, "exists already"},
		{"a server backwards", []Payload{release(1, "a"), created, ServerAdvanced{ID: created.ID, Phase: PhaseEnded}}, ServerAdvanced{ID: created.ID, Phase: PhaseRunning}, "cannot become running"},
		{"destroyed before recorded", []Payload{release(1, "a"), created, ServerAdvanced{ID: created.ID, Phase: PhaseEnded}}, ServerAdvanced{ID: created.ID, Phase: PhaseDestroyed}, "cannot become destroyed"},
		{"a record of the living", []Payload{release(1, "a"), created}, ServerRecorded{Record: DeathRecord{Server: created.ID}}, "cannot become recorded"},
		{"a switch to nothing", []Payload{release(1, "a")}, ServiceSwitched{Service: "shop", Release: 3}, "no release 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJournal(t)
			j.add(c.before...)
			if err := j.try(c.event); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestApplyOrder: an event missing, repeated, or of an older writer is found.
func TestApplyOrder(t *testing.T) {
	j := newJournal(t)
	for _, e := range []Event{
		{Seq: j.s.Seq, Epoch: 1, Data: release(1, "a")},
		{Seq: j.s.Seq + 2, Epoch: 1, Data: release(1, "a")},
	} {
		if err := j.s.Apply(e); err == nil {
			t.Errorf("event %d after %d is taken", e.Seq, j.s.Seq)
		}
	}
	if err := j.s.Apply(Event{Seq: j.s.Seq + 1, Epoch: 2, Data: release(1, "a")}); err != nil {
		t.Fatal(err)
	}
	if err := j.s.Apply(Event{Seq: j.s.Seq + 1, Epoch: 1, Data: release(2, "a")}); err == nil {
		t.Error("an event of an older epoch is taken")
	}
}

// TestDrainCountsFromTheAcknowledgement: deadlines begin when every router has
// left the server out, not when that was decided.
func TestDrainCountsFromTheAcknowledgement(t *testing.T) {
	j := newJournal(t)
	const id = ServerID("shop-abcdef")
	j.add(
		release(1, "a"), ServerCreated{ID: id, Service: "shop", Release: 1},
		ServerAdvanced{ID: id, Phase: PhaseRunning}, ServerAdvanced{ID: id, Phase: PhaseReady},
		ServerAdvanced{ID: id, Phase: PhaseServing, Release: 1}, TablePublished{Generation: 1}, TableAcknowledged{Generation: 1},
		ServerAdvanced{ID: id, Phase: PhaseDraining, DrainGen: 2}, TablePublished{Generation: 2},
	)
	if srv := j.s.Server(id); srv.DrainSince != 0 {
		t.Errorf("the drain began at %d, before the acknowledgement", srv.DrainSince)
	}
	j.add(TableAcknowledged{Generation: 2})
	if srv := j.s.Server(id); srv.DrainSince != j.s.Elapsed {
		t.Errorf("the drain began at %d, want %d", srv.DrainSince, j.s.Elapsed)
	}
}

// TestPendingSwitch: an unknown verdict is remembered until it is resolved.
func TestPendingSwitch(t *testing.T) {
	start := func(j *journal) {
		j.add(release(1, "a"), DeploymentStarted{Deployment: Deployment{ID: "d-aaaaaa", Service: "shop", To: 1}},
			DeploymentAdvanced{ID: "d-aaaaaa", Service: "shop", Phase: DeploySwitching, Generation: 4},
			DeploymentEnded{ID: "d-aaaaaa", Service: "shop", Verdict: Unknown})
	}
	for _, resolve := range []Payload{
		ServiceSwitched{Service: "shop", Release: 1, Deployment: "d-aaaaaa"},
		SwitchAbandoned{Service: "shop", Deployment: "d-aaaaaa"},
		ServiceDestroyed{Service: "shop"},
	} {
		j := newJournal(t)
		start(j)
		svc := j.s.Services["shop"]
		if p := svc.Pending; p == nil || *p != (PendingSwitch{Release: 1, Deployment: "d-aaaaaa", Generation: 4}) {
			t.Fatalf("pending: %+v", p)
		}
		j.add(resolve)
		_, switched := resolve.(ServiceSwitched)
		if d := svc.Deployments[0]; svc.Pending != nil || d.Switched != switched || d.Verdict != Unknown {
			t.Errorf("after %s: pending %v, switched %t, verdict %s", resolve.Kind(), svc.Pending, d.Switched, d.Verdict)
		}
	}
}

// TestImageNamesMove: a name means one image.
func TestImageNamesMove(t *testing.T) {
	j := newJournal(t)
	j.add(
		ImageAdded{Image: Image{Digest: "a", Names: []string{"x", "y"}}}, ImageAdded{Image: Image{Digest: "b", Names: []string{"y"}}},
		ImageAdded{Image: Image{Digest: "a", Names: []string{"z"}, Author: "other"}},
	)
	got := fmt.Sprint(j.s.Images["a"].Names, j.s.Images["b"].Names, j.s.Images["a"].Author)
	if got != "[x z] [y]" {
		t.Error(got)
	}
}

// TestSixesNeverRepeat: identifiers are a permutation of a counter.
func TestSixesNeverRepeat(t *testing.T) {
	seen := map[string]bool{}
	for n := range uint64(50000) {
		id := Sixes("abcdef", n)
		if seen[id] || !ValidInstanceID(id) {
			t.Fatalf("identifier %d is %q", n, id)
		}
		seen[id] = true
	}
}

// A journal of a format that this program does not know is refused.
func TestNewerFormatIsRefused(t *testing.T) {
	s := NewState()
	for format, good := range map[int]bool{JournalFormat: true, JournalFormat + 1: false} {
		err := s.Apply(Event{Seq: s.Seq + 1, Epoch: 1, Data: JournalUpgraded{Format: format, Version: "9.0"}})
		if (err == nil) != good || s.Format > JournalFormat {
			t.Errorf("format %d: %v", format, err)
		}
	}
}
