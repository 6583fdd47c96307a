package drift

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// fleet is an engine whose servers are what a test says.
type fleet struct {
	began time.Time

	mu      sync.Mutex
	looks   []look
	drifts  map[model.ServerID][]model.Finding
	fails   error
	of      []model.Finding
	targets []Target
	alarms  chan model.ServerID
}

type look struct {
	id    model.ServerID
	depth engine.Depth
	at    time.Duration
}

func (f *fleet) Inspect(_ context.Context, id model.ServerID, depth engine.Depth) ([]model.Finding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, look{id, depth, time.Since(f.began)})
	found := slices.Clone(f.drifts[id])
	for i := range found {
		found[i].At = time.Now()
	}
	return found, f.fails
}

func (f *fleet) InspectFleet(context.Context) ([]model.Finding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, look{"", engine.Glance, time.Since(f.began)})
	return f.of, f.fails
}

func (f *fleet) Alarms(context.Context) <-chan model.ServerID { return f.alarms }

func (f *fleet) edit(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// seen returns when the server was looked at since the last call.
func (f *fleet) seen(id model.ServerID, depth engine.Depth) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at []time.Duration
	for _, l := range f.looks {
		if l.id == id && l.depth == depth {
			at = append(at, l.at)
		}
	}
	return at
}

func watched(t *testing.T, targets ...Target) (*fleet, *Watcher) {
	t.Helper()
	f := &fleet{began: time.Now(), drifts: map[model.ServerID][]model.Finding{}, targets: targets, alarms: make(chan model.ServerID)}
	w := New(Config{Inspector: f, Sentinel: f, Now: func() model.Instant { return model.Instant(time.Since(f.began)) + model.Instant(time.Second) }, Targets: func() []Target {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(f.targets)
	}})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return f, w
}

const a, b = model.ServerID("shop-aaaaaa"), model.ServerID("shop-bbbbbb")

var added = model.Finding{Server: a, Detector: model.DetectFiles, What: "file added", Where: "/etc/x", How: "a test"}

func TestServersHaveTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := watched(t, Target{Server: a, Image: "i", Interval: 30 * time.Second}, Target{Server: b, Image: "i", Interval: 5 * time.Second})
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if n := len(f.seen(a, engine.Glance)); n != 3 {
			t.Errorf("a was looked at %d times in a minute of 30 s intervals: %v", n, f.seen(a, engine.Glance))
		}
		if n := len(f.seen(b, engine.Glance)); n < 12 || n > 14 {
			t.Errorf("b was looked at %d times in a minute of 5 s intervals", n)
		}
		if n := len(f.seen("", engine.Glance)); n != 3 {
			t.Errorf("the fleet was looked at %d times", n)
		}
	})
}

func TestAlarmsAreHeededAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w := watched(t, Target{Server: a, Image: "i", Interval: time.Hour})
		time.Sleep(10 * time.Second)
		f.edit(func() { f.drifts[a] = []model.Finding{added} })
		before := time.Now()
		for range 100 { // however much there is to tell
			f.alarms <- a
		}
		<-w.Changes()
		if took := time.Since(before); took > time.Second {
			t.Errorf("an alarm was heeded after %s", took)
		}
		if found := w.Standing().Servers[a]; len(found) != 1 || found[0].Key() != added.Key() {
			t.Errorf("found %v", found)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(f.seen(a, engine.Glance)); n > 3 {
			t.Errorf("a hundred alarms cost %d looks", n)
		}
	})
}

func TestWhatStandsKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w := watched(t, Target{Server: a, Image: "i", Interval: 5 * time.Second})
		f.edit(func() { f.drifts[a] = []model.Finding{added} })
		time.Sleep(6 * time.Second)
		first := w.Standing().Servers[a][0].At
		time.Sleep(time.Minute)
		if at := w.Standing().Servers[a][0].At; !at.Equal(first) {
			t.Errorf("it was first seen at %s, and now says %s", first, at)
		}
		// What cannot be looked at stands as it was.
		f.edit(func() { f.drifts[a], f.fails = nil, errors.New("no") })
		time.Sleep(time.Minute)
		if len(w.Standing().Servers[a]) != 1 {
			t.Error("a look that failed has taken back what was found")
		}
		f.edit(func() { f.fails = nil })
		time.Sleep(time.Minute)
		if found, looked := w.Standing().Servers[a]; !looked || len(found) != 0 {
			t.Errorf("what is not there any more still stands: %v", found)
		}
		f.edit(func() { f.targets = nil })
		time.Sleep(time.Minute)
		if _, looked := w.Standing().Servers[a]; looked {
			t.Error("a server that is gone was looked at")
		}
	})
}

func TestNobodyIsLookedAtWhileDisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w := watched(t, Target{Server: a, Image: "i", Interval: 5 * time.Second})
		time.Sleep(10 * time.Second)
		f.edit(func() { f.targets[0].Muted = true })
		time.Sleep(2 * time.Second)
		n := len(f.seen(a, engine.Glance))
		f.edit(func() { f.drifts[a] = []model.Finding{added} })
		f.alarms <- a
		time.Sleep(30 * time.Second)
		f.edit(func() { f.targets[0].Muted = false })
		time.Sleep(settle - 2*time.Second)
		if got := len(f.seen(a, engine.Glance)); got != n {
			t.Errorf("a server that is disturbed was looked at %d times", got-n)
		}
		time.Sleep(10 * time.Second)
		if len(w.Standing().Servers[a]) != 1 {
			t.Error("what is still there afterwards is not found")
		}
	})
}

func TestEveryByteIsReadOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := watched(t, Target{Server: a, Image: "i", Interval: time.Hour}, Target{Server: b, Image: "i", Interval: time.Hour},
			Target{Server: "db-cccccc", Image: "j", Interval: time.Hour})
		time.Sleep(49 * time.Hour)
		synctest.Wait()
		f.edit(func() { f.fails = errors.New("no") })
		if n := len(f.seen(a, engine.Patient)) + len(f.seen(b, engine.Patient)); n != 3 {
			t.Errorf("an image was read %d times in two days", n)
		}
		if n := len(f.seen("db-cccccc", engine.Patient)); n != 3 {
			t.Errorf("the other image was read %d times in two days", n)
		}
		time.Sleep(24 * time.Hour)
		if n := len(f.seen("db-cccccc", engine.Patient)); n < 6 {
			t.Errorf("what could not be read was tried again %d times", n-3)
		}
	})
}

func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w := watched(t, Target{Server: a, Image: "i", Interval: time.Hour})
		time.Sleep(time.Second)
		f.edit(func() { f.drifts[a] = []model.Finding{added} })
		found, err := w.Verify(t.Context(), a)
		if err != nil || len(found) != 1 || len(f.seen(a, engine.Whole)) != 1 || len(w.Standing().Servers[a]) != 1 {
			t.Errorf("Verify: %v %v", found, err)
		}
		f.edit(func() { f.fails = model.Errorf(model.Unavailable, "no") })
		if _, err := w.Verify(t.Context(), a); model.CodeOf(err) != model.Unavailable {
			t.Errorf("Verify of what cannot be looked at: %v", err)
		}
	})
}
