package reconcile

import (
	"kiln/internal/model"
)

func prepareKey(d model.Digest) Key      { return Key("prepare/" + string(d)) }
func provisionKey(id model.ServerID) Key { return Key("provision/" + string(id)) }
func inspectKey(id model.ServerID) Key   { return Key("inspect/" + string(id)) }
func stopKey(id model.ServerID) Key      { return Key("stop/" + string(id)) }
func recordKey(id model.ServerID) Key    { return Key("record/" + string(id)) }
func destroyKey(id model.ServerID) Key   { return Key("destroy/" + string(id)) }

func validateKey(id model.ServerID, checks string) Key {
	return Key("validate/" + string(id) + "/" + checks)
}

// says reports whether an error says what happened. The others leave it
// unknown, or promise that it may work later.
func says(err *model.Error) bool {
	return err != nil && err.Code != model.Internal && err.Code != model.Unavailable
}

// noteOutcomes notes what ended actions have shown. Whatever the state holds
// already is passed over.
func (v *service) noteOutcomes() {
	var failures []failure
	noted := map[Key]bool{}
	for _, o := range v.obs.Outcomes {
		if noted[o.Key] {
			continue
		}
		srv := v.svc.Servers[o.Server]
		switch {
		case o.Verb == Prepare && says(o.Err):
			failures = append(failures, v.withoutImage(o)...)
		case o.Verb == Snapshot:
			v.noteSnapshot(o)
			noted[o.Key] = true
		case srv == nil:
		case o.Verb == Provision && srv.Phase == model.PhaseCreated && says(o.Err):
			failures = append(failures, failure{srv: srv, gone: true, reason: "it cannot be provisioned: " + o.Err.Message})
			noted[o.Key] = true
		case o.Verb == Validate && (o.Err == nil || says(o.Err)):
			if f, failed := v.noteValidated(srv, o); failed {
				failures = append(failures, f)
			}
			noted[o.Key] = true
		case o.Verb == Inspect && srv.Phase == model.PhaseStopping && !srv.Inspected:
			v.emit(v.becomeInspected(srv))
			noted[o.Key] = true
		case o.Verb == Disturb || o.Verb == Calm:
			v.noteDisturbed(o)
			noted[o.Key] = true
		case o.Verb == Record && srv.Phase == model.PhaseEnded:
			v.noteRecorded(srv, o)
			noted[o.Key] = true
		}
	}
	v.fail(failures)
	for _, o := range v.obs.Outcomes {
		switch {
		case v.ended:
			return
		case o.Verb == Prepare && !noted[o.Key]:
			v.notePrepared(o)
			noted[o.Key] = true
		case o.Verb == Publish:
			v.notePublished(o)
		}
	}
}

// withoutImage are the servers that cannot be made because their image is not
// to be had any more.
func (v *service) withoutImage(o Outcome) []failure {
	var lost []failure
	for _, srv := range v.servers() {
		if srv.Phase == model.PhaseCreated && v.release(srv).Template.Image == o.Image {
			lost = append(lost, failure{srv: srv, gone: true, reason: "its image cannot be prepared: " + o.Err.Message})
		}
	}
	return lost
}

func (v *service) notePrepared(o Outcome) {
	d := v.svc.Deployment
	if d == nil || d.Phase != model.DeployPreparing || v.target().Template.Image != o.Image {
		return
	}
	switch {
	case o.Err == nil:
		v.becomeProvisioning()
	case says(o.Err):
		v.endDeployment(model.Failed, "its image cannot be prepared: "+o.Err.Message, nil)
	default:
		v.waitFor("image " + o.Image.Short() + ": " + o.Err.Message)
	}
}

// notePublished fails a switch whose table the routers refuse, for example
// because a port is taken: they bind all new listeners or change nothing.
func (v *service) notePublished(o Outcome) {
	d := v.svc.Deployment
	if !says(o.Err) || d == nil || d.Phase != model.DeploySwitching || d.Generation == 0 ||
		o.Key != publishKey(v.s.Epoch, v.s.Table.Generation) || v.routers.most >= d.Generation || d.Generation != v.s.Table.Generation {
		return
	}
	v.endDeployment(model.Failed, "the router refused the new table: "+o.Err.Message, nil)
}

func (v *service) noteValidated(srv *model.Server, o Outcome) (failure, bool) {
	release := v.proves(srv)
	if release == nil || srv.Checks == release.ChecksHash || o.Key != validateKey(srv.ID, release.ChecksHash) {
		return failure{}, false
	}
	if o.Err == nil {
		v.emit(model.ServerValidated{ID: srv.ID, Checks: release.ChecksHash})
		return failure{}, false
	}
	if srv.Phase != model.PhaseRunning {
		// It serves, or waits warm, and has passed the checks it was made
		// with: the new ones fail the deployment alone.
		return failure{srv: srv, stays: true, reason: o.Err.Message}, true
	}
	return failure{srv: srv, unfit: true, reason: o.Err.Message, lived: v.now.Elapsed.Sub(srv.RanSince)}, true
}

// noteRecorded notes that the death record is durable; when none can be had
// for a minute, the journal says what is missing instead.
func (v *service) noteRecorded(srv *model.Server, o Outcome) {
	switch {
	case o.Err == nil && o.Record != nil:
		v.emit(model.ServerRecorded{Record: *o.Record})
	case v.now.Elapsed >= srv.Since.Add(recordTimeout):
		record := v.deathRecord(srv)
		record.Missing = append(record.Missing, "evidence: "+messageOf(o.Err))
		v.emit(model.ServerRecorded{Record: *record})
	}
}

func messageOf(err *model.Error) string {
	if err == nil {
		return "none was collected"
	}
	return err.Message
}

// deathRecord is all that is known of an ended server without its evidence.
func (v *service) deathRecord(srv *model.Server) *model.DeathRecord {
	record := &model.DeathRecord{
		Server: srv.ID, Service: srv.Service, Release: srv.Release,
		Image: v.release(srv).Template.Image, Reason: srv.Reason, Exit: srv.Exit, EndedAt: v.now.Wall,
	}
	if srv.Exit != nil && !srv.Exit.At.IsZero() {
		record.EndedAt = srv.Exit.At
	}
	return record
}
