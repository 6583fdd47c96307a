package model

import (
	"slices"
	"testing"
	"time"
)

// at folds a payload at an instant.
func (j *journal) at(i Instant, p Payload) {
	j.t.Helper()
	if err := j.s.Apply(Event{Seq: j.s.Seq + 1, Epoch: 1, At: time.Unix(0, 0), Elapsed: i, Data: p}); err != nil {
		j.t.Fatal(err)
	}
}

// TestQueueIsFolded: a number is counted once, when it is taken; what waits is
// started or ended, and is then in the queue no more.
func TestQueueIsFolded(t *testing.T) {
	j := newJournal(t)
	j.add(release(1, "a"), release(2, "b"), release(3, "c"))
	d := func(id DeploymentID, to int) Deployment { return Deployment{ID: id, Service: "shop", To: to} }
	j.add(DeploymentStarted{d("d-aaaaaa", 1)}, DeploymentQueued{d("d-bbbbbb", 2)}, DeploymentQueued{d("d-cccccc", 3)})
	svc := j.s.Services["shop"]
	if j.s.NextID != 3 || len(svc.Queue) != 2 || svc.Queue[0].Phase != DeployQueued || svc.DeploymentByID("d-cccccc") == nil {
		t.Fatalf("next %d, queue %v", j.s.NextID, svc.Queue)
	}
	if err := j.try(DeploymentStarted{d("d-bbbbbb", 2)}); err == nil {
		t.Error("a second deployment is started beside the first")
	}
	j.add(DeploymentEnded{ID: "d-aaaaaa", Service: "shop", Verdict: Succeeded}, DeploymentStarted{d("d-bbbbbb", 2)},
		DeploymentEnded{ID: "d-cccccc", Service: "shop", Verdict: Aborted})
	if j.s.NextID != 3 || svc.Queue != nil || svc.Deployment.ID != "d-bbbbbb" || svc.DeploymentByID("d-cccccc").Verdict != Aborted {
		t.Errorf("next %d, queue %v, running %v", j.s.NextID, svc.Queue, svc.Deployment)
	}
}

// TestStagesAreFolded: a stage's generation is its own table's, and a pause
// moves the deadlines.
func TestStagesAreFolded(t *testing.T) {
	j := newJournal(t)
	j.add(release(1, "a"), DeploymentStarted{Deployment{ID: "d-aaaaaa", Service: "shop", To: 1, Stages: []Stage{{New: 1, Old: 1}, {New: 2}}}})
	d := j.s.Services["shop"].Deployment
	moves := func(phase DeployPhase, stage int, generation uint64) {
		j.add(DeploymentAdvanced{ID: d.ID, Service: "shop", Phase: phase, Stage: stage, Generation: generation})
	}
	moves(DeployProvisioning, 0, 0)
	moves(DeploySwitching, 0, 7)
	if d.Committed() {
		t.Error("the first of two stages commits")
	}
	moves(DeployHolding, 0, 0)
	if d.Held != 1 || d.Generation != 7 {
		t.Errorf("held %d, generation %d", d.Held, d.Generation)
	}
	moves(DeployProvisioning, 1, 0)
	if d.Generation != 0 || d.Held != 1 || d.StageNow(2).New != 2 || !d.LastStage() {
		t.Errorf("generation %d, held %d, stage %v", d.Generation, d.Held, d.StageNow(2))
	}
	j.add(DeploymentPaused{ID: d.ID, Service: "shop", By: "ann", Until: 99})
	if d.Pause == nil || d.Pause.Since != j.s.Elapsed {
		t.Errorf("pause %v", d.Pause)
	}
	j.add(DeploymentResumed{ID: d.ID, Service: "shop", Until: 5, Deadline: 6})
	if d.Pause != nil || d.Until != 5 || d.Deadline != 6 {
		t.Errorf("%+v", d)
	}
	moves(DeploySwitching, 1, 9)
	if !d.Committed() {
		t.Error("the published last stage does not commit")
	}
}

// TestOldDeployments: what journals hold that knew no stages is one stage.
func TestOldDeployments(t *testing.T) {
	d := Deployment{Generation: 3}
	if d.StageNow(4) != (Stage{New: 4}) || !d.LastStage() || !d.Committed() {
		t.Errorf("%+v, last %t, committed %t", d.StageNow(4), d.LastStage(), d.Committed())
	}
}

// TestLosses: what ends or sickens in service by itself is a loss, once a
// minute for each server, and not for what a reboot has ended.
func TestLosses(t *testing.T) {
	j := newJournal(t)
	j.add(release(1, "a"))
	serve := func(id ServerID) {
		j.add(ServerCreated{ID: id, Service: "shop", Release: 1}, ServerAdvanced{ID: id, Phase: PhaseRunning},
			ServerAdvanced{ID: id, Phase: PhaseReady}, ServerAdvanced{ID: id, Phase: PhaseServing, Release: 1})
	}
	for _, id := range []ServerID{"shop-aaaaaa", "shop-bbbbbb", "shop-cccccc", "shop-dddddd"} {
		serve(id)
	}
	const s = Instant(time.Second)
	svc := j.s.Services["shop"]
	want := func(what string, losses ...Instant) {
		t.Helper()
		if !slices.Equal(svc.Losses, losses) {
			t.Fatalf("%s: losses %v, want %v", what, svc.Losses, losses)
		}
	}
	j.at(10*s, ServerHealth{ID: "shop-aaaaaa", Status: Unhealthy})
	j.at(20*s, ServerHealth{ID: "shop-aaaaaa", Status: Healthy})
	want("sick", 10*s)
	j.at(30*s, ServerAdvanced{ID: "shop-aaaaaa", Phase: PhaseEnded})
	want("the same one ends", 30*s)
	j.at(40*s, ServerAdvanced{ID: "shop-bbbbbb", Phase: PhaseEnded})
	want("another ends", 30*s, 40*s)
	j.at(50*s, ServiceMelting{Service: "shop", Reason: "two"})
	serve("shop-eeeeee")
	if svc.Meltdown == nil || svc.Meltdown.Proven != 1 {
		t.Fatalf("meltdown %v", svc.Meltdown)
	}
	j.at(60*s, ServerAdvanced{ID: "shop-cccccc", Phase: PhaseDraining})
	j.at(61*s, ServerAdvanced{ID: "shop-cccccc", Phase: PhaseEnded})
	want("one that was taken away", 30*s, 40*s)
	j.at(62*s, ServerAdvanced{ID: "shop-eeeeee", Phase: PhaseEnded})
	if want("its replacement", 30*s, 40*s, 62*s); svc.Meltdown.Proven != 0 {
		t.Error("what has ended proves something")
	}
	j.at(70*s, DaemonStarted{Epoch: 1, BootID: "b2"})
	j.at(71*s, ServerAdvanced{ID: "shop-dddddd", Phase: PhaseEnded})
	want("a reboot", 30*s, 40*s, 62*s)
	j.at(90*s, ServiceRecovered{Service: "shop"})
	if svc.Meltdown != nil {
		t.Error("it does not recover")
	}
}
