package reconcile

import (
	"fmt"
	"strconv"
	"strings"

	"kiln/internal/model"
)

// become moves a server to another phase. A move that the transition table of
// package model does not list is a defect of a rule.
func become(srv *model.Server, p model.ServerAdvanced) model.ServerAdvanced {
	stays := srv.Phase == p.Phase && (p.Phase == model.PhaseServing || p.Phase == model.PhaseStopping)
	if !stays && !srv.Phase.CanBecome(p.Phase) {
		panic(fmt.Sprintf("reconcile: server %s is %s and cannot become %s", srv.ID, srv.Phase, p.Phase))
	}
	p.ID = srv.ID
	return p
}

func (v *service) becomeRunning(srv *model.Server, o *model.Observed) model.Payload {
	return become(srv, model.ServerAdvanced{
		Phase: model.PhaseRunning, Reason: "its process runs",
		Address: withPort(o.Address, v.release(srv).Template.Port), StartedAt: o.StartedAt,
	})
}

func (v *service) becomeReady(srv *model.Server) model.Payload {
	return become(srv, model.ServerAdvanced{Phase: model.PhaseReady, Reason: "passed every check"})
}

func (v *service) becomeServing(srv *model.Server, release int) model.Payload {
	return become(srv, model.ServerAdvanced{
		Phase: model.PhaseServing, Release: release, Reason: "in service for release " + strconv.Itoa(release),
	})
}

// becomeDraining takes a server out of service for good. generation is the
// first table without it; 0 keeps what is known of that.
func (v *service) becomeDraining(srv *model.Server, reason string, generation uint64, by model.DeploymentID) model.Payload {
	drain := v.release(srv).Policy.Deploy.Drain.Longest().D()
	return become(srv, v.leaving(srv, model.ServerAdvanced{
		Phase: model.PhaseDraining, Reason: reason, Until: v.now.Elapsed.Add(drain + drainSlack),
		DrainGen: generation, Retired: by,
	}))
}

// leaving adds what is in flight to a server that leaves the table.
func (v *service) leaving(srv *model.Server, p model.ServerAdvanced) model.ServerAdvanced {
	if p.DrainGen != 0 {
		flight := v.routers.flight[srv.ID]
		p.InFlight, p.CutBefore = flight.InFlight.Total(), flight.Cut
	}
	return p
}

func (v *service) becomeStopping(srv *model.Server, reason string) model.Payload {
	grace := v.release(srv).Policy.StopGrace.D()
	return become(srv, model.ServerAdvanced{
		Phase: model.PhaseStopping, Reason: reason, Until: v.now.Elapsed.Add(inspectTimeout + grace + recordTimeout),
	})
}

func (v *service) becomeParked(srv *model.Server, reason string, exit *model.Exit) model.Payload {
	return become(srv, model.ServerAdvanced{
		Phase: model.PhaseParked, Reason: reason, Exit: exit, Until: v.now.Elapsed.Add(v.release(srv).Policy.ParkFor()),
	})
}

// becomeAside lets a drained server wait out of rotation for its session.
func (v *service) becomeAside(srv *model.Server) model.Payload {
	return become(srv, model.ServerAdvanced{
		Phase: model.PhaseParked, Reason: "replaced, and out of rotation for its session: " + srv.Condemned.Reason, Until: srv.Aside,
	})
}

func (v *service) becomeEnded(srv *model.Server, reason string, exit *model.Exit) model.Payload {
	return become(srv, v.leaving(srv, model.ServerAdvanced{
		Phase: model.PhaseEnded, Reason: reason, Exit: exit, DrainGen: v.leavingGeneration(srv),
	}))
}

// leavingGeneration returns the first table generation without the server when
// it leaves now: the next one, or 0 if it is in none.
func (v *service) leavingGeneration(srv *model.Server) uint64 {
	inTable := v.switchingMember(srv)
	switch srv.Phase {
	case model.PhaseServing:
		inTable = inTable || listed(v.release(srv), v.inService())
	case model.PhaseWarm, model.PhaseDraining:
		inTable = inTable || srv.DrainGen != 0
	default:
	}
	if !inTable {
		return 0
	}
	return v.s.Table.Generation + 1
}

// leavesAgain returns the first table generation without a warm server: the next
// one, if a switch that is not acknowledged may have put it in the table again,
// else 0.
func (v *service) leavesAgain(srv *model.Server) uint64 {
	if !v.switchingMember(srv) {
		return 0
	}
	return v.s.Table.Generation + 1
}

// backInTable reports whether an open switch may have put a warm server in the
// table again: what was drained before has begun anew.
func backInTable(svc *model.Service, srv *model.Server) bool {
	return srv.Phase == model.PhaseWarm && svc.Pending != nil && srv.TemplateHash == svc.Release(svc.Pending.Release).TemplateHash
}

// switchingMember reports whether the server may be named by a table that has
// been published but not acknowledged by every router.
func (v *service) switchingMember(srv *model.Server) bool {
	if !proven(srv.Phase) {
		return false
	}
	d := v.svc.Deployment
	switching := d != nil && d.Phase == model.DeploySwitching && d.Generation != 0
	return switching && listed(v.target()) && srv.TemplateHash == v.target().TemplateHash ||
		v.svc.Pending != nil && listed(v.pending()) && srv.TemplateHash == v.pending().TemplateHash
}

// withPort joins an IP address and a port; port 0 leaves the address alone.
func withPort(ip string, port int) string {
	switch {
	case port == 0 || ip == "":
		return ip
	case strings.Contains(ip, ":"):
		return "[" + ip + "]:" + strconv.Itoa(port)
	default:
		return ip + ":" + strconv.Itoa(port)
	}
}

// noteLife notes what the engine shows of the servers' processes.
func (v *service) noteLife() {
	var lost []failure
	for _, srv := range v.servers() {
		o, known := v.observed(srv.ID)
		if !known {
			return
		}
		gone := o == nil
		exited := o != nil && o.State == model.Exited
		switch srv.Phase {
		case model.PhaseCreated:
			if o != nil && o.State == model.Running {
				v.emit(v.becomeRunning(srv, o))
			} else if exited {
				lost = append(lost, v.died(srv, o))
			}
		case model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm, model.PhaseDraining:
			if gone || exited {
				lost = append(lost, v.died(srv, o))
			}
		case model.PhaseStopping:
			if exited || gone && !v.obs.UnderWay[provisionKey(srv.ID)] {
				v.emit(v.becomeEnded(srv, srv.Reason, exitOf(o)))
			}
		case model.PhaseRecorded:
			if gone {
				v.emit(become(srv, model.ServerAdvanced{Phase: model.PhaseDestroyed}))
			}
		default: // parked: kept as it is; ended: its record is under way
		}
	}
	v.fail(lost)
}

func exitOf(o *model.Observed) *model.Exit {
	if o == nil || o.Exit == nil {
		return &model.Exit{}
	}
	return o.Exit
}

// died describes the death of a server that should be alive.
func (v *service) died(srv *model.Server, o *model.Observed) failure {
	exit := exitOf(o)
	f := failure{srv: srv, exit: exit, gone: o == nil, lived: v.now.Elapsed.Sub(srv.Created)}
	if srv.RanSince != 0 {
		f.lived = v.now.Elapsed.Sub(srv.RanSince)
	}
	x := v.disturbedBy(srv)
	switch {
	case srv.BootID == model.BootBeforeRestore && o == nil:
		f.reason, f.excused = "it was gone when the journal was restored from a backup", true
	case srv.BootID != "" && srv.BootID != v.s.BootID:
		f.reason, f.excused = "the machine was rebooted", true
	case srv.Phase == model.PhaseCreated && !exit.Known && srv.Created < v.s.DaemonSince:
		f.reason, f.excused = "it was being made when the daemon ended", true
	case x != nil:
		f.reason, f.excused = fmt.Sprintf("experiment %s (%s) ended it: %s", x.ID, x.Kind, exit), true
	case o == nil:
		f.reason = "it is gone: nothing of it was found any more"
	default:
		f.reason = "its process ended by itself: " + exit.String()
	}
	return f
}

// noteHealth notes a change of the decision about a server's health.
func (v *service) noteHealth() {
	for _, srv := range v.servers() {
		switch srv.Phase {
		case model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm:
		default:
			continue
		}
		h := v.health(srv)
		if h.Status != model.HealthUnknown && h.Status != "" && h.Status != srv.Health {
			v.emit(model.ServerHealth{ID: srv.ID, Status: h.Status, Detail: h.Detail})
		}
	}
}

// health returns what the probes say of the server now. One that nothing is
// asked of is healthy when its process has run for as long as the probes of
// another would have taken.
func (v *service) health(srv *model.Server) model.HealthObserved {
	check := v.release(srv).Policy.Health
	if check.Kind != model.CheckNone && check.Kind != "" {
		return v.obs.Health[srv.ID]
	}
	o, known := v.observed(srv.ID)
	if !known || o == nil || o.State != model.Running || srv.RanSince == 0 {
		return model.HealthObserved{Status: model.HealthUnknown}
	}
	if !v.due(srv.RanSince.Add(check.Interval.D() * timesOf(check.Passes))) {
		return model.HealthObserved{Status: model.HealthUnknown}
	}
	return model.HealthObserved{Status: model.Healthy, At: v.now.Elapsed, Detail: "its process runs"}
}
