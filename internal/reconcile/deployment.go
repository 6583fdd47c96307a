package reconcile

import (
	"fmt"
	"strings"
	"time"

	"kiln/internal/model"
)

// deploy moves the running deployment on.
func (v *service) deploy() {
	d := v.svc.Deployment
	switch {
	case d == nil || v.svc.Destroying:
		return
	case d.Abort != "" && !d.Committed():
		v.endDeployment(model.Aborted, aborted(d), nil)
	case d.Pause != nil && v.due(d.Pause.Until):
		v.endDeployment(model.Aborted, "paused for longer than "+round(d.Pause.Until.Sub(d.Pause.Since)).String()+", by "+d.Pause.By, nil)
	case d.Phase == model.DeploySwitching:
		v.switchOver()
	case d.Phase == model.DeployHolding:
		v.hold()
	case v.overdueDeployment():
		v.endDeployment(model.Failed, v.late(), nil)
	case d.Phase == model.DeployPreparing:
		v.prepare()
	case d.Phase == model.DeployProvisioning:
		v.provision()
	default:
		v.prover()
	}
}

func aborted(d *model.Deployment) string {
	if strings.HasPrefix(d.Abort, supersededBy) {
		return d.Abort
	}
	return "aborted by " + d.Abort
}

// overdueDeployment reports whether the deadline of the phase or of the whole
// has come. A phase in which no daemon ran begins anew, the whole does not.
// While somebody holds the deployment only the pause has a deadline.
func (v *service) overdueDeployment() bool {
	d := v.svc.Deployment
	if d.Pause != nil {
		return false
	}
	again := v.s.DaemonSince.Add(d.Until.Sub(d.Since)) // not what the phase would take now: a volume may have come
	return v.due(max(d.Until, min(again, d.Deadline)))
}

func (v *service) late() string {
	d := v.svc.Deployment
	which := fmt.Sprintf("it was %s for longer than %s", d.Phase, round(v.now.Elapsed.Sub(d.Since)))
	if d.Deadline.Reached(v.now) {
		which = fmt.Sprintf("its deadline of %s is over while it was %s", round(d.Deadline.Sub(d.Started)), d.Phase)
	}
	var waiting []string
	for _, srv := range v.set() {
		if !proven(srv.Phase) {
			waiting = append(waiting, fmt.Sprintf("server %s is %s, %s", srv.ID, srv.Phase, v.lastSeen(srv)))
		}
	}
	if len(waiting) == 0 && d.WaitingFor != "" {
		waiting = append(waiting, "it waited for "+d.WaitingFor)
	}
	return strings.Join(append([]string{which}, waiting...), "; ")
}

// prepare waits for the image, unless every server of the new set is here: then
// the set goes straight to the switch.
func (v *service) prepare() {
	if !v.judgeWarm() || v.spoke() {
		return
	}
	if v.lacks() > 0 {
		return
	}
	for _, srv := range v.set() {
		if !proven(srv.Phase) {
			v.becomeProvisioning()
			return
		}
	}
	if v.unprovenMembers() == "" {
		v.becomeSwitching()
	} else {
		v.becomeValidating()
	}
}

// set returns the servers of the new release that the present stage wants in
// rotation.
func (v *service) set() []*model.Server { return stageMembers(v.svc) }

// lacks returns how many servers have to be made for it.
func (v *service) lacks() int {
	return max(0, v.svc.Deployment.StageNow(v.target().Policy.Servers).New-len(v.set()))
}

// judgeWarm decides which warm servers the deployment may take over: those with
// a healthy probe no older than two intervals. The others are drained, and new
// ones made. It reports false while it waits for a probe.
func (v *service) judgeWarm() bool {
	d, t := v.svc.Deployment, v.target()
	judged := true
	for _, srv := range v.servers() {
		if srv.Phase != model.PhaseWarm || srv.TemplateHash != t.TemplateHash {
			continue
		}
		check := v.release(srv).Policy.Health
		h := v.health(srv)
		fresh := v.now.Elapsed.Sub(h.At) <= 2*check.Interval.D()
		switch {
		case srv.Condemned != nil:
			v.emit(v.becomeDraining(srv, "it cannot take over, for it is to be replaced itself: "+srv.Condemned.Reason, v.leavesAgain(srv), ""))
		case h.Status == model.Healthy && fresh:
		case h.Status == model.Unhealthy:
			v.emit(v.becomeDraining(srv, "unhealthy, so it cannot take over: "+h.Detail, v.leavesAgain(srv), ""))
		case v.due(max(d.Since, v.s.DaemonSince).Add(2*check.Interval.D() + check.Timeout.D())):
			v.emit(v.becomeDraining(srv, "no fresh health check, so it cannot take over", v.leavesAgain(srv), ""))
		default:
			judged = false
		}
	}
	return judged
}

// provision makes the servers that the new set lacks.
func (v *service) provision() {
	if v.stopOld() || v.makeRoom() || v.saveVolumes() {
		return
	}
	d, t := v.svc.Deployment, v.target()
	n := v.lacks()
	for range n {
		v.create(t, "deployment "+string(d.ID))
	}
	late := namesOf(v.set(), model.PhaseCreated)
	switch {
	case n > 0:
		v.waitFor(count(n, "new server") + " to run")
	case late == "":
		v.becomeChecking()
	case v.failing(v.set()) != "":
		v.waitFor(late + " to run: " + v.failing(v.set()))
	case !strings.Contains(d.WaitingFor, " to run"):
		v.waitFor(late + " to run")
	}
}

// create decides that a server shall exist.
func (v *service) create(release *model.Release, cause string) {
	v.createVolumes(release)
	v.emit(model.ServerCreated{
		ID:      model.ServerID(v.svc.Name + "-" + v.six()),
		Service: v.svc.Name, Release: release.Number, TemplateHash: release.TemplateHash,
		Cause: cause, Until: v.now.Elapsed.Add(provisionTimeout),
	})
}

// stopOld ends the servers that may not run beside the new ones, before these
// are made. It reports whether it is not done.
func (v *service) stopOld() bool {
	t := v.target()
	var left []string
	for _, srv := range v.servers() {
		if !v.stopsBefore(srv, t) {
			continue
		}
		left = append(left, string(srv.ID))
		switch srv.Phase {
		case model.PhaseServing:
			v.emit(v.becomeDraining(srv, "stopped before its successor starts: no overlap is allowed", v.leavingGeneration(srv), v.svc.Deployment.ID))
		case model.PhaseWarm:
			v.emit(v.becomeDraining(srv, "stopped before its successor starts: no overlap is allowed", v.leavesAgain(srv), ""))
		case model.PhaseReady:
			// An open switch may have given it requests already.
			if generation := v.leavingGeneration(srv); generation != 0 {
				v.emit(v.becomeDraining(srv, "stopped before its successor starts: no overlap is allowed", generation, v.svc.Deployment.ID))
			} else {
				v.emit(v.becomeStopping(srv, "stopped before its successor starts: no overlap is allowed"))
			}
		case model.PhaseCreated, model.PhaseRunning:
			v.emit(v.becomeStopping(srv, "stopped before its successor starts: no overlap is allowed"))
		default:
		}
	}
	if len(left) > 0 && !v.spoke() {
		v.waitFor(strings.Join(left, ", ") + " to stop")
	}
	return len(left) > 0
}

// stopsBefore reports whether the server has to end before one of the release
// is made: they may not run at once, or it is on its way out with what that one
// needs.
func (v *service) stopsBefore(srv *model.Server, t *model.Release) bool {
	if srv.Phase == model.PhaseParked || !srv.Phase.Alive() {
		return false
	}
	leaves := srv.Phase == model.PhaseDraining || srv.Phase == model.PhaseStopping
	if t.Template.SingleWriter() && srv.TemplateHash == t.TemplateHash && srv.Phase == model.PhaseServing && srv.Health == model.Unhealthy {
		return true // of the same template, but no member: it has what its successor needs
	}
	return stopFirst(v.release(srv), t) || leaves && contend(v.release(srv), t)
}

// stopsFirst reports whether the running deployment has to end the old set
// before it makes the new one.
func (v *service) stopsFirst() bool {
	if v.svc.Deployment == nil {
		return false
	}
	return stopFirst(v.inService(), v.target())
}

// stopFirst reports whether the two releases may not run at once: the template
// changes, and they have a volume in common that one server at a time may have,
// or neither has a route and no overlap is declared.
func stopFirst(from, to *model.Release) bool {
	if from == nil || from.TemplateHash == to.TemplateHash {
		return false
	}
	return contend(from, to) || !routed(from, to) && !to.Policy.Deploy.Overlap
}

// stopTime is how long the old set may take to end where it has to end first.
func (v *service) stopTime() time.Duration {
	most := time.Duration(0)
	for _, srv := range v.servers() {
		if v.stopsBefore(srv, v.target()) {
			most = max(most, stopTimeOf(v.release(srv)))
		}
	}
	if v.stopsFirst() {
		most = max(most, stopTimeOf(v.inService()))
	}
	return most
}

func stopTimeOf(old *model.Release) time.Duration {
	t := inspectTimeout + old.Policy.StopGrace.D()
	if listed(old) {
		t += switchTimeout + old.Policy.Deploy.Drain.Longest().D()
	}
	return t
}

// prover advances through checking and validating as the servers do.
func (v *service) prover() {
	d := v.svc.Deployment
	if !v.judgeWarm() || v.spoke() {
		return
	}
	sick, unproven := v.unhealthyMembers(), v.unprovenMembers()
	switch {
	case v.lacks() > 0 || namesOf(v.set(), model.PhaseCreated) != "":
		v.becomeProvisioning()
	case d.Phase == model.DeployChecking && sick != "":
		v.waitFor(sick + " to become healthy")
	case d.Phase == model.DeployChecking:
		v.becomeValidating()
	case unproven != "":
		v.waitFor(unproven + " to pass the validations")
	case d.Pause != nil && d.LastStage():
		v.waitFor(pausedBy(d))
	default:
		v.becomeSwitching()
	}
}

func (v *service) unhealthyMembers() string {
	return namesWhere(v.set(), func(srv *model.Server) bool {
		return srv.Phase == model.PhaseRunning && srv.Health != model.Healthy && srv.Checks == ""
	})
}

func (v *service) unprovenMembers() string {
	return namesWhere(v.set(), func(srv *model.Server) bool { return !v.passed(srv) })
}

// passed reports whether the server has passed the checks of the release that
// the deployment wants in service.
func (v *service) passed(srv *model.Server) bool {
	return proven(srv.Phase) && srv.Checks == v.target().ChecksHash
}

func namesOf(set []*model.Server, phase model.ServerPhase) string {
	return namesWhere(set, func(srv *model.Server) bool { return srv.Phase == phase })
}

func namesWhere(set []*model.Server, cond func(*model.Server) bool) string {
	var names []string
	for _, srv := range set {
		if cond(srv) {
			names = append(names, string(srv.ID))
		}
	}
	if len(names) > 3 {
		names = append(names[:3], fmt.Sprintf("and %d more", len(names)-3))
	}
	return strings.Join(names, ", ")
}
