package reconcile

import (
	"slices"
	"time"

	"kiln/internal/model"
)

// act collects what is to be done in the world.
func (st *step) act() {
	st.giveTable()
	for _, name := range sortedNames(st.s) {
		v := &service{step: st, svc: st.s.Services[name]}
		v.givePrepare()
		for _, srv := range v.servers() {
			v.giveServer(srv)
		}
		v.giveDisturbance()
		v.giveSnapshots()
	}
	st.giveOrphans()
	st.giveMend()
}

// givePrepare has the image made ready that a deployment waits for.
func (v *service) givePrepare() {
	d := v.svc.Deployment
	if d == nil || d.Phase != model.DeployPreparing || v.lacks() == 0 {
		return
	}
	v.giveImage(v.target().Template.Image)
}

func (v *service) giveImage(image model.Digest) {
	key := prepareKey(image)
	if slices.ContainsFunc(v.actions, func(a Action) bool { return a.Key == key }) {
		return
	}
	v.give(Action{Key: key, Verb: Prepare, Service: v.svc.Name, Image: image})
}

// giveServer has done to a server what its phase asks for.
func (v *service) giveServer(srv *model.Server) {
	o, known := v.observed(srv.ID)
	release := v.release(srv)
	switch srv.Phase {
	case model.PhaseCreated:
		if known && o == nil {
			v.giveProvision(srv, release)
		}
	case model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm:
		v.giveValidate(srv)
	case model.PhaseStopping:
		v.giveStop(srv, o, known)
	case model.PhaseEnded:
		v.give(Action{Key: recordKey(srv.ID), Verb: Record, Service: v.svc.Name, Server: srv.ID, Record: v.deathRecord(srv)})
	case model.PhaseRecorded:
		switch {
		case known && o != nil && o.State != model.Exited: // whatever it was taken for
			v.give(Action{Key: stopKey(srv.ID), Verb: Stop, Service: v.svc.Name, Server: srv.ID, Policy: &release.Policy})
		case known && v.addressIsFree(srv) && !v.sessionReads(srv):
			v.give(Action{Key: destroyKey(srv.ID), Verb: Destroy, Service: v.svc.Name, Server: srv.ID})
		}
	default:
	}
}

// giveProvision makes the server; first its image, if that went missing.
func (v *service) giveProvision(srv *model.Server, release *model.Release) {
	if !slices.Contains(v.obs.Snapshot.Images, release.Template.Image) {
		v.giveImage(release.Template.Image)
		return
	}
	v.give(Action{
		Key: provisionKey(srv.ID), Verb: Provision, Service: v.svc.Name, Server: srv.ID,
		Image: release.Template.Image, Template: &release.Template, Policy: &release.Policy,
	})
}

// giveValidate asks the validations of a healthy server. One that serves
// already, and is taken over under other checks, is asked the health check
// first: its probes are still those of the release in service.
func (v *service) giveValidate(srv *model.Server) {
	t := v.proves(srv)
	if t == nil || srv.Health != model.Healthy || srv.Checks == t.ChecksHash {
		return
	}
	policy := t.Policy
	if srv.Phase != model.PhaseRunning {
		if check, asked := healthAsValidation(t.Policy.Health); asked {
			policy.Validations = append([]model.Validation{check}, policy.Validations...)
		}
	}
	v.give(Action{
		Key: validateKey(srv.ID, t.ChecksHash), Verb: Validate, Service: v.svc.Name, Server: srv.ID,
		Template: &t.Template, Policy: &policy, Address: srv.Address,
	})
}

func healthAsValidation(h model.Health) (model.Validation, bool) {
	if h.Kind == model.CheckNone || h.Kind == "" {
		return model.Validation{}, false
	}
	return model.Validation{
		Name: "health", Kind: h.Kind, Path: h.Path, Port: h.Port, Command: h.Command, Timeout: h.Timeout,
	}, true
}

// giveStop collects evidence of a living server, then ends its process.
func (v *service) giveStop(srv *model.Server, o *model.Observed, known bool) {
	switch {
	case !known || o == nil || o.State == model.Exited:
	case o.State == model.Running && !srv.Inspected:
		v.give(Action{Key: inspectKey(srv.ID), Verb: Inspect, Service: v.svc.Name, Server: srv.ID})
	case !v.obs.UnderWay[inspectKey(srv.ID)] || v.due(srv.Since.Add(inspectTimeout)):
		v.give(Action{
			Key: stopKey(srv.ID), Verb: Stop, Service: v.svc.Name, Server: srv.ID, Policy: &v.release(srv).Policy,
		})
	}
}

// addressIsFree reports whether no router can send anything to the server's
// address any more, so that another server may get it.
func (v *service) addressIsFree(srv *model.Server) bool {
	if srv.DrainGen == 0 {
		return true
	}
	if !v.routers.acknowledged(srv.DrainGen) {
		return false
	}
	return v.routers.flight[srv.ID].InFlight.Total() == 0 || v.due(srv.Since.Add(drainSlack))
}

// sessionReads reports whether a session is still taking down what it changed in
// the server, which ended under it. It has a minute.
func (v *service) sessionReads(srv *model.Server) bool {
	open := func(x *model.Session) bool { return x.Server == srv.ID && x.Ended == nil }
	return slices.ContainsFunc(v.svc.Sessions, open) && !v.due(srv.Since.Add(sessionSlack))
}

// orphanGrace is what a server that the journal does not know gets to end.
const orphanGrace = 10 * time.Second

// giveOrphans ends what bears our mark and is in no journal: a server whose
// provisioning outlived the decision for it, or one of a time after the backup
// that was restored. It leaves a death record, as every server. What a newer
// writer made is not ours to judge.
func (st *step) giveOrphans() {
	for _, o := range st.orphans() {
		a := Action{Key: stopKey(o.ID), Verb: Stop, Service: o.ID.Service(), Server: o.ID}
		switch {
		case o.State != model.Exited:
			a.Policy = &model.Policy{StopGrace: model.Duration(orphanGrace)}
		case st.buried(o.ID):
			a.Key, a.Verb = destroyKey(o.ID), Destroy
		default:
			a.Key, a.Verb, a.Record = recordKey(o.ID), Record, st.strangersRecord(o)
		}
		st.give(a)
	}
}

// orphans returns what was observed of servers that the journal does not know.
func (st *step) orphans() (found []*model.Observed) {
	if st.obs.Snapshot == nil {
		return nil
	}
	for i := range st.obs.Snapshot.Servers {
		if o := &st.obs.Snapshot.Servers[i]; st.s.Server(o.ID) == nil && o.Epoch <= st.s.Epoch && !st.spared(*o) {
			found = append(found, o)
		}
	}
	return found
}

// buried reports whether a death record of the server is durable.
func (st *step) buried(id model.ServerID) bool {
	svc := st.s.Services[id.Service()]
	return slices.Contains(st.s.Strangers, id) ||
		svc != nil && slices.ContainsFunc(svc.Dead, func(r *model.DeathRecord) bool { return r.Server == id })
}

// strangersRecord is all that is known of an orphan without its evidence.
func (st *step) strangersRecord(o *model.Observed) *model.DeathRecord {
	record := &model.DeathRecord{
		Server: o.ID, Service: o.ID.Service(), Reason: "the journal does not know it", Exit: o.Exit, EndedAt: st.now.Wall,
	}
	if o.Exit != nil && !o.Exit.At.IsZero() {
		record.EndedAt = o.Exit.At
	}
	return record
}

// noteOrphans notes that the death record of an orphan is durable, or what is
// missing.
func (st *step) noteOrphans() {
	for _, o := range st.orphans() {
		i := slices.IndexFunc(st.obs.Outcomes, func(out Outcome) bool { return out.Key == recordKey(o.ID) })
		if i < 0 || st.buried(o.ID) {
			continue
		}
		out := st.obs.Outcomes[i]
		record := out.Record
		if record == nil && !says(out.Err) && o.Exit != nil && st.now.Wall.Sub(o.Exit.At) < recordTimeout {
			continue // it may work later
		}
		if record == nil {
			record = st.strangersRecord(o)
			record.Missing = []string{"evidence: " + messageOf(out.Err)}
		}
		st.emit(model.StrangerRecorded{Record: *record})
	}
}
