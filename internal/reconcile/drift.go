package reconcile

import (
	"fmt"
	"time"

	"kiln/internal/model"
)

// noteDrift notes what inspections of the servers have found, once, and what is
// not to be seen any more. What drifts is replaced, if the policy says so.
func (v *service) noteDrift() {
	if v.svc.Destroying {
		return
	}
	recurrence := v.svc.Recurrence
	for _, srv := range v.servers() {
		found, looked := v.obs.Drift[srv.ID]
		if !looked || !inspected(srv.Phase) {
			continue
		}
		v.noteUndrifted(srv, found)
		if news, more := newFindings(srv, found); len(news) > 0 {
			recurrence = v.drifted(srv, news, more, recurrence)
		} else {
			v.judgeAgain(srv)
		}
	}
}

// judgeAgain condemns a server whose drift was only told of, when the policy has
// become to replace it.
func (v *service) judgeAgain(srv *model.Server) {
	d := srv.Drift
	if d == nil || d.Response != model.DriftAlert || len(d.Findings) == 0 || srv.Condemned != nil || srv.Phase != model.PhaseServing ||
		v.release(srv).Policy.Drift.WithDefaults().Response != model.DriftReplace || halted(v.svc, srv.TemplateHash) {
		return
	}
	v.emit(model.ServerCondemned{
		ID: srv.ID, Cause: model.CondemnedByDrift, From: v.now.Elapsed, Until: inTurn(v.svc, srv, v.now),
		Reason: fmt.Sprintf("drift: %s: %s", d.Findings[0].What, d.Findings[0].Where),
	})
}

// inspected reports whether drift of a server in the phase is noted. What is
// about to be stopped is not looked at any more.
func inspected(p model.ServerPhase) bool {
	switch p {
	case model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm, model.PhaseDraining, model.PhaseParked:
		return true
	default:
		return false
	}
}

// newFindings returns what the journal is to name of the findings, and how many
// more there are. It names model.FindingsKept of a server in its life.
func newFindings(srv *model.Server, found []model.Finding) (news []model.Finding, more int) {
	known, room := map[string]bool{}, model.FindingsKept
	if srv.Drift != nil {
		room -= srv.Drift.Noted
		for _, f := range srv.Drift.Findings {
			known[f.Key()] = true
		}
	}
	for _, f := range found {
		switch {
		case f.Session != "" || known[f.Key()]: // a session of kiln's own explains it; or it is no news
		case len(news) < room:
			known[f.Key()] = true
			news = append(news, f)
		default:
			more++
		}
	}
	return news, more
}

func (v *service) noteUndrifted(srv *model.Server, found []model.Finding) {
	if srv.Drift == nil {
		return
	}
	if gone := goneFindings(srv.Drift.Findings, found); len(gone) > 0 {
		v.emit(model.ServerUndrifted{ID: srv.ID, Keys: gone})
	}
}

// goneFindings returns the keys of known that are not found any more.
func goneFindings(known, found []model.Finding) []string {
	stands := make(map[string]bool, len(found))
	for _, f := range found {
		stands[f.Key()] = true
	}
	var gone []string
	for _, f := range known {
		if !stands[f.Key()] {
			gone = append(gone, f.Key())
		}
	}
	return gone
}

// drifted notes a server's new findings and decides what is done. It returns
// the recurrence of drift as it stands after that.
func (v *service) drifted(srv *model.Server, news []model.Finding, more int, before *model.DriftRecurrence) *model.DriftRecurrence {
	policy, after := v.release(srv).Policy.Drift.WithDefaults(), before
	event := model.ServerDrifted{ID: srv.ID, Findings: news, More: more, Response: policy.Response}
	if policy.Response == model.DriftReplace && srv.Drift == nil {
		after = v.recurs(srv, before)
	}
	condemn := false
	switch c := srv.Condemned; {
	case policy.Response == model.DriftAlert:
		event.Done = `it is told, and nothing else: the declaration says response = "alert"`
	case srv.Phase == model.PhaseDraining || srv.Phase == model.PhaseParked:
		event.Done = "nothing: it is " + string(srv.Phase) + ", and gets no requests any more"
	case after != nil && after.Halted && after.TemplateHash == srv.TemplateHash:
		event.Done = "nothing more: " + after.Reason
	case c != nil && (c.Cause == model.CondemnedByDrift || c.From <= v.now.Elapsed):
		event.Done = "it is being replaced already"
	default:
		event.Done, condemn = "it is replaced by an identical server", true
	}
	v.emit(event)
	if after != before {
		v.emit(model.DriftRecurred{Service: v.svc.Name, TemplateHash: after.TemplateHash, Count: after.Count, Halted: after.Halted, Reason: after.Reason})
	}
	if condemn {
		v.emit(model.ServerCondemned{
			ID: srv.ID, Cause: model.CondemnedByDrift, From: v.now.Elapsed, Until: inTurn(v.svc, srv, v.now),
			Reason: fmt.Sprintf("drift: %s: %s", news[0].What, news[0].Where),
		})
	}
	return after
}

// recurs counts a server that has drifted soon after it was made. Those that
// were made before the last one that counted are of the same generation: only a
// server that was made since, and drifts all the same, shows that replacing it
// does not help.
func (v *service) recurs(srv *model.Server, before *model.DriftRecurrence) *model.DriftRecurrence {
	soon := max(driftSoon, 3*v.release(srv).Policy.Drift.WithDefaults().Interval.D())
	if v.now.Elapsed.Sub(srv.RanSince) > soon {
		return before
	}
	next := model.DriftRecurrence{TemplateHash: srv.TemplateHash, Count: 1, Since: v.now.Elapsed}
	if b := before; b != nil && b.TemplateHash == srv.TemplateHash && (b.Halted || v.now.Elapsed.Sub(b.Since) < driftChain) {
		if b.Halted || srv.Created < b.Since {
			return before
		}
		next.Count = b.Count + 1
	}
	next.Reason = fmt.Sprintf("server %s drifted %s after its start", srv.ID, round(v.now.Elapsed.Sub(srv.RanSince)))
	if next.Count > driftReplacements {
		next.Halted = true
		next.Reason = fmt.Sprintf("drift came back soon after each of %d replacements, so what causes it starts with the image; no more servers of this template are replaced for drift (the last: %s)",
			driftReplacements, next.Reason)
	}
	return &next
}

// halted reports whether servers of the template are not replaced for drift any
// more.
func halted(svc *model.Service, template string) bool {
	r := svc.Recurrence
	return r != nil && r.Halted && r.TemplateHash == template
}

// noteFleet notes what was found that belongs to no server.
func (st *step) noteFleet() {
	if st.obs.Fleet == nil {
		return
	}
	if gone := goneFindings(st.s.Fleet, st.obs.Fleet.Findings); len(gone) > 0 {
		st.emit(model.FleetMended{Keys: gone})
		return
	}
	known := map[string]bool{}
	for _, f := range st.s.Fleet {
		known[f.Key()] = true
	}
	var event model.FleetDrifted
	for _, f := range st.obs.Fleet.Findings {
		switch {
		case known[f.Key()]:
		case len(known) < model.FindingsKept:
			known[f.Key()] = true
			event.Findings = append(event.Findings, f)
		default:
			event.More++
		}
	}
	if len(event.Findings) == 0 {
		return
	}
	event.Done = "nothing: it is not kiln's own"
	for _, f := range event.Findings {
		if f.Mendable() {
			event.Done = "kiln's firewall and links are made as they should be; what is not its own is left alone"
		}
	}
	st.emit(event)
}

// giveMend has firewall and links made as they should be.
func (st *step) giveMend() {
	if st.obs.Fleet == nil {
		return
	}
	for _, f := range st.obs.Fleet.Findings {
		if f.Mendable() {
			st.give(Action{Key: "mend", Verb: Mend})
			return
		}
	}
}

// noteClock notes that the wall clock went another way than the elapsed time.
func (st *step) noteClock() {
	if by := st.s.ClockJump(st.now.Wall, st.now.Elapsed); by != 0 {
		st.emit(model.ClockJumped{By: model.Duration(by.Round(time.Second))})
	}
}
