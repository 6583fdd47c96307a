package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// world is everything that Step decides about, in memory: an engine, routers,
// probes and a clock that moves only when told. It carries actions out at once
// and prints what is written down.
type world struct {
	s        *model.State
	now      model.Now
	servers  map[model.ServerID]*model.Observed
	images   map[model.Digest]string // digest → behaviour, of the prepared ones
	behaves  map[model.Digest]string // of all images
	health   map[model.ServerID]model.HealthObserved
	started  map[model.ServerID]model.Instant
	routers  []*fakeRouter
	free     int64
	blind    bool // the engine cannot be observed
	noProbes bool // the daemon has no probes
	stalled  bool // the probes stand still: what they say gets old
	outcomes []Outcome
	events   []model.Event
	passed   map[model.ServerID]map[string]bool // the checks that each server has ever passed
	out      strings.Builder
	nextIP   int
	frozen   map[model.ServerID]bool
	zones    map[string]*time.Location
	saved    *model.State                       // of a backup
	drift    map[model.ServerID][]model.Finding // what inspections find
	fleet    *FleetObserved
	uncopied bool                                  // no snapshot of a volume can be made
	refused  map[Key]string                        // actions that failed the last time, and why
	check    func(before *model.State, d Decision) // called for each decision
}

type fakeRouter struct {
	id     string
	table  model.Table
	silent bool
	refuse string
	flight map[model.ServerID]int
	cut    map[model.ServerID]uint64
}

func newWorld() *world {
	w := &world{
		s: model.NewState(), servers: map[model.ServerID]*model.Observed{}, images: map[model.Digest]string{},
		behaves: map[model.Digest]string{}, health: map[model.ServerID]model.HealthObserved{},
		started: map[model.ServerID]model.Instant{}, refused: map[Key]string{}, passed: map[model.ServerID]map[string]bool{}, drift: map[model.ServerID][]model.Finding{}, free: 8 << 30, check: func(*model.State, Decision) {},
	}
	w.now = model.Now{Elapsed: model.Instant(time.Hour), Wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), BootID: "boot-1"}
	w.frozen, w.zones = map[model.ServerID]bool{}, testZones()
	w.addRouter("r1")
	w.append("kiln", model.InstanceCreated{Instance: "abcdef"})
	w.restart("boot-1")
	return w
}

func (w *world) addRouter(id string) *fakeRouter {
	r := &fakeRouter{id: id, flight: map[model.ServerID]int{}, cut: map[model.ServerID]uint64{}}
	w.routers = append(w.routers, r)
	return r
}

// restart begins a new epoch: another daemon takes over.
func (w *world) restart(boot string) {
	w.now.BootID = boot
	w.s.Epoch++
	w.outcomes = nil
	w.health = map[model.ServerID]model.HealthObserved{}
	w.append("kiln", model.DaemonStarted{Epoch: w.s.Epoch, Version: "test", BootID: boot})
}

func (w *world) append(actor string, payloads ...model.Payload) {
	for _, p := range payloads {
		e := model.Event{Seq: w.s.Seq + 1, Epoch: max(1, w.s.Epoch), At: w.now.Wall, Elapsed: w.now.Elapsed, Actor: actor, Data: p}
		if err := w.s.Apply(e); err != nil {
			panic(err)
		}
		w.events = append(w.events, e)
		if v, ok := p.(model.ServerValidated); ok {
			if w.passed[v.ID] == nil {
				w.passed[v.ID] = map[string]bool{}
			}
			w.passed[v.ID][v.Checks] = true
		}
		if text := describe(p); text != "" {
			fmt.Fprintf(&w.out, "%8s  %s\n", w.now.Elapsed.Sub(model.Instant(time.Hour)).Round(time.Millisecond), text)
		}
	}
}

// run asks for decisions and carries them out until nothing changes.
func (w *world) run() {
	for range 500 {
		w.probe()
		d := Step(w.s, w.observe(), w.now)
		w.check(w.s, d)
		if len(d.Events) > 0 {
			w.append("kiln", d.Events...)
			w.outcomes = nil // news only once
			continue
		}
		w.outcomes = nil
		before := w.print()
		for _, a := range d.Actions {
			w.do(a)
		}
		if len(w.outcomes) == 0 && w.print() == before {
			return
		}
	}
	panic("the world does not come to rest:\n" + w.out.String())
}

// print is all of the world that actions change.
func (w *world) print() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(w.servers)) {
		fmt.Fprint(&b, id, w.servers[id].State)
	}
	for _, r := range w.routers {
		fmt.Fprint(&b, r.id, r.table.Epoch, r.table.Generation)
	}
	fmt.Fprint(&b, len(w.images))
	return b.String()
}

// wait lets time pass, and asks again whenever a decision said so, at least
// every second.
func (w *world) wait(d time.Duration) {
	end := w.now.Elapsed.Add(d)
	for {
		w.run()
		if w.now.Elapsed >= end {
			return
		}
		stride := time.Second
		if d > 5*time.Minute && w.now.Elapsed > end.Add(2*time.Minute-d) {
			stride = time.Minute // long quiet times: the wake-ups tell when something is due
		}
		next := min(end, w.now.Elapsed.Add(stride))
		if wake := Step(w.s, w.observe(), w.now).Wake; wake > w.now.Elapsed {
			next = min(next, wake)
		}
		w.now.Wall = w.now.Wall.Add(next.Sub(w.now.Elapsed))
		w.now.Elapsed = next
	}
}

func (w *world) observe() Observation {
	obs := Observation{Zones: w.zones, Health: w.health, Outcomes: w.outcomes, UnderWay: map[Key]bool{}, Failing: maps.Clone(w.refused)}
	if w.noProbes {
		obs.Health = nil
	}
	if !w.blind {
		snap := &model.Snapshot{Capacity: model.Capacity{MemoryTotal: w.free, MemoryFree: w.free, Addresses: 900}}
		for _, id := range slices.Sorted(maps.Keys(w.servers)) {
			snap.Servers = append(snap.Servers, *w.servers[id])
		}
		snap.Images = slices.Sorted(maps.Keys(w.images))
		obs.Snapshot = snap
	}
	w.inspect(&obs)
	for _, r := range w.routers {
		if r.silent {
			obs.RoutersSilent++
		} else {
			obs.Routers = append(obs.Routers, r.status())
		}
	}
	return obs
}

// sends reports whether the router gives the server requests.
func (r *fakeRouter) sends(id model.ServerID) bool {
	for _, svc := range r.table.Services {
		for _, b := range svc.Backends {
			if b.Server == id {
				return true
			}
		}
	}
	return false
}

func (r *fakeRouter) status() model.RouterStatus {
	s := model.RouterStatus{ID: r.id, Epoch: r.table.Epoch, Generation: r.table.Generation}
	for _, id := range slices.Sorted(maps.Keys(r.flight)) {
		s.Servers = append(s.Servers, model.RouterServer{Server: id, InFlight: model.InFlight{Requests: r.flight[id]}, Cut: r.cut[id]})
	}
	return s
}

// probe sets what the health checks say, by what the image does.
func (w *world) probe() {
	if w.stalled {
		return
	}
	for _, target := range ProbeTargets(w.s) {
		o := w.servers[target.Server]
		if o == nil || o.State != model.Running {
			continue
		}
		srv := w.s.Server(target.Server)
		image := w.s.Services[srv.Service].Release(srv.Release).Template.Image
		h := model.HealthObserved{Status: model.HealthUnknown, At: w.now.Elapsed}
		switch {
		case w.behaves[image] == "sick" || w.behaves[image] == "sickening" && w.now.Elapsed >= target.Since.Add(5*time.Second):
			h.Status, h.Detail = model.Unhealthy, "http://"+target.Address+target.Health.Path+": 500"
		case w.now.Elapsed >= target.Since.Add(time.Second):
			h.Status, h.Detail = model.Healthy, "200"
		}
		if w.frozen[target.Server] {
			h.Status, h.Detail = model.Unhealthy, "no answer"
		}
		if forced, ok := w.health[target.Server]; ok && strings.HasPrefix(forced.Detail, "told") {
			h.Status, h.Detail = forced.Status, forced.Detail
		}
		w.health[target.Server] = h
	}
}

func (w *world) do(a Action) {
	o := Outcome{Key: a.Key, Verb: a.Verb, Server: a.Server, Image: a.Image}
	switch a.Verb {
	case Prepare:
		if w.behaves[a.Image] == "hanging" {
			return
		}
		delete(w.images, a.Image)
		if w.behaves[a.Image] == "missing" {
			o.Err = model.Errorf(model.NotFound, "image %s is not here", a.Image.Short())
		} else {
			w.images[a.Image] = w.behaves[a.Image]
		}
	case Provision:
		o.Err = w.provision(a)
	case Publish:
		o.Err = w.publish(*a.Table)
	case Validate:
		if w.behaves[a.Image] == "wrong" || w.behaves[a.Template.Image] == "wrong" {
			o.Err = model.Errorf(model.Precondition, "validation \"home page\": the body does not contain \"Shop\"")
		}
	case Stop:
		if srv := w.servers[a.Server]; srv != nil && srv.State != model.Exited {
			w.exit(a.Server, model.Exit{Known: true, Code: 143, Signal: "SIGTERM"})
		}
	case Disturb, Calm:
		o.Err = w.disturb(a)
	case Snapshot:
		if w.uncopied {
			o.Err = model.Errorf(model.Precondition, "the file system cannot share the blocks of files")
		}
	case Inspect:
	case Mend:
		fmt.Fprintln(&w.out, "          firewall and links are mended")
		w.fleet = nil
	case Record:
		record := *a.Record
		record.Evidence = "sha256:e"
		o.Record = &record
	case Destroy:
		if srv := w.servers[a.Server]; srv != nil && srv.State == model.Running {
			o.Err = model.Errorf(model.Precondition, "server %s runs", a.Server)
		} else {
			delete(w.servers, a.Server)
		}
	}
	if o.Err != nil && w.refused[a.Key] != "" { // the shell would space a repetition
		return
	}
	delete(w.refused, a.Key)
	if o.Err != nil {
		w.refused[a.Key] = o.Err.Message
	}
	w.outcomes = append(w.outcomes, o)
}

func (w *world) provision(a Action) *model.Error {
	behaves := w.behaves[a.Template.Image]
	if behaves == "impossible" {
		return model.Errorf(model.Invalid, "the image has no user %q", "nobody")
	}
	if behaves == "homeless" {
		return model.Errorf(model.Unavailable, "no address is free")
	}
	w.oneWriter(a)
	w.nextIP++
	o := &model.Observed{
		ID: a.Server, Epoch: w.s.Epoch, TemplateHash: a.Template.Hash(), State: model.Running,
		Address: fmt.Sprintf("198.18.0.%d", w.nextIP), StartedAt: w.now.Wall,
	}
	w.servers[a.Server], w.started[a.Server] = o, w.now.Elapsed
	if behaves == "crash" {
		w.exit(a.Server, model.Exit{Known: true, Code: 1})
	}
	if behaves == "stuck" {
		o.State = model.Starting
	}
	return nil
}

// oneWriter panics where two servers would have a volume that is one server's
// at a time.
func (w *world) oneWriter(a Action) {
	for id, o := range w.servers {
		srv := w.s.Server(id)
		if srv == nil || id == a.Server || o.State == model.Exited {
			continue
		}
		release := w.s.Services[srv.Service].Release(srv.Release)
		if contend(release, &model.Release{Template: *a.Template}) && srv.Service == a.Service {
			panic(fmt.Sprintf("%s starts while %s has its volume:\n%s", a.Server, id, w.out.String()))
		}
	}
}

func (w *world) exit(id model.ServerID, e model.Exit) {
	e.At = w.now.Wall
	w.servers[id].State, w.servers[id].Exit = model.Exited, &e
}

func (w *world) publish(t model.Table) *model.Error {
	var err *model.Error
	for _, r := range w.routers {
		switch {
		case r.silent:
			err = model.Errorf(model.Unavailable, "router %s does not answer", r.id)
		case r.refuse != "":
			err = model.Errorf(model.Conflict, "%s", r.refuse)
		default:
			r.table = t
		}
	}
	return err
}
