package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"kiln/internal/model"
)

// ChaosRequest asks that a server be disturbed now.
type ChaosRequest struct {
	Service string
	Server  model.ServerID // "": any that serves
	Kind    model.ChaosKind
	Lasts   model.Duration // of those that last; 0: as the policy says
	By      string
}

// RunChaos begins an experiment, if the guards let it: they are the same for
// those that somebody asks for and those that are due.
func RunChaos(s *model.State, req ChaosRequest, obs Observation, _ model.Now) ([]model.Payload, model.ExperimentID, error) {
	svc := s.Services[req.Service]
	if svc == nil || svc.Destroyed {
		return nil, "", model.Errorf(model.NotFound, "cannot disturb %s: there is no such service", req.Service)
	}
	if !slices.Contains(model.ChaosKinds(), req.Kind) {
		return nil, "", model.Errorf(model.Invalid, "cannot disturb %s: there is no kind %q", req.Service, req.Kind).
			WithHint("the kinds are %v", model.ChaosKinds())
	}
	if req.Lasts < 0 || req.Lasts > model.Duration(chaosLongest) {
		return nil, "", model.Errorf(model.Invalid, "cannot disturb %s for %s: at most %s", req.Service, req.Lasts, model.Duration(chaosLongest))
	}
	if req.Server != "" && (svc.Servers[req.Server] == nil || svc.Servers[req.Server].Phase != model.PhaseServing) {
		return nil, "", model.Errorf(model.Precondition, "cannot disturb %s: it is no server of %s that serves", req.Server, req.Service).
			WithHint("kiln servers %s shows them", req.Service)
	}
	if err := calmEnough(svc); err != nil {
		return nil, "", err
	}
	victims := victimsOf(svc, func(srv *model.Server) bool { return req.Server == "" || srv.ID == req.Server })
	if len(victims) == 0 {
		return nil, "", model.Errorf(model.Precondition, "cannot disturb %s: it is not healthy as it is", cmp.Or(string(req.Server), req.Service))
	}
	id := model.ExperimentID("x-" + model.Sixes(s.Instance, s.NextID))
	victim := victims[int(fraction(string(s.Instance), string(id), "server")*float64(len(victims)))]
	return []model.Payload{begun(svc, id, victim, req.Kind, req.Lasts, cmp.Or(req.By, "somebody"), obs)}, id, nil
}

// StopChaos asks for the end of the experiment that runs. It has ended when the
// disturbance is undone.
func StopChaos(s *model.State, service, by string) ([]model.Payload, model.ExperimentID, error) {
	svc := s.Services[service]
	switch {
	case svc == nil || svc.Destroyed:
		return nil, "", model.Errorf(model.NotFound, "cannot stop chaos in %s: there is no such service", service)
	case svc.Experiment == nil:
		return nil, "", model.Errorf(model.Precondition, "cannot stop chaos in %s: no experiment runs", service).
			WithHint("kiln chaos report %s shows the past ones", service)
	case svc.Experiment.Ending != "":
		return nil, svc.Experiment.ID, nil
	}
	x := svc.Experiment
	return []model.Payload{ending(x, model.ChaosStopped, "stopped by "+cmp.Or(by, "somebody"))}, x.ID, nil
}

// begun is the event that begins an experiment.
func begun(svc *model.Service, id model.ExperimentID, victim *model.Server, kind model.ChaosKind, lasts model.Duration, by string, obs Observation) model.Payload {
	policy := svc.Release(svc.InService).Policy
	if kind.Lasting() {
		lasts = cmp.Or(lasts, policy.Chaos.Lasts, model.DefaultChaosLasts)
	} else {
		lasts = 0
	}
	return model.ExperimentStarted{Experiment: model.Experiment{
		ID: id, Service: svc.Name, Server: victim.ID, Kind: kind, Lasts: lasts, By: by, Before: obs.Failed[victim.ID],
	}}
}

func ending(x *model.Experiment, outcome model.ChaosOutcome, reason string) model.Payload {
	return model.ExperimentAdvanced{ID: x.ID, Service: x.Service, Ending: outcome, Reason: reason}
}

// spare returns how many servers beyond the count are wanted: one, until the
// server of an experiment is struck, where the disruption budget lets none be
// away.
func (v *service) spare(t *model.Release) int {
	x := v.svc.Experiment
	if x == nil || x.Ending != "" || Floor(v.svc) < t.Policy.Servers {
		return 0
	}
	if victim := v.svc.Servers[x.Server]; victim == nil || victim.Phase != model.PhaseServing || victim.Health == model.Unhealthy {
		return 0
	}
	return 1
}

// calmEnough refuses an experiment unless the service is whole and at rest, and
// the disruption budget lets one of its servers be away, or a spare one can be
// made before.
func calmEnough(svc *model.Service) error {
	refused := func(format string, args ...any) *model.Error {
		return model.Errorf(model.Precondition, "cannot disturb %s: %s", svc.Name, fmt.Sprintf(format, args...))
	}
	release := svc.Release(svc.InService)
	switch d := svc.Deployment; {
	case svc.Destroying:
		return refused("it is being destroyed")
	case release == nil:
		return refused("no release of it is in service").WithHint("kiln deploy %s", svc.Name)
	case svc.Experiment != nil:
		return refused("experiment %s runs (%s of %s)", svc.Experiment.ID, svc.Experiment.Kind, svc.Experiment.Server).
			WithHint("kiln chaos stop %s ends it", svc.Name)
	case d != nil:
		return refused("deployment %s is running", d.ID).WithHint("wait until it has ended: kiln status %s", svc.Name)
	case len(svc.Queue) > 0 || svc.Pending != nil:
		return refused("a deployment is about to run, or its verdict is unknown").WithHint("kiln status %s", svc.Name)
	case svc.Meltdown != nil:
		return refused("%s", svc.Meltdown.Reason)
	case svc.BackOff.Failures > 0:
		return refused("its servers fail as it is: %s", svc.BackOff.Reason)
	}
	healthy, count := len(healthyOf(svc, release, "")), release.Policy.Servers
	switch {
	case healthy == 1:
		return refused("it would take the last healthy server").WithHint("kiln scale %s 2", svc.Name)
	case healthy < count:
		return refused("it is not whole: %d of %d servers are healthy", healthy, count).WithHint("kiln status %s", svc.Name)
	case Budget(svc) < 1 && !overlaps(release):
		return refused("the disruption budget lets none of its %d servers be away (max_unavailable = %s), and no spare one may run beside them", count, release.Policy.Deploy.MaxUnavailable).
			WithHint("deploy { max_unavailable = 1 } in kiln.hcl lets one be")
	}
	return nil
}

// healthyOf returns the servers in service that are healthy, but for one.
func healthyOf(svc *model.Service, release *model.Release, but model.ServerID) []*model.Server {
	return slices.DeleteFunc(serversOf(svc), func(srv *model.Server) bool {
		return srv.ID == but || srv.Phase != model.PhaseServing || srv.Health != model.Healthy || srv.TemplateHash != release.TemplateHash
	})
}

// victimsOf returns the servers that an experiment may disturb: no one that is
// about to be replaced anyhow.
func victimsOf(svc *model.Service, may func(*model.Server) bool) []*model.Server {
	release := svc.Release(svc.InService)
	return slices.DeleteFunc(healthyOf(svc, release, ""), func(srv *model.Server) bool { return !may(srv) })
}

// experiment sees to the one that runs, or begins the one that is due.
func (v *service) experiment() {
	if x := v.svc.Experiment; x != nil {
		v.follow(x)
		return
	}
	release := v.inService()
	if release == nil || release.Policy.Chaos.MeanBetween <= 0 || v.svc.Destroying || !v.chaosDue(release.Policy.Chaos) || calmEnough(v.svc) != nil {
		return
	}
	// A server that dies young would hold its replacement back; one that is
	// condemned goes by itself.
	victims := victimsOf(v.svc, func(srv *model.Server) bool {
		return srv.Condemned == nil && v.due(srv.RanSince.Add(v.earlyWindow(srv)))
	})
	if len(victims) == 0 {
		return
	}
	id := model.ExperimentID("x-" + v.six())
	kinds := release.Policy.Chaos.Kinds
	if len(kinds) == 0 {
		kinds = []model.ChaosKind{model.ChaosKill}
	}
	draw := func(what string, n int) int {
		return int(fraction(string(v.s.Instance), string(id), what) * float64(n))
	}
	v.emit(begun(v.svc, id, victims[draw("server", len(victims))], kinds[draw("kind", len(kinds))], 0, "kiln", v.obs))
}

// follow notes what comes of an experiment, and ends it.
func (v *service) follow(x *model.Experiment) {
	victim := v.svc.Servers[x.Server]
	struck := victim == nil || victim.Phase != model.PhaseServing || victim.Health == model.Unhealthy
	if x.Ending != "" {
		undone := victim == nil || !victim.Phase.Alive() || !x.Kind.Lasting() && (struck || !v.dying(x, victim))
		if undone || v.due(max(x.Started, x.Armed).Add(x.Lasts.D()+2*chaosPatience)) {
			v.endExperiment(x)
		}
		return
	}
	if outcome, reason := v.cutShort(x); outcome != "" {
		v.emit(ending(x, outcome, reason))
		return
	}
	release := v.inService()
	switch now := v.now.Elapsed; {
	case x.Detected == 0 && struck && (x.Armed == 0 || x.Applied == 0 && x.Kind.Lasting()):
		v.emit(ending(x, model.ChaosFailed, "the server was not fit for service before it was disturbed"))
	case x.Armed == 0:
		if Budget(v.svc) >= 0 { // its own server counts as away already
			v.emit(model.ExperimentAdvanced{ID: x.ID, Service: x.Service, Armed: now})
		}
	case x.Detected == 0 && struck:
		v.emit(model.ExperimentAdvanced{ID: x.ID, Service: x.Service, Applied: cmp.Or(x.Applied, now), Detected: now})
	case x.Detected != 0 && x.Replaced == 0 && len(healthyOf(v.svc, release, "")) >= release.Policy.Servers:
		v.emit(model.ExperimentAdvanced{ID: x.ID, Service: x.Service, Replaced: now})
	case x.Replaced != 0:
		v.emit(ending(x, model.ChaosRecovered, fmt.Sprintf("noticed after %s, the service was whole again after %s",
			round(x.Detected.Sub(x.Applied)), round(x.Replaced.Sub(x.Applied)))))
	case x.Detected != 0 || x.Applied == 0:
	case x.Kind.Lasting() && v.due(x.Applied.Add(x.Lasts.D())):
		v.emit(ending(x, model.ChaosWithstood, fmt.Sprintf("%s stayed healthy all of the %s", x.Server, x.Lasts)))
	}
}

// dying reports whether the server of an experiment that ends it may still be
// about to end, though it serves: what was done cannot be taken back, and until
// it shows the server counts as away.
func (v *service) dying(x *model.Experiment, victim *model.Server) bool {
	if x.Applied == 0 {
		return v.obs.UnderWay[disturbKey(x.ID)]
	}
	return !v.due(x.Applied.Add(v.release(victim).Policy.StopGrace.D() + chaosSlack))
}

// cutShort says why the experiment cannot go on, and how it ends; "": it can.
func (v *service) cutShort(x *model.Experiment) (outcome model.ChaosOutcome, reason string) {
	release := v.inService()
	switch d := v.svc.Deployment; {
	case v.svc.Destroying || release == nil:
		return model.ChaosStopped, "the service is destroyed"
	case d != nil:
		return model.ChaosStopped, "deployment " + string(d.ID) + " began"
	case v.svc.Pending != nil:
		return model.ChaosStopped, "the verdict of a deployment is unknown"
	case x.Armed == 0 && v.due(x.Started.Add(chaosPatience)):
		return model.ChaosStopped, "no spare server could be had, and the disruption budget lets none be away"
	case x.Armed != 0 && x.Applied == 0 && v.due(x.Armed.Add(chaosBegin)):
		return model.ChaosFailed, fmt.Sprintf("the disturbance was not in force within %s", model.Duration(chaosBegin))
	case v.due(max(x.Started, x.Armed).Add(x.Lasts.D() + chaosPatience)):
		return model.ChaosFailed, fmt.Sprintf("the service was not whole again %s after its start", model.Duration(x.Lasts.D()+chaosPatience))
	case x.Kind.Lasting() && x.Applied != 0 && x.Detected == 0 && v.s.DaemonSince > x.Applied:
		return model.ChaosStopped, "the daemon was started anew, which ends every disturbance"
	}
	if others := len(healthyOf(v.svc, release, x.Server)); x.Kind.Lasting() && x.Replaced == 0 && others < release.Policy.Servers-1 {
		return model.ChaosStopped, fmt.Sprintf("the service's own health suffers: %d of the %d other servers are healthy", others, release.Policy.Servers-1)
	}
	return "", ""
}

func (v *service) endExperiment(x *model.Experiment) {
	failed := v.obs.Failed[x.Server]
	if failed >= x.Before { // else the router is another one, and began at zero
		failed -= x.Before
	}
	v.emit(model.ExperimentEnded{ID: x.ID, Service: x.Service, Outcome: x.Ending, Reason: x.Reason, Failed: failed})
}

func disturbKey(id model.ExperimentID) Key { return Key("disturb/" + string(id)) }
func calmKey(id model.ExperimentID) Key    { return Key("calm/" + string(id)) }

// giveDisturbance has the experiment's server disturbed, or the disturbance
// undone.
func (v *service) giveDisturbance() {
	x := v.svc.Experiment
	if x == nil {
		return
	}
	srv := v.svc.Servers[x.Server]
	if srv == nil || !srv.Phase.Alive() {
		return
	}
	switch {
	case x.Ending != "" && x.Kind.Lasting() && !v.obs.UnderWay[disturbKey(x.ID)]:
		v.give(Action{Key: calmKey(x.ID), Verb: Calm, Service: x.Service, Server: x.Server})
	case x.Ending == "" && x.Armed != 0 && x.Applied == 0 && srv.Phase == model.PhaseServing && v.s.Table.Acknowledged >= v.s.Table.Generation && v.spared(x):
		// Every router knows the servers that are to stay.
		d := &model.Disturbance{Kind: x.Kind, Lasts: x.Lasts}
		if x.Kind == model.ChaosTerminate {
			d.Lasts = v.release(srv).Policy.StopGrace
		}
		v.give(Action{Key: disturbKey(x.ID), Verb: Disturb, Service: x.Service, Server: x.Server, Disturbance: d})
	}
}

// spared reports whether the service can still do without the server of the
// experiment: another one may have been lost since it was armed.
func (v *service) spared(x *model.Experiment) bool {
	release := v.inService()
	return release != nil && Budget(v.svc) >= 0 && len(healthyOf(v.svc, release, x.Server)) > 0
}

// noteDisturbed notes that the disturbance is in force, cannot be made, or is
// undone.
func (v *service) noteDisturbed(o Outcome) {
	x := v.svc.Experiment
	switch {
	case x == nil || x.Server != o.Server:
	case o.Key == calmKey(x.ID) && o.Err == nil && x.Ending != "":
		v.endExperiment(x)
	case o.Key != disturbKey(x.ID) || x.Applied != 0 || x.Ending != "" && (x.Kind.Lasting() || o.Err != nil):
	case o.Err == nil:
		v.emit(model.ExperimentAdvanced{ID: x.ID, Service: x.Service, Applied: v.now.Elapsed})
	case says(o.Err) && o.Err.Code != model.Precondition: // it does not run: an observation tells more
		v.emit(ending(x, model.ChaosFailed, "it cannot be done: "+o.Err.Message))
	}
}

// disturbedBy returns the experiment that is to blame for the server's end.
func (v *service) disturbedBy(srv *model.Server) *model.Experiment {
	if x := v.svc.Experiment; x != nil && x.Server == srv.ID {
		return x
	}
	return nil
}

// fraction is a number in [0, 1) that follows from the words.
func fraction(words ...string) float64 {
	h := sha256.New()
	for _, w := range words {
		_, _ = fmt.Fprintf(h, "%s\x00", w) // a hash cannot fail
	}
	const bits = 53 // of a float64's fraction, and its hidden one
	return float64(binary.BigEndian.Uint64(h.Sum(nil))>>(64-bits)) / (1 << bits)
}

// nextExperiment returns when the service is to be disturbed next, by the state
// alone: an exponentially distributed time after the last experiment, or after
// the release in service came there.
func nextExperiment(s *model.State, svc *model.Service, mean time.Duration) (at model.Instant, seed string) {
	since := model.Instant(0)
	for _, d := range svc.Deployments {
		if d.To == svc.InService {
			since = max(since, d.Since)
		}
	}
	seed = fmt.Sprint("release ", svc.InService)
	if n := len(svc.Experiments); n > 0 && svc.Experiments[n-1].Ended >= since {
		since, seed = svc.Experiments[n-1].Ended, string(svc.Experiments[n-1].ID)
	}
	const longest = 20 // times the mean; two in a billion are longer
	times := min(longest, -math.Log1p(-fraction(string(s.Instance), svc.Name, seed, "next")))
	return since.Add(time.Duration(float64(mean) * times)), seed
}

// chaosDue reports whether an experiment is due. One that came due while the
// calendar was closed is made at some time of the next hours that are open, not
// at their first second.
func (v *service) chaosDue(p model.ChaosPolicy) bool {
	at, seed := nextExperiment(v.s, v.svc, p.MeanBetween.D())
	if !v.due(at) {
		return false
	}
	zone := time.UTC
	if p.TimeZone != "" {
		if zone = v.obs.Zones[p.TimeZone]; zone == nil {
			return false
		}
	}
	if p.Hours == "" && len(p.Days) == 0 {
		return true
	}
	// The wall clock is trusted again when it has gone right for a while.
	if jumped := v.s.ClockJumped; jumped != 0 && !v.due(jumped.Add(chaosClockRest)) {
		return false
	}
	opens, closes, ok := chaosHours(p, v.now.Wall.In(zone))
	if !ok {
		return false
	}
	from := opens
	if due := v.now.Wall.Add(at.Sub(v.now.Elapsed)); due.Before(opens) {
		u := fraction(string(v.s.Instance), v.svc.Name, seed, "hours")
		from = opens.Add(time.Duration(u * float64(closes.Sub(opens))))
	}
	return v.due(v.now.Elapsed.Add(from.Sub(v.now.Wall)))
}

// chaosHours returns the hours that are open at the time, or else those that
// open next; false: none ever.
func chaosHours(p model.ChaosPolicy, at time.Time) (opens, closes time.Time, ok bool) {
	first, last := 0, 24*60
	if p.Hours != "" {
		if first, last, ok = p.Minutes(); !ok {
			return opens, closes, false
		}
	}
	year, month, day := at.Date()
	for offset := -1; offset <= 8; offset++ { // hours that began yesterday may last over midnight
		date := func(days, minutes int) time.Time {
			return time.Date(year, month, day+offset+days, 0, minutes, 0, 0, at.Location())
		}
		over := 0
		if last <= first {
			over = 1
		}
		opens, closes = date(0, first), date(over, last)
		if closes.After(at) && (len(p.Days) == 0 || slices.Contains(p.Days, date(0, 12*60).Weekday())) {
			return opens, closes, true
		}
	}
	return opens, closes, false
}
