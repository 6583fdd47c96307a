package server

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/model"
)

// What programs read of a service under way: the keys are a promise.
func TestStatusTellsStagesPauseQueueAndMeltdown(t *testing.T) {
	const second = model.Instant(time.Second)
	now := model.Now{Elapsed: 100 * second, Wall: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	running := &model.Deployment{
		ID: "d-aaaaaa", Service: "shop", From: 1, To: 2, Strategy: model.Canary, Phase: model.DeployHolding,
		WaitingFor: "kiln canary resume", Since: 90 * second, Deadline: 700 * second, Stage: 1, Finish: "ann",
		Stages: []model.Stage{{New: 1, Old: 2, Weight: 10, Hold: model.Duration(15 * time.Second)}, {New: 1, Old: 2, Weight: 50}, {New: 2}},
		Pause:  &model.Pause{By: "ann: look", Since: 95 * second, Until: 160 * second},
	}
	waiting := &model.Deployment{
		ID: "d-bbbbbb", Service: "shop", From: 1, To: 3, Strategy: model.BlueGreen, Phase: model.DeployQueued,
		WaitingFor: "deployment d-aaaaaa", Since: 99 * second,
	}
	svc := &model.Service{
		Name: "shop", InService: 1, Deployment: running, Queue: []*model.Deployment{waiting},
		Releases: []*model.Release{{Number: 1}, {Number: 2}, {Number: 3}},
		Meltdown: &model.Meltdown{Reason: "2 of 3 servers failed within 60s"},
	}
	got, err := json.Marshal(serviceView(svc, now))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"shop","release":1,"image":"","servers":[],` +
		`"deployment":{"id":"d-aaaaaa","from":1,"to":2,"strategy":"canary","phase":"holding","waiting_for":"kiln canary resume",` +
		`"since":"2026-11-21T11:59:50Z","until":"2026-11-21T12:10:00Z","stage":2,` +
		`"stages":[{"new":1,"old":2,"weight":10,"hold":"15s"},{"new":1,"old":2,"weight":50,"hold":"0s"},{"new":2,"old":0,"weight":0,"hold":"0s"}],` +
		`"paused":true,"paused_by":"ann: look","paused_until":"2026-11-21T12:01:00Z","finishing":"ann"},"wanted":0,` +
		`"queue":[{"id":"d-bbbbbb","from":1,"to":3,"strategy":"blue-green","phase":"queued","waiting_for":"deployment d-aaaaaa",` +
		`"since":"2026-11-21T11:59:59Z","stage":0,"stages":[],"paused":false}],"meltdown":"2 of 3 servers failed within 60s"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// A release says where its deployment stands, also while it waits.
func TestReleasesTellWhatIsUnderWay(t *testing.T) {
	svc := &model.Service{
		Name: "shop", InService: 1, Releases: []*model.Release{{Number: 1}, {Number: 2}, {Number: 3}},
		Deployment: &model.Deployment{To: 2, Phase: model.DeployChecking, Stages: []model.Stage{{New: 1, Old: 2}, {New: 3}}},
		Queue:      []*model.Deployment{{To: 3, Phase: model.DeployQueued}},
	}
	st := &model.State{Services: map[string]*model.Service{"shop": svc}}
	type standing struct {
		Phase  model.DeployPhase
		Stage  int
		Stages int
	}
	var got []standing
	for _, r := range releasesView(st, svc).Releases {
		got = append(got, standing{r.Phase, r.Stage, r.Stages})
	}
	want := []standing{{model.DeployQueued, 0, 0}, {model.DeployChecking, 1, 2}, {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
