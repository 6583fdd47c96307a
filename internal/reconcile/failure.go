package reconcile

import (
	"fmt"
	"strings"
	"time"

	"kiln/internal/model"
)

func timesOf(n int) time.Duration { return time.Duration(max(1, n)) }

// failure is a server that ended, or did not become what it was made for.
type failure struct {
	srv     *model.Server
	reason  string
	exit    *model.Exit // set when its process has ended
	gone    bool        // nothing of it is there
	lived   time.Duration
	excused bool // it ended because the machine or the daemon did
	unfit   bool // it lives, but did not pass its checks in time
	stays   bool // it goes on as it is: it failed the checks of a release that wanted to take it over
}

func (f failure) dead() bool { return f.gone || f.exit != nil }

// fail lays the failed servers to rest, fails the deployment that made them,
// and holds replacements back when it was no deployment's.
func (v *service) fail(failures []failure) {
	if len(failures) == 0 {
		return
	}
	d := v.svc.Deployment
	laid := map[model.ServerID]bool{}
	var blamed, early []failure
	for _, f := range failures {
		if f.stays {
			blamed = append(blamed, f)
			continue
		}
		if laid[f.srv.ID] {
			continue // two outcomes of one turn say the same
		}
		made := v.madeBy(d, f.srv) || v.newSide(f.srv)
		laid[f.srv.ID] = true
		v.emit(v.lay(f, made))
		switch {
		case made && !f.excused:
			blamed = append(blamed, f)
		case v.counts(f):
			early = append(early, f)
		}
	}
	switch {
	case len(blamed) > 0:
		v.endDeployment(model.Failed, blame(blamed), laid)
	case len(early) > 0:
		v.backOff(early)
	}
}

// lay decides where a failed server goes. One that never passed its checks is
// parked for inspection, dead or alive: always the servers of a deployment, in
// steady state one of a service.
func (v *service) lay(f failure, made bool) model.Payload {
	srv := f.srv
	unproven := srv.Phase == model.PhaseRunning || srv.Phase == model.PhaseReady ||
		srv.Phase == model.PhaseCreated && f.exit != nil
	inTable := v.leavingGeneration(srv) != 0
	keep := v.release(srv).Policy.ParkFor() > 0 && !v.release(srv).Template.SingleWriter() // which would keep its volume, too
	park := keep && unproven && !inTable && !f.gone && !f.excused && (made || f.unfit && !v.hasParked())
	switch {
	case park:
		return v.becomeParked(srv, f.reason, f.exit)
	case f.dead():
		return v.becomeEnded(srv, f.reason, f.exit)
	case inTable:
		return v.becomeDraining(srv, f.reason, v.leavingGeneration(srv), "")
	default:
		return v.becomeStopping(srv, f.reason)
	}
}

func (v *service) hasParked() bool {
	for _, srv := range v.svc.Servers {
		if srv.Phase == model.PhaseParked && srv.Aside == 0 {
			return true
		}
	}
	return false
}

// blame says why servers failed a deployment.
func blame(failures []failure) string {
	var words []string
	for i, f := range failures {
		if i == 3 {
			words = append(words, fmt.Sprintf("and %d more", len(failures)-i))
			break
		}
		words = append(words, fmt.Sprintf("server %s: %s%s", f.srv.ID, f.reason, lastProbe(f)))
	}
	return strings.Join(words, "; ")
}

func lastProbe(f failure) string {
	if f.exit == nil || f.srv.HealthDetail == "" {
		return ""
	}
	return " (its last health check: " + f.srv.HealthDetail + ")"
}

// counts reports whether a failure holds replacements back: an early death, or
// a server that never became fit.
func (v *service) counts(f failure) bool {
	switch f.srv.Phase {
	case model.PhaseCreated, model.PhaseRunning, model.PhaseReady, model.PhaseServing:
		return !f.excused && (f.unfit || f.lived < v.earlyWindow(f.srv))
	default:
		return false
	}
}

func (v *service) earlyWindow(srv *model.Server) time.Duration {
	return max(v.release(srv).Policy.Health.Grace.D(), earlyDeath)
}

// backOff holds replacements back, longer with each failure: 1 s, 2 s, 4 s, …
// 5 min.
func (v *service) backOff(early []failure) {
	failures := v.svc.BackOff.Failures + 1
	wait := backOffLongest
	if failures <= 9 {
		wait = min(wait, backOffFirst<<(failures-1))
	}
	last := early[len(early)-1]
	reason := fmt.Sprintf("server %s failed %s after its start: %s", last.srv.ID, round(last.lived), last.reason)
	if failures >= crashLoopDeaths {
		reason = fmt.Sprintf("crash loop: %d early failures in a row; the last: %s", failures, reason)
	}
	v.emit(model.ServiceBackedOff{
		Service: v.svc.Name, Failures: failures, Until: v.now.Elapsed.Add(wait), Reason: reason,
	})
}

func round(d time.Duration) model.Duration {
	if d >= time.Second {
		return model.Duration(d.Round(100 * time.Millisecond))
	}
	return model.Duration(d.Round(time.Millisecond))
}
