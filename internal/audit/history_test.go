package audit

import (
	"encoding/json"
	"testing"
	"time"

	"kiln/internal/model"
)

// TestHistory follows images that are built, deployed, promoted, rolled back to and
// removed.
func TestHistory(t *testing.T) {
	l, at, seq := NewLineage(), start, uint64(0)
	add := func(p model.Payload) {
		seq, at = seq+1, at.Add(time.Minute)
		l.Add(model.Event{Seq: seq, At: at, Data: p})
	}
	build := func(d, from model.Digest, service string, how model.Descent) {
		made := model.Making{Service: service, At: at.Add(time.Minute), Author: "ann", Commit: "c" + string(d[7]), From: from, How: how}
		add(model.ImageAdded{Image: model.Image{Digest: d, Source: "build", Services: []string{service}, CreatedAt: made.At, Made: []model.Making{made}}})
	}
	releases := map[string]int{}
	deploy := func(service string, d model.Digest, verdict model.Verdict) {
		releases[service]++
		n := releases[service]
		id := model.DeploymentID(service + string(rune('0'+n)))
		add(model.ReleaseCreated{Release: model.Release{Service: service, Number: n, Template: model.Template{Image: d}}})
		add(model.DeploymentStarted{Deployment: model.Deployment{ID: id, Service: service, To: n}})
		if verdict == model.Succeeded {
			add(model.ServiceSwitched{Service: service, Release: n, Deployment: id})
		}
		add(model.DeploymentEnded{ID: id, Service: service, Verdict: verdict})
	}
	one, two, three, four := digestOf('1'), digestOf('2'), digestOf('3'), digestOf('4')
	build(one, "", "shop", "")
	deploy("shop", one, model.Succeeded)
	build(two, one, "shop", model.ByCommit)
	deploy("shop", two, model.Failed)
	add(model.ImageRemoved{Digest: two})
	build(three, one, "shop", model.ByCheckout)
	deploy("shop", three, model.Succeeded)
	deploy("shop", one, model.Succeeded) // and back
	deploy("other", three, model.Succeeded)
	add(model.ImageRejected{Digest: two, Rejection: model.Rejection{By: "eve", Reason: "charges twice"}})
	add(model.ImageRejected{Digest: one, Rejection: model.Rejection{By: "eve", Reason: "a mistake"}})
	add(model.ImageRejected{Digest: one, Rejection: model.Rejection{By: "eve", Lifted: true}})
	add(model.ImageAttested{Digest: three, Statement: model.Statement{Bundle: digestOf('b'), Type: model.SignatureType}})
	// An older kiln's, which did not say how it came to be, and one of another service.
	add(model.ImageAdded{Image: model.Image{Digest: four, Source: "build", Services: []string{"shop"}, CreatedAt: start, Author: "bob"}})
	build(digestOf('9'), "", "site", "")

	h := l.History("shop")
	var order []model.Digest
	for _, x := range h.Images {
		order = append(order, x.Digest)
	}
	if len(order) != 4 || order[0] != three || order[1] != two || order[2] != one || order[3] != four {
		t.Fatalf("the line is %v", order)
	}
	newest, failed, first := h.Images[0], h.Images[1], h.Images[2]
	if !newest.Branch || newest.How != model.ByCheckout || failed.Branch || failed.RemovedAt.IsZero() || first.From != "" {
		t.Errorf("branches and removals are wrong: %+v", h.Images)
	}
	if len(first.Releases) != 2 || len(first.Releases[0].Served) != 1 || first.Releases[0].Served[0].To.IsZero() || !first.Releases[1].InService() {
		t.Errorf("the first image served as %+v", first.Releases)
	}
	if failed.Rejected() != "rejected by eve: charges twice" || failed.Rejection.At.IsZero() || first.Rejected() != "" || newest.Rejected() != "" {
		t.Errorf("rejections are %+v, %+v, %+v", failed.Rejection, first.Rejection, newest.Rejection)
	}
	if len(failed.Releases) != 1 || failed.Releases[0].Verdict != model.Failed || len(failed.Releases[0].Served) != 0 {
		t.Errorf("the failed image served as %+v", failed.Releases)
	}
	if len(newest.Releases) != 2 || newest.Releases[0].Service != "other" || len(newest.Statements) != 1 {
		t.Errorf("the newest image is %+v", newest)
	}
	if h.Images[3].Author != "bob" {
		t.Errorf("the oldest image is %+v", h.Images[3])
	}
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var again History
	if err := json.Unmarshal(text, &again); err != nil || len(again.Images) != 4 || again.Images[0].From != one {
		t.Errorf("as JSON it is %s (%v)", text, err)
	}
	// A declared service has the images that its environments have.
	add(model.ReleaseCreated{Release: model.Release{Service: "shop-staging", Declared: "shop", Environment: "staging", Number: 1, Template: model.Template{Image: digestOf('9')}, Promoted: &model.Promotion{Environment: "qa", Service: "shop-qa", Release: 4}}})
	if h := l.History("shop"); len(h.Images) != 5 || h.Images[0].Releases[0].Promotion() != "promoted from qa, release 4 of shop-qa" || h.Images[0].Releases[0].Environment != "staging" {
		t.Errorf("the images of an environment are not in the line: %+v", h.Images)
	}
	if h := l.History("shop-staging"); len(h.Images) != 1 {
		t.Errorf("the line of an environment is %+v", h.Images)
	}
	// What the clock put before its own origin begins a line of its own.
	build(digestOf('5'), digestOf('6'), "shop", model.ByCommit)
	build(digestOf('6'), digestOf('5'), "shop", model.ByCommit)
	if h := l.History("shop"); h.Images[1].From != "" || h.Images[0].From != digestOf('5') {
		t.Errorf("images go on from each other: %+v", h.Images[:2])
	}
}
