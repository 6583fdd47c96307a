package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

// chronicle is a history without servers: what was in service when.
type chronicle struct {
	t   *testing.T
	s   *model.State
	now model.Now
}

func newChronicle(t *testing.T) *chronicle {
	c := &chronicle{t: t, s: model.NewState(), now: model.Now{Elapsed: 1, Wall: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}}
	c.add(model.InstanceCreated{Instance: "abcdef"}, model.DaemonStarted{Epoch: 1, BootID: "b"})
	return c
}

func (c *chronicle) add(payloads ...model.Payload) {
	c.t.Helper()
	for _, p := range payloads {
		e := model.Event{Seq: c.s.Seq + 1, Epoch: 1, At: c.now.Wall, Elapsed: c.now.Elapsed, Data: p}
		if err := c.s.Apply(e); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *chronicle) wait(d time.Duration) {
	c.now.Elapsed, c.now.Wall = c.now.Elapsed.Add(d), c.now.Wall.Add(d)
}

func digestOf(n int) model.Digest { return model.Digest(fmt.Sprintf("sha256:%064d", n)) }

func (c *chronicle) image(n int, source string, parents ...int) {
	img := model.Image{Digest: digestOf(n), Source: source, Size: 1000}
	for _, p := range parents {
		img.Provenance.Parents = append(img.Provenance.Parents, model.Parent{Name: fmt.Sprint("base:", p), Digest: digestOf(p)})
	}
	c.add(model.ImageAdded{Image: img})
}

// history brings so many releases, each of its own image, into service one
// after the other.
func (c *chronicle) history(releases int, retention model.RetentionPolicy, apart time.Duration) {
	for n := 1; n <= releases; n++ {
		c.image(n, "build")
		c.serves(n, retention)
		c.wait(apart)
	}
}

// serves brings a release of the image into service.
func (c *chronicle) serves(image int, retention model.RetentionPolicy) {
	c.t.Helper()
	number, from := 1, 0
	if svc := c.s.Services["shop"]; svc != nil {
		number, from = len(svc.Releases)+1, svc.InService
	}
	id := model.DeploymentID(fmt.Sprintf("d-%d", number))
	policy := model.Policy{Servers: 1, Deploy: model.Deploy{Strategy: model.BlueGreen, Deadline: model.Duration(time.Hour)}}
	policy.Retention = retention
	c.add(
		model.ReleaseCreated{Release: model.Release{
			Service: "shop", Number: number, Template: model.Template{Service: "shop", Image: digestOf(image)}, Policy: policy,
		}},
		model.DeploymentStarted{Deployment: model.Deployment{ID: id, Service: "shop", From: from, To: number, Phase: model.DeploySwitching}},
		model.ServiceSwitched{Service: "shop", Release: number, Deployment: id},
		model.DeploymentEnded{ID: id, Service: "shop", Verdict: model.Succeeded},
	)
}

// verdicts says of each image "N stays: why" or "N goes: why".
func (c *chronicle) verdicts(images ...int) string {
	var objects []model.Object
	for _, n := range images {
		objects = append(objects, model.Object{Kind: model.ObjectImage, ID: string(digestOf(n)), At: c.now.Wall.Add(-time.Minute)})
	}
	var lines []string
	for i, k := range Retain(c.s, objects, c.now) {
		word := "goes"
		if k.Keep {
			word = "stays"
		}
		if k.Serves {
			word = "serves"
		}
		lines = append(lines, fmt.Sprintf("%d %s: %s", images[i], word, k.Reason))
	}
	return strings.Join(lines, "\n")
}

func want(t *testing.T, got string, lines ...string) {
	t.Helper()
	if w := strings.Join(lines, "\n"); got != w {
		t.Errorf("got\n%s\nwant\n%s", got, w)
	}
}

// The newest releases before the present one stay, and those that left service
// lately; what both have left behind goes, its base with it only if nothing
// else stands on that.
func TestRollbackWindow(t *testing.T) {
	c := newChronicle(t)
	c.image(9, "import")
	for n := 1; n <= 4; n++ {
		c.image(n, "build", 9)
		c.serves(n, model.RetentionPolicy{Releases: 2, For: model.Duration(time.Hour)})
		c.wait(30 * time.Minute)
	}
	want(t, c.verdicts(1, 2, 3, 4, 9),
		"1 goes: shop could be rolled back to release 1 until now: it left service 1h30m ago and is kept for 1h, and it is not one of the newest 2",
		"2 stays: shop can be rolled back to release 2: it is one of the newest 2 before the present one",
		"3 stays: shop can be rolled back to release 3: it is one of the newest 2 before the present one",
		"4 serves: release 4 of shop is in service",
		"9 stays: image "+digestOf(4).Short()+" stands on it (base:9)")
	c.serves(4, model.RetentionPolicy{Releases: 1, For: model.Duration(2 * time.Hour)}) // policy alone: no template leaves
	want(t, c.verdicts(1, 2),
		"1 stays: shop can be rolled back to release 1: it left service 1h30m ago, and is kept for 2h",
		"2 stays: shop can be rolled back to release 2: it left service 1h ago, and is kept for 2h")
}

// Where a rollback without a number goes always stays, also when what was rolled
// back from fills the window.
func TestRollbackTargetStays(t *testing.T) {
	c := newChronicle(t)
	policy := model.RetentionPolicy{Releases: 1, For: model.Duration(time.Second)}
	c.history(3, policy, time.Hour)
	svc := c.s.Services["shop"]
	c.add(model.ReleaseCreated{Release: model.Release{
		Service: "shop", Number: 4, Template: svc.Release(2).Template, Policy: svc.Release(3).Policy, RollbackOf: 2,
	}})
	c.add(model.DeploymentStarted{Deployment: model.Deployment{ID: "d-4", Service: "shop", From: 3, To: 4, Phase: model.DeploySwitching}},
		model.ServiceSwitched{Service: "shop", Release: 4, Deployment: "d-4"},
		model.DeploymentEnded{ID: "d-4", Service: "shop", Verdict: model.Succeeded})
	c.wait(time.Hour)
	want(t, c.verdicts(1, 2, 3),
		"1 stays: shop can be rolled back to release 1: it is where a rollback goes",
		"2 serves: release 4 of shop is in service",
		"3 stays: shop can be rolled back to release 3: it is one of the newest 1 before the present one")
}

// What runs, is parked, is being deployed or waits stays, whatever its age.
func TestRetainHoldsWhatRuns(t *testing.T) {
	c := newChronicle(t)
	policy := model.RetentionPolicy{Releases: 1, For: model.Duration(time.Second)}
	for n := 1; n <= 5; n++ {
		c.image(n, "build")
	}
	c.serves(1, policy)
	c.serves(2, policy)
	c.serves(3, policy)
	c.add(model.ServerCreated{ID: "shop-aaaaaa", Service: "shop", Release: 1},
		model.ServerAdvanced{ID: "shop-aaaaaa", Phase: model.PhaseParked})
	for i, phase := range []string{"d-x", "d-y"} {
		number := 4 + i
		c.add(model.ReleaseCreated{Release: model.Release{
			Service: "shop", Number: number, Template: model.Template{Service: "shop", Image: digestOf(number)}, Policy: c.s.Services["shop"].Release(3).Policy,
		}})
		d := model.Deployment{ID: model.DeploymentID(phase), Service: "shop", From: 3, To: number}
		if i == 0 {
			c.add(model.DeploymentStarted{Deployment: d})
		} else {
			c.add(model.DeploymentQueued{Deployment: d})
		}
	}
	c.wait(1000 * time.Hour)
	want(t, c.verdicts(1, 3, 4, 5),
		"1 serves: server shop-aaaaaa is of it, and parked",
		"3 serves: release 3 of shop is in service",
		"4 serves: release 4 of shop is being deployed",
		"5 serves: release 5 of shop waits to be deployed")
}

// An image that nothing was deployed from stays for a while, a pinned one for
// ever; what kiln cannot make again stays longest. A jump of the wall clock
// holds everything.
func TestRetainUnused(t *testing.T) {
	c := newChronicle(t)
	c.image(1, "build")
	c.image(2, "import")
	c.image(3, "build")
	c.add(model.ImagePinned{Digest: digestOf(3), Pinned: true, By: "ann", Reason: "audit"})
	c.wait(2 * time.Hour)
	want(t, c.verdicts(1, 2, 3, 4),
		"1 stays: its last use was 2h ago: it stays for 24h",
		"2 stays: kiln cannot make it again: it stays for 30d after its last use, 2h ago",
		"3 stays: pinned by ann: audit",
		"4 stays: the journal does not know it; it came 1m ago")
	c.add(model.DiskChanged{Disk: model.Disk{State: model.DiskLow}})
	want(t, c.verdicts(1, 2),
		"1 goes: nothing was deployed from it, and its last use was 2h ago",
		"2 stays: kiln cannot make it again: it stays for 30d after its last use, 2h ago")
	c.add(model.ClockJumped{By: model.Duration(24 * time.Hour)})
	want(t, c.verdicts(1),
		"1 stays: the wall clock has jumped: nothing is removed for 1h more (else: nothing was deployed from it, and its last use was 2h ago)")
	c.wait(61 * time.Minute)
	c.image(1, "build") // built again: it is wanted
	want(t, c.verdicts(1), "1 stays: its last use was 0s ago: it stays for 1h")
	c.wait(800 * time.Hour)
	want(t, c.verdicts(2, 3),
		"2 goes: nothing that is kept stands on it, and its last use was 33d ago",
		"3 stays: pinned by ann: audit")
}

// What was removed is not rolled back to, not deployed, not pinned; it is
// removed again if it is still there, until it is added again.
func TestRemoved(t *testing.T) {
	c := newChronicle(t)
	policy := model.RetentionPolicy{Releases: 1, For: model.Duration(time.Second)}
	c.history(3, policy, time.Minute)
	objects := []model.Object{{Kind: model.ObjectImage, ID: string(digestOf(1)), Bytes: 7}, {Kind: model.ObjectBuildCache, ID: "x", Bytes: 5}}
	kept := Retain(c.s, objects, c.now)
	events := Removal(c.s, kept)
	if len(events) != 2 || events[0].(model.ImageRemoved).Digest != digestOf(1) || events[1].(model.ObjectsRemoved).Bytes != 5 {
		t.Fatalf("removing it is written down as %+v", events)
	}
	c.add(events...)
	want(t, c.verdicts(1), "1 goes: it was removed on 2026-11-01 00:03:00 UTC; this is what is left of it")
	if again := Removal(c.s, Retain(c.s, objects[:1], c.now)); len(again) != 0 {
		t.Errorf("the removal that is repeated is written down again: %+v", again)
	}
	_, _, err := Rollback(c.s, RollbackRequest{Service: "shop", To: 1}, c.now)
	if model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), "removed on 2026-11-01 00:03:00 UTC") || model.HintOf(err) == "" {
		t.Errorf("a rollback to it: %v (%s)", err, model.HintOf(err))
	}
	if ok, why := RollbackPossible(c.s, "shop", 1); ok || why != "its image was removed" {
		t.Errorf("a rollback is possible: %v, %s", ok, why)
	}
	_, _, err = Deploy(c.s, DeployRequest{
		Service: "shop", Template: model.Template{Service: "shop", Image: digestOf(1)}, Policy: c.s.Services["shop"].Release(1).Policy,
	}, c.now)
	if model.CodeOf(err) != model.Precondition {
		t.Errorf("a deployment of it: %v", err)
	}
	if _, err := Pin(c.s, PinRequest{Image: digestOf(1), Pinned: true, By: "ann"}); model.CodeOf(err) != model.Precondition {
		t.Errorf("it can be pinned: %v", err)
	}
	c.image(1, "build")
	want(t, c.verdicts(1), "1 stays: its last use was 0s ago: it stays for 24h")
}

// Records of the build cache stay while builds use them, and what they stand on.
func TestRetainCache(t *testing.T) {
	c := newChronicle(t)
	at := c.now.Wall
	objects := []model.Object{
		{Kind: model.ObjectBuildCache, ID: "old", At: at},
		{Kind: model.ObjectBuildCache, ID: "base", At: at},
		{Kind: model.ObjectBuildCache, ID: "used", At: at, LastUse: at.Add(13 * 24 * time.Hour), Parents: []string{"base"}},
	}
	c.wait(14 * 24 * time.Hour)
	var got []string
	for _, k := range Retain(c.s, objects, c.now) {
		got = append(got, fmt.Sprint(k.ID, " ", k.Keep))
	}
	want(t, strings.Join(got, "\n"), "old false", "base true", "used true")
}

// The disk is told when its state changes, and better again only with some
// slack. What would not fit is refused, with what is needed.
func TestDisk(t *testing.T) {
	c := newChronicle(t)
	const total = 1000 << 20
	room := func(free int64) []model.Disk { return []model.Disk{{Path: "/d", Free: free << 20, Total: total}} }
	for _, step := range []struct {
		free int64
		want string
	}{{900, ""}, {149, "low"}, {151, ""}, {166, "well"}, {40, "short"}, {52, ""}, {56, "low"}, {900, "well"}} {
		got := ""
		for _, p := range NoteDisk(c.s, room(step.free)) {
			c.add(p)
			got = string(p.(model.DiskChanged).Disk.State)
		}
		if got != step.want {
			t.Errorf("with %d MiB free it is told %q, want %q", step.free, got, step.want)
		}
	}
	if err := FitsDisk(room(100), "build shop", 30<<20); err != nil {
		t.Error(err)
	}
	err := FitsDisk(room(100), "build shop", 60<<20)
	if err == nil || err.Error() != "cannot build shop: no space left for it in /d: it needs about 60MiB, beside 50MiB that stay free for what runs, and 100MiB of 1000MiB are free" {
		t.Error(err)
	}
}

// What a build has fetched stays with the images that were made from it, and for a
// while without one.
func TestInputsStayWithTheirImages(t *testing.T) {
	c := newChronicle(t)
	for n, inputs := range map[int]model.Digest{1: digestOf(11), 2: digestOf(12)} {
		c.add(model.ImageAdded{Image: model.Image{Digest: digestOf(n), Source: "build", Size: 1000, Provenance: model.Provenance{Inputs: inputs}}})
	}
	policy := model.RetentionPolicy{Releases: 1, For: model.Duration(time.Second)}
	c.serves(1, policy)
	c.wait(time.Hour)
	verdicts := func(used time.Time) string {
		var lines []string
		for _, n := range []int{11, 12, 13} {
			o := model.Object{Kind: model.ObjectInputs, ID: string(digestOf(n)), At: used}
			k := Retain(c.s, []model.Object{o}, c.now)[0]
			lines = append(lines, fmt.Sprintf("%d %t: %s", n, k.Keep, k.Reason))
		}
		return strings.Join(lines, "\n")
	}
	made := "11 true: image " + digestOf(1).Short() + " was made from it: release 1 of shop is in service"
	lately := " true: a build used it 59m ago: what was fetched stays for " + span(keepBrought)
	want(t, verdicts(c.now.Wall.Add(-59*time.Minute)), made, "12"+lately, "13"+lately)
	c.wait(keepBrought)
	long := " false: no image that is kept was made from it, and no build has used it for " + span(keepBrought)
	want(t, verdicts(c.now.Wall.Add(-keepBrought)), made, "12"+long, "13"+long)
	c.serves(2, policy)
	c.wait(time.Hour)
	c.image(3, "build")
	c.serves(3, policy)
	c.wait(keepBrought)
	want(t, verdicts(c.now.Wall.Add(-keepBrought)), "11"+long, "12 true: image "+digestOf(2).Short()+" was made from it: shop can be rolled back to release 2: it is one of the newest 1 before the present one", "13"+long)
}
