package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
	"kiln/internal/reconcile"
)

const kindUpkeep = "upkeep"

// upkeepOf draws the rest of a policy: how old servers get, what is done about
// drift, who may look into them, how long failed ones are kept.
func upkeepOf(n uint64, u *model.Upkeep) {
	if n%4 == 0 {
		u.Lifetime = model.Lifetime{
			MaxAge: model.Duration([]time.Duration{90 * time.Second, 4 * time.Minute, 15 * time.Minute}[n>>2%3]), Jitter: []int{0, 20}[n>>4%2],
		}
	}
	if n>>5%8 == 0 {
		u.Drift.Response = model.DriftAlert
	}
	if n>>8%16 == 0 {
		u.Shell = model.ShellDeny
	}
	u.Park = model.Duration([]time.Duration{0, 0, time.Minute, -1}[n>>12%4])
}

// volumesOf gives some templates a volume that one server at a time may have.
func volumesOf(n uint64) []model.Mount {
	if n%10 != 0 {
		return nil
	}
	return []model.Mount{{Volume: "data", Path: "/data", Access: model.SingleWriter}}
}

func upkeepVerbs() []verb {
	return []verb{
		{name: "recycle", weight: 12, do: (*world).recycle},
		{name: "open a session", weight: 16, do: (*world).openSession},
		{name: "extend a session", weight: 12, do: (*world).extendSession},
		{name: "end a session", weight: 8, do: (*world).endSession},
	}
}

func (w *world) recycle(n uint64) bool {
	req := reconcile.RecycleRequest{Service: serviceNames[n%uint64(len(serviceNames))], By: "somebody"}
	if o := w.pick(n >> 8); o != nil && n>>4%2 == 0 {
		req.Service, req.Server = o.ID.Service(), o.ID
	}
	return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, _, err := reconcile.Recycle(s, req, now)
		for _, p := range events {
			if _, ok := p.(model.ServerCondemned); !ok {
				w.violate(6, "recycling %s does more than that: %s", req.Service, p.Kind())
			}
		}
		return events, reconcile.DeployResult{}, err
	})
}

func (w *world) openSession(n uint64) bool {
	o := w.pick(n)
	if o == nil {
		return false
	}
	req := reconcile.SessionRequest{
		Server: o.ID, Kind: []model.SessionKind{model.SessionHotfix, model.SessionShell}[n>>8%2], By: "somebody", Reason: "to see",
		OutOfRotation: n>>9%3 == 0, TTL: model.Duration(5*time.Second) + model.Duration(n>>12%uint64(8*time.Minute)),
	}
	return w.do(func(s *model.State, snapshot *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, _, err := reconcile.OpenSession(s, req, reconcile.Observation{Snapshot: snapshot}, now)
		return events, reconcile.DeployResult{}, err
	})
}

// sessions returns those of living servers, or the open ones.
func (w *world) sessions(open bool) []*model.Session {
	var list []*model.Session
	for _, name := range serviceNames {
		svc := w.journal.replay.Services[name]
		if svc == nil {
			continue
		}
		for _, x := range svc.Sessions {
			if open && x.Ended == nil || !open && svc.Servers[x.Server] != nil {
				list = append(list, x)
			}
		}
	}
	return list
}

func (w *world) extendSession(n uint64) bool {
	list := w.sessions(false)
	if len(list) == 0 {
		return false
	}
	x := list[n%uint64(len(list))]
	return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, err := reconcile.ExtendSession(s, reconcile.ExtendRequest{
			Server: x.Server, By: "somebody", Reason: "not done", For: model.Duration(time.Second) + model.Duration(n>>8%uint64(3*time.Minute)),
		}, now)
		return events, reconcile.DeployResult{}, err
	})
}

func (w *world) endSession(n uint64) bool {
	list := w.sessions(true)
	if len(list) == 0 {
		return false
	}
	x := list[n%uint64(len(list))]
	return w.do(func(s *model.State, _ *model.Snapshot, now model.Now) ([]model.Payload, reconcile.DeployResult, error) {
		events, err := reconcile.EndSession(s, x.ID, x.Server, model.SessionEnd{At: now.Wall, How: "exit status 0"})
		return events, reconcile.DeployResult{}, err
	})
}

// driftsOne changes something in a running server; at times what was changed is
// not to be seen any more after a while.
func (w *world) driftsOne(n uint64) bool {
	o := w.pick(n)
	if o == nil || o.State != model.Running {
		return false
	}
	w.drifts(o.ID, n>>8)
	return true
}

func (w *world) driftAll(n uint64) bool {
	drifted := false
	for _, o := range w.machine.Observed(w.wall()) {
		if o.State == model.Running {
			w.drifts(o.ID, n>>8)
			drifted = true
		}
	}
	return drifted
}

func (w *world) drifts(id model.ServerID, n uint64) {
	f := w.fact(id)
	f.drift = append(f.drift, model.Finding{Server: id, Detector: model.DetectFiles, What: "file added", Where: fmt.Sprintf("/x/%d", n%4), How: "simulated", At: w.wall()})
	if n>>2%4 == 0 {
		w.after(time.Duration(n>>4%uint64(20*time.Second)), func() { f.drift = nil })
	}
}

func (w *world) driftFleet(n uint64) bool {
	what := []string{"firewall changed", "link removed", "foreign task"}[n%3]
	w.fleet = append(w.fleet, model.Finding{Detector: model.DetectFleet, What: what, Where: fmt.Sprint(n >> 8 % 3), How: "simulated", At: w.wall()})
	return true
}

// inspector is what watches the servers.
type inspector struct {
	w *world
	d *daemon
}

// Standing implements control.Drift.
func (i inspector) Standing() model.Inspections {
	found := model.Inspections{Servers: map[model.ServerID][]model.Finding{}, Fleet: slices.Clone(i.w.fleet), FleetAt: i.d.elapsed(i.w.now)}
	for _, o := range i.w.machine.Observed(i.w.wall()) {
		if o.State != model.Running {
			continue
		}
		list := slices.Clone(i.w.fact(o.ID).drift)
		t, _ := i.w.machine.Template(o.ID)
		if behaviourOf(t.Image).drifts && !i.w.wall().Before(o.StartedAt.Add(2*time.Second)) {
			list = append(list, model.Finding{Server: o.ID, Detector: model.DetectProcesses, What: "executable from outside the image", Where: "/tmp/x", How: "simulated"})
		}
		found.Servers[o.ID] = list
	}
	return found
}

// Mend implements engine.Mender.
func (e *watched) Mend(ctx context.Context) error {
	if err := e.w.wait(ctx, e.w.between("mend", time.Millisecond, time.Second)); err != nil {
		return err
	}
	e.w.fleet = slices.DeleteFunc(slices.Clone(e.w.fleet), model.Finding.Mendable)
	return nil
}

// noteUpkeep judges events of upkeep before they are folded.
func (w *world) noteUpkeep(e model.Event, s *model.State) {
	switch p := e.Data.(type) {
	case model.ServerCondemned:
		w.cover.met(kindUpkeep, "condemned by "+string(p.Cause))
	case model.SessionOpened:
		w.cover.met(kindUpkeep, string(p.Session.Kind))
	case model.DriftRecurred:
		if p.Halted {
			w.cover.met(kindUpkeep, "drift halted")
		}
	case model.SessionExtended:
		w.cover.met(kindUpkeep, string(p.Kind()))
		extended := 0
		for _, x := range s.Services[p.Server.Service()].Sessions {
			if x.Server == p.Server {
				extended += len(x.Extensions)
			}
		}
		if extended >= model.MaxExtensions {
			w.violate(10, "session %s is extended for the %dth time", p.ID, extended+1)
		}
	default:
		w.cover.met(kindUpkeep, string(p.Kind()))
	}
}

// upkeepWanted lists what a whole run has to meet.
func upkeepWanted() [][2]string {
	var list [][2]string
	for _, c := range []model.CondemnCause{model.CondemnedByDrift, model.CondemnedByLifetime, model.CondemnedByRequest} {
		list = append(list, [2]string{kindUpkeep, "condemned by " + string(c)})
	}
	for _, k := range []model.Payload{
		model.ServerOverdue{},
		model.ServerDrifted{},
		model.ServerUndrifted{},
		model.FleetDrifted{},
		model.FleetMended{},
		model.ClockJumped{},
		model.SessionExtended{},
		model.SessionEnded{},
	} {
		list = append(list, [2]string{kindUpkeep, string(k.Kind())})
	}
	for _, k := range []string{"drift halted", string(model.SessionHotfix), string(model.SessionShell)} {
		list = append(list, [2]string{kindUpkeep, k})
	}
	return list
}

// yields reports whether a server of the release is stopped before its
// successor starts.
func yields(r *model.Release) bool {
	return r.Template.SingleWriter() || len(r.Policy.Routes) == 0 && !r.Policy.Deploy.Overlap
}

// judgeReplacing: the successor of a condemned server is of the same template
// and release (6), one at a time (2), and not for drift that was given up.
func (w *world) judgeReplacing(svc *model.Service, p model.ServerCreated) {
	words, reason, found := strings.Cut(strings.TrimPrefix(p.Cause, "replaces "), ": ")
	old := svc.Servers[model.ServerID(words)]
	if !found || old == nil {
		return
	}
	if old.TemplateHash != p.TemplateHash || svc.Deployment == nil && p.Release != svc.InService {
		w.violate(6, "server %s replaces %s, which is of another template or release", p.ID, old.ID)
	}
	if old.Condemned == nil || old.Health == model.Unhealthy {
		return
	}
	for _, srv := range svc.Servers {
		if coming := srv.Phase == model.PhaseCreated || srv.Phase == model.PhaseRunning || srv.Phase == model.PhaseReady; coming && srv.TemplateHash == p.TemplateHash {
			w.violate(2, "server %s replaces %s while %s is being made: one after the other", p.ID, old.ID, srv.ID)
		}
	}
	if strings.HasPrefix(reason, "drift: ") {
		w.judgeDriftReplaced(svc, old)
	}
}

// judgeDriftReplaced: drift that comes back soon after each replacement is
// given up on after a bounded number of them.
func (w *world) judgeDriftReplaced(svc *model.Service, old *model.Server) {
	if svc.Dormant(old) && old.Taint == nil {
		w.violate(2, "server %s is replaced for drift, which was given up: %s", old.ID, svc.Recurrence.Reason)
	}
	if t, _ := w.machine.Template(old.ID); !behaviourOf(t.Image).drifts {
		return
	}
	const most = 30 // 3 replacements of at most 4 servers each, and those under way
	key := old.TemplateHash
	if w.now-w.driftedAt[key] > time.Hour {
		w.driftedFor[key] = 0
	}
	w.driftedAt[key] = w.now
	if w.driftedFor[key]++; w.driftedFor[key] > most {
		w.violate(2, "%d servers of a template that drifts at each start were replaced, and no end is in sight", w.driftedFor[key])
	}
}

// judgeLeaving: a condemned server leaves when its successor has come, unless
// the service is one that stops first (2); and none is kept to come back (6).
func (w *world) judgeLeaving(p model.ServerAdvanced, srv *model.Server, svc *model.Service) {
	if srv.Condemned == nil {
		return
	}
	if p.Phase == model.PhaseWarm {
		w.violate(6, "server %s is kept warm, and it is to be replaced: %s", srv.ID, srv.Condemned.Reason)
	}
	release := svc.Release(svc.InService)
	if release == nil || svc.Destroying || svc.Deployment != nil || svc.Pending != nil || yields(release) ||
		srv.Phase != model.PhaseServing || srv.Health == model.Unhealthy || p.Phase != model.PhaseDraining || srv.TemplateHash != release.Template.Hash() {
		return
	}
	others := 0
	for _, other := range svc.Servers {
		if other.ID != srv.ID && other.Phase == model.PhaseServing && other.Health != model.Unhealthy && other.TemplateHash == srv.TemplateHash {
			others++
		}
	}
	if others < release.Policy.Servers {
		w.violate(2, "server %s leaves (%s) before its successor has come: %d others of %d serve", srv.ID, p.Reason, others, release.Policy.Servers)
	}
}

// judgeCondemned: whoever is condemned is out of service when the time is up,
// or the journal says why not; and somebody looks then (10).
func (w *world) judgeCondemned(now, wake model.Instant) {
	for _, name := range serviceNames {
		svc := w.journal.replay.Services[name]
		if svc == nil || svc.Destroying {
			continue
		}
		for _, srv := range svc.Servers {
			c := srv.Condemned
			switch {
			case c == nil:
			case srv.Phase == model.PhaseParked && srv.Aside != 0 && now >= max(srv.Until, srv.Aside):
				w.violate(10, "server %s waits for its session, and its time was up %s ago", srv.ID, now.Sub(srv.Aside))
			case srv.Phase != model.PhaseServing || c.Late || c.Until == 0:
			case now >= c.Until:
				w.violate(10, "server %s serves %s after its time (%s), and nothing says why", srv.ID, now.Sub(c.Until), c.Reason)
			case wake == 0 || wake > c.Until:
				w.violate(10, "server %s is to be gone by %d, and nobody looks before %d", srv.ID, c.Until, wake)
			}
		}
		w.judgeAges(svc, now)
	}
}

// judgeAges: no server in service is older than its policy lets it be, unless
// that was said (10).
func (w *world) judgeAges(svc *model.Service, now model.Instant) {
	for _, srv := range svc.Servers {
		age := svc.Release(srv.Release).Policy.Lifetime.MaxAge.D()
		if age <= 0 || srv.Phase != model.PhaseServing || now.Sub(srv.RanSince) < age {
			continue
		}
		if c := srv.Condemned; c == nil || c.Until != 0 && c.Until <= now && !c.Late {
			w.violate(10, "server %s is %s old and serves; its policy says %s", srv.ID, now.Sub(srv.RanSince), age)
		}
	}
}

// judgeVolume: a volume that one server at a time may have is had by one (6).
func (w *world) judgeVolume(id model.ServerID, t model.Template) {
	if !t.SingleWriter() {
		return
	}
	for _, o := range w.machine.Observed(w.wall()) {
		other, known := w.machine.Template(o.ID)
		srv, _ := w.server(o.ID)
		if o.ID == id || o.State == model.Exited || !known || !other.SingleWriter() || other.Service != t.Service || srv == nil || !srv.Phase.Alive() || w.fact(o.ID).wasGone {
			continue
		}
		w.violate(6, "server %s is provisioned while %s (%s) has its volume", id, o.ID, srv.Phase)
	}
}
