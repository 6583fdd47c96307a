package reconcile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kiln/internal/model"
)

// TestPromises lets random things be ordered and befall a world, and checks
// the promises at every decision.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.check = func(s *model.State, d Decision) {
			if err := w.promises(d); err != nil {
				t.Fatalf("%v\n%s", err, w.out.String())
			}
		}
		w.addRouter("r2")
		steps := rapid.IntRange(1, 25).Draw(t, "steps")
		for range steps {
			line := drawCommand(t)
			fmt.Fprintln(&w.out, ">", line)
			if strings.Contains(line, " shop ") && needsServer(line) && !w.hasServer(line) {
				continue
			}
			if err := w.command(strings.Fields(line)); err != nil {
				fmt.Fprintf(&w.out, "refused: %v\n", err)
			}
			if err := cmp.Or(w.deadlines(), w.condemned()); err != nil {
				t.Fatalf("%v\n%s", err, w.out.String())
			}
		}
		w.heal()
		for _, check := range []func() error{w.rests, w.replays} {
			if err := check(); err != nil {
				t.Fatalf("%v\n%s", err, w.out.String())
			}
		}
	})
}

// drawCommand draws a line of a script.
func drawCommand(t *rapid.T) string {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	n := func(label string, most int) string { return fmt.Sprint(rapid.IntRange(0, most).Draw(t, label)) }
	mode := func() string { return pick("mode", "", "", " mode=queue", " mode=supersede") }
	switch rapid.IntRange(0, 28).Draw(t, "what") {
	case 23:
		return pick("recycle", "recycle shop", "recycle shop "+n("server", 3))
	case 24, 25:
		return "drift shop " + n("server", 3) + pick("found", " f:1", " f:1 f:2", " f:2", "")
	case 26:
		return pick("kind", "hotfix", "shell") + " shop " + n("server", 3) + " reason=why ttl=" + pick("ttl", "5s", "2m", "8m") + pick("aside", "", " aside=true")
	case 27:
		return pick("session", "extend shop "+n("server", 3)+" reason=more by=1m", "clock 25h", "clock -25h")
	case 20, 21:
		return pick("stage", "pause shop", "pause shop for=40s", "resume shop", "finish shop") + pick("wait", "", " wait=no")
	case 0, 1, 2, 3:
		return "deploy shop image=" + pick("image", "1", "2", "3", "4-sick", "5-crash", "6-wrong", "7-impossible", "8-missing", "9-sickening", "a-hanging", "b-drifting") +
			" servers=" + pick("servers", "1", "2", "3", "4") + pick("checks", "", " validate=home") +
			pick("warm", "", " keep_warm=0s", " keep_warm=20s") + pick("wait", "", " wait=no") + pick("route", "", "", "", "", " route=none", " route=name", " overlap=true route=name") + mode() +
			pick("upkeep", "", "", "", " max_age=20m jitter=50", " drift=alert", " shell=deny", " park=-1s", " volume=single-writer servers=1") +
			pick("strategy", "", "", " strategy=rolling", " strategy=rolling surge=0 unavailable=1", " strategy=rolling surge=1 unavailable=50%", " strategy=canary", " strategy=canary steps=30/0s,60/2s")
	case 4:
		return "scale shop servers=" + n("servers", 4) + mode()
	case 5, 6:
		return "rollback shop" + pick("wait", "", " wait=no") + mode()
	case 7:
		return "abort shop" + pick("waiting", "", "", " waiting=0")
	case 8:
		return pick("rare", "wait 1s", "wait 1s", "destroy shop")
	case 9, 10:
		return "wait " + pick("time", "500ms", "1s", "3s", "12s", "31s", "2m", "11m")
	case 11:
		return "kill shop " + n("server", 3)
	case 12:
		return "vanish shop " + n("server", 3)
	case 13:
		return "health shop " + n("server", 3) + " " + pick("status", "healthy", "unhealthy", "unhealthy")
	case 14:
		return "router " + pick("router", "silent r1", "silent r2", "back r1", "back r2", "back r1", "back r2", "refuses r1", "refuses r2")
	case 15:
		return pick("accident", "daemon", "daemon", "reboot", "orphan shop-aaaaaa")
	case 16:
		return "flight shop " + n("server", 3) + " requests=" + n("requests", 2)
	case 17:
		return "engine " + pick("engine", "silent", "back", "back")
	case 18:
		return "probes " + pick("probes", "off", "stall", "on", "on", "on")
	default:
		return "run"
	}
}

func needsServer(line string) bool {
	for _, verb := range []string{"kill", "vanish", "health", "flight", "drift", "hotfix", "shell", "extend", "recycle shop "} {
		if strings.HasPrefix(line, verb) {
			return true
		}
	}
	return false
}

func (w *world) hasServer(line string) bool {
	svc := w.s.Services["shop"]
	if svc == nil {
		return false
	}
	alive := 0
	for _, srv := range svc.Servers {
		if o := w.servers[srv.ID]; o != nil && o.State == model.Running {
			alive++
		}
	}
	var index int
	_, err := fmt.Sscan(strings.Fields(line)[2], &index)
	return err == nil && index < alive
}

// promises checks a decision against the state it was made on.
func (w *world) promises(d Decision) error {
	if len(d.Events) > 0 && len(d.Actions) > 0 {
		return fmt.Errorf("a decision has events and actions")
	}
	for _, a := range d.Actions {
		if err := w.promisesOfAction(a); err != nil {
			return err
		}
	}
	if len(d.Events) == 0 {
		return nil
	}
	return w.promisesOfEvents(d.Events)
}

func (w *world) promisesOfAction(a Action) error {
	srv := w.s.Server(a.Server)
	switch a.Verb {
	case Publish:
		return w.onlyProven(a.Table)
	case Stop:
		o := w.servers[a.Server]
		for _, r := range w.routers {
			if r.sends(a.Server) && o != nil && o.State == model.Running {
				return fmt.Errorf("promise 3: %s is stopped, and router %s still sends it requests", a.Server, r.id)
			}
			if srv != nil && o != nil && o.State == model.Running && r.flight[a.Server] > 0 && w.now.Elapsed < srv.DrainSince.Add(5*time.Minute) {
				return fmt.Errorf("promise 3: %s is stopped with requests in flight before its drain is over", a.Server)
			}
		}
	case Destroy:
		if srv != nil && srv.Phase != model.PhaseRecorded {
			return fmt.Errorf("promise 5: %s is destroyed and is %s", a.Server, srv.Phase)
		}
		if st := (&step{s: w.s}); srv == nil && !st.buried(a.Server) {
			return fmt.Errorf("promise 5: %s, which the journal does not know, is destroyed without a record", a.Server)
		}
		for _, r := range w.routers {
			if r.sends(a.Server) || srv != nil && r.flight[a.Server] > 0 && w.now.Elapsed < srv.Since.Add(drainSlack) {
				return fmt.Errorf("the address of %s is set free while router %s uses it", a.Server, r.id)
			}
		}
	case Provision:
		if srv == nil || a.Template.Hash() != srv.TemplateHash {
			return fmt.Errorf("promise 6: %s gets another template", a.Server)
		}
		return w.alone(a)
	}
	return nil
}

// onlyProven: traffic reaches only servers that passed every check.
func (w *world) onlyProven(t *model.Table) error {
	for _, svc := range t.Services {
		stands := w.s.Services[svc.Name]
		for _, b := range svc.Backends {
			srv, want := w.s.Server(b.Server), stands.Release(b.Release)
			switch {
			case srv == nil || !proven(srv.Phase):
				return fmt.Errorf("promise 1: %s is in the table and is not proven", b.Server)
			case srv.TemplateHash != want.TemplateHash:
				return fmt.Errorf("promise 6: %s is in the table for release %d and runs another template", b.Server, b.Release)
			case !w.passed[b.Server][want.ChecksHash]: // perhaps before a deployment that failed had it pass others
				return fmt.Errorf("promise 1: %s is in the table for release %d and has not passed its checks", b.Server, b.Release)
			case svc.Split != nil && b.Release != svc.Release && b.Release != svc.Split.Release:
				return fmt.Errorf("%s is of release %d, and neither side of the split is", b.Server, b.Release)
			}
		}
	}
	return nil
}

// promisesOfEvents folds a copy and compares before and after.
func (w *world) promisesOfEvents(events []model.Payload) error {
	after := clone(w.s)
	taken, switched, verdict := false, false, model.Verdict("")
	for _, p := range events {
		switch p := p.(type) {
		case model.ServerAdvanced:
			srv := w.s.Server(p.ID)
			healthy := srv.Phase == model.PhaseServing && srv.Health != model.Unhealthy && !w.ofCanary(srv)
			if p.Phase == model.PhaseDestroyed && w.servers[p.ID] != nil {
				return fmt.Errorf("promise 8: %s is said to be destroyed and is there", p.ID)
			}
			taken = taken || healthy && (p.Phase == model.PhaseDraining || p.Phase == model.PhaseWarm || p.Phase == model.PhaseStopping)
		case model.DeploymentAdvanced:
			if err := cmp.Or(w.freshlyWarm(p), w.heldByPause(p.Service, p.Stage, false)); err != nil {
				return err
			}
		case model.ServiceSwitched:
			switched = true
			if err := cmp.Or(w.everyRouterUses(p), w.heldByPause(p.Service, 0, true)); err != nil {
				return err
			}
		case model.DeploymentEnded:
			verdict = p.Verdict
			if p.Reason == "" {
				return fmt.Errorf("promise 4: a deployment ended without a reason")
			}
		case model.ServerRecorded:
			if p.Record.Evidence == "" && len(p.Record.Missing) == 0 {
				return fmt.Errorf("promise 5: a death record without evidence that does not say so")
			}
		case model.StrangerRecorded:
			if p.Record.Evidence == "" && len(p.Record.Missing) == 0 {
				return fmt.Errorf("promise 5: a death record of a stranger without evidence that does not say so")
			}
		}
		e := model.Event{Seq: after.Seq + 1, Epoch: after.Epoch, At: w.now.Wall, Elapsed: w.now.Elapsed, Data: p}
		if err := after.Apply(e); err != nil {
			return err
		}
	}
	before, svc := w.s.Services["shop"], after.Services["shop"]
	if svc == nil {
		return nil
	}
	if (verdict == model.Failed || verdict == model.Aborted) && svc.InService != before.InService {
		return fmt.Errorf("promise 4: a failed deployment changed the release in service")
	}
	v := &service{step: &step{s: w.s}, svc: before}
	if taken && !svc.Destroying && !(v.stopsFirst() && !switched) && Budget(svc) < w.handedOver(svc) {
		return fmt.Errorf("promise 2: ready servers were taken, and %d are missing now", -Budget(svc))
	}
	return nil
}

// handedOver returns what the budget is at least: one server may be missing
// where it is stopped before its successor starts.
func (w *world) handedOver(svc *model.Service) int {
	r := svc.Release(svc.InService)
	if r != nil && (r.Template.SingleWriter() || len(r.Policy.Routes) == 0 && !r.Policy.Deploy.Overlap) {
		return -1
	}
	return 0
}

// condemned: a server whose time is up does not serve any more, or the journal
// says why it does.
func (w *world) condemned() error {
	for _, svc := range w.s.Services {
		for _, srv := range svc.Servers {
			c := srv.Condemned
			if c != nil && c.Until != 0 && c.Until < w.now.Elapsed.Add(-time.Second) && srv.Phase == model.PhaseServing && !c.Late && !svc.Destroying && !w.blind {
				return fmt.Errorf("server %s serves %s after its time (%s), and nothing says why", srv.ID, w.now.Elapsed.Sub(c.Until), c.Reason)
			}
		}
	}
	return nil
}

// alone: a volume that one server at a time may have is had by one at a time.
func (w *world) alone(a Action) error {
	for id, o := range w.servers {
		srv := w.s.Server(id)
		if id != a.Server && o.State == model.Running && srv != nil && a.Template.SingleWriter() &&
			w.s.Services[srv.Service].Release(srv.Release).Template.SingleWriter() && srv.Service == a.Service {
			return fmt.Errorf("%s is made while %s has the volume", a.Server, id)
		}
	}
	return nil
}

// ofCanary reports whether the server is of a running canary: it may go at any
// time.
func (w *world) ofCanary(srv *model.Server) bool {
	svc := w.s.Services[srv.Service]
	d := svc.Deployment
	return d != nil && d.Strategy == model.Canary && svc.InService != 0 && srv.TemplateHash == svc.Release(d.To).TemplateHash &&
		srv.TemplateHash != svc.Release(svc.InService).TemplateHash
}

// heldByPause: while somebody holds a deployment, it reaches no further stage.
func (w *world) heldByPause(service string, stage int, switched bool) error {
	d := w.s.Services[service].Deployment
	if d != nil && d.Pause != nil && (switched || stage > d.Stage) {
		return fmt.Errorf("deployment %s is paused in stage %d, and goes on", d.ID, d.Stage)
	}
	return nil
}

// everyRouterUses: a switch is complete when every live router, silent or not,
// sends requests to the new set alone.
func (w *world) everyRouterUses(p model.ServiceSwitched) error {
	release := w.s.Services[p.Service].Release(p.Release)
	for _, r := range w.routers {
		for _, svc := range r.table.Services {
			if svc.Name != p.Service {
				continue
			}
			if slices.ContainsFunc(svc.Backends, func(b model.Upstream) bool { return b.Release != release.Number }) || svc.Release != release.Number {
				return fmt.Errorf("promise 3: %s is switched to release %d, and router %s serves release %d", p.Service, p.Release, r.id, svc.Release)
			}
		}
	}
	return nil
}

// freshlyWarm: a warm server takes over only with a healthy probe no older than
// two intervals.
func (w *world) freshlyWarm(p model.DeploymentAdvanced) error {
	svc := w.s.Services[p.Service]
	if p.Phase != model.DeploySwitching || svc.Deployment.Phase == model.DeploySwitching {
		return nil
	}
	for _, srv := range stageMembers(svc) {
		health := w.observe().Health[srv.ID]
		if srv.Phase == model.PhaseWarm && (health.Status != model.Healthy || w.now.Elapsed.Sub(health.At) > 2*time.Second) {
			return fmt.Errorf("%s takes over from warm, last seen %s at %d", srv.ID, health.Status, health.At)
		}
	}
	return nil
}

func clone(s *model.State) *model.State {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	c := model.NewState()
	if err := json.Unmarshal(b, c); err != nil {
		panic(err)
	}
	return c
}

// deadlines: no deployment outlives its deadline.
func (w *world) deadlines() error {
	for _, svc := range w.s.Services {
		if d := svc.Deployment; d != nil && d.Pause == nil && w.now.Elapsed > d.Deadline.Add(2*time.Second) {
			return fmt.Errorf("promise 4: deployment %s is %s past its deadline", d.ID, d.Phase)
		}
	}
	return nil
}

// heal ends every disturbance and lets an hour pass.
func (w *world) heal() {
	fmt.Fprintln(&w.out, "> heal")
	w.blind, w.noProbes, w.stalled = false, false, false
	for _, r := range w.routers {
		r.silent, r.refuse = false, ""
		r.flight = map[model.ServerID]int{}
	}
	for d := range w.behaves {
		w.behaves[d] = ""
	}
	w.drift = map[model.ServerID][]model.Finding{}
	for id := range w.health {
		delete(w.health, id)
	}
	w.refused = map[Key]string{}
	if svc := w.s.Services["shop"]; svc != nil && svc.Deployment != nil && svc.Deployment.Pause != nil && svc.Deployment.Abort == "" {
		if err := w.command([]string{"resume", "shop"}); err != nil {
			panic(err)
		}
	}
	w.wait(time.Hour)
}

// rests checks that what is left is what is declared.
func (w *world) rests() error {
	left := maps.Clone(w.servers)
	for name, svc := range w.s.Services {
		if svc.Meltdown != nil {
			return fmt.Errorf("%s is still melting: %s", name, svc.Meltdown.Reason)
		}
		if svc.Deployment != nil || len(svc.Queue) > 0 || svc.Pending != nil || svc.Destroying {
			return fmt.Errorf("promise 4: %s has not come to rest", name)
		}
		for _, d := range svc.Deployments {
			if !d.Settled {
				return fmt.Errorf("deployment %s has not settled", d.ID)
			}
		}
		want := 0
		if r := svc.Release(svc.InService); r != nil {
			want = r.Policy.Servers
		}
		for _, srv := range svc.Servers {
			delete(left, srv.ID)
			if svc.Release(svc.InService) != nil && svc.Release(svc.InService).Policy.Lifetime.MaxAge > 0 && srv.Phase != model.PhaseServing {
				continue // its servers come and go
			}
			if srv.Phase != model.PhaseServing || srv.TemplateHash != svc.Release(svc.InService).TemplateHash {
				return fmt.Errorf("promise 8: server %s is left, %s", srv.ID, srv.Phase)
			}
			want--
		}
		if aged := svc.Release(svc.InService); want != 0 && (aged == nil || aged.Policy.Lifetime.MaxAge == 0 || want > 1) {
			return fmt.Errorf("%s lacks %d servers", name, want)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("promise 8: orphans %v", slices.Sorted(maps.Keys(left)))
	}
	return nil
}

// replays checks that the stored form of the events gives the same state, and
// that deciding changed nothing in it.
func (w *world) replays() error {
	again := model.NewState()
	for _, e := range w.events {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		var read model.Event
		if err := json.Unmarshal(b, &read); err != nil {
			return err
		}
		if err := again.Apply(read); err != nil {
			return err
		}
	}
	x, _ := json.Marshal(w.s)
	y, _ := json.Marshal(again)
	if string(x) != string(y) {
		return fmt.Errorf("promise 9: replaying the journal gives another state:\n%s\n%s", x, y)
	}
	return nil
}
