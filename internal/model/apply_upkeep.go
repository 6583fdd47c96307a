package model

import (
	"fmt"
	"slices"
)

// sessionsKept bounds how many sessions of a service the fold remembers.
const sessionsKept = 1000

// foldUpkeep folds the events of event_upkeep.go. known is false for events of
// other kinds.
func (s *State) foldUpkeep(e Event) (known bool, err error) {
	switch p := e.Data.(type) {
	case ServerCondemned, ServerOverdue, ServerDrifted, ServerUndrifted, SessionOpened, SessionExtended, SessionEnded:
		return true, s.foldMark(e)
	case DriftRecurred, ExperimentStarted, ExperimentAdvanced, ExperimentEnded:
		return true, s.foldTrial(e)
	case VolumeCreated, VolumeSnapshotted, VolumeSnapshotRemoved, VolumeRestored, VolumeRemoved:
		return true, s.foldVolume(e)
	case FleetDrifted:
		s.Fleet = addFindings(s.Fleet, p.Findings)
	case FleetMended:
		s.Fleet = dropFindings(s.Fleet, p.Keys)
	case ImagePinned:
		return true, s.pinImage(e, p)
	case ImageChecked:
		return true, s.checkImage(e, p)
	case ImageRejected:
		return true, s.rejectImage(e, p)
	case ImageAttested:
		return true, s.attestImage(e, p)
	case ImagePublished:
		if img := s.Images[p.Digest]; img != nil {
			said := p.Publication
			said.At = e.At
			img.Published = &said
		}
	case KeyTrusted, KeyRotated, KeyRevoked, KeyDistrusted:
		return true, s.foldKey(e)
	case ImageRemoved:
		if img := s.Images[p.Digest]; img != nil {
			img.RemovedAt = e.At
		}
	case ClockJumped:
		s.ClockJumped = e.Elapsed
	case DiskChanged:
		d := p.Disk
		d.Since = e.Elapsed
		s.Disk = &d
	case ObjectsRemoved:
		s.forget(p)
	case AlertFailed:
	default:
		return false, nil
	}
	return true, nil
}

// foldMark folds what marks a server, and the sessions that do.
func (s *State) foldMark(e Event) error {
	id := markedServer(e.Data)
	svc, srv := s.Services[id.Service()], s.Server(id)
	if p, ok := e.Data.(SessionEnded); ok { // its server may be gone by then
		return svc.endSession(p)
	}
	if srv == nil {
		return fmt.Errorf("there is no server %s", id)
	}
	switch p := e.Data.(type) {
	case ServerCondemned:
		svc.condemn(srv, Condemned{Cause: p.Cause, Reason: p.Reason, Since: e.Elapsed, From: p.From, Until: p.Until})
	case ServerOverdue:
		if srv.Condemned == nil {
			return fmt.Errorf("server %s is not condemned", id)
		}
		c := *srv.Condemned
		c.Late = true
		srv.Condemned = &c
	case ServerDrifted:
		srv.drift(e, p)
	case ServerUndrifted:
		if srv.Drift != nil {
			d := *srv.Drift
			d.Findings = dropFindings(d.Findings, p.Keys)
			srv.Drift = &d
		}
	case SessionOpened:
		svc.openSession(e, srv, p, s)
	case SessionExtended:
		return svc.extendSession(e, srv, p)
	}
	return nil
}

func markedServer(p Payload) ServerID {
	switch p := p.(type) {
	case ServerCondemned:
		return p.ID
	case ServerOverdue:
		return p.ID
	case ServerDrifted:
		return p.ID
	case ServerUndrifted:
		return p.ID
	case SessionOpened:
		return p.Session.Server
	case SessionExtended:
		return p.Server
	case SessionEnded:
		return p.Server
	default:
		return ""
	}
}

// Dormant reports whether the server is condemned for drift of a template for
// which replacing was given up: nothing replaces it for that.
func (s *Service) Dormant(srv *Server) bool {
	c, r := srv.Condemned, s.Recurrence
	return c != nil && c.Cause == CondemnedByDrift && r != nil && r.Halted && r.TemplateHash == srv.TemplateHash
}

// condemn notes that the server is to be replaced; the sooner sentence holds,
// what somebody asks for over what kiln has decided by itself, and anything over
// a sentence that is dormant.
func (s *Service) condemn(srv *Server, c Condemned) {
	old := srv.Condemned
	asked := c.Cause == CondemnedByRequest && (old == nil || old.Cause != CondemnedByRequest)
	if old != nil && old.From <= c.From && !asked && !s.Dormant(srv) {
		return
	}
	srv.Condemned = &c
}

func (srv *Server) drift(e Event, p ServerDrifted) {
	d := Drift{Since: e.Elapsed}
	if srv.Drift != nil {
		d = *srv.Drift
	}
	known := len(d.Findings)
	all := addFindings(d.Findings, p.Findings)
	d.Findings = all[:min(len(all), max(known, FindingsKept))]
	d.More += p.More + len(all) - len(d.Findings)
	d.Noted += len(p.Findings)
	d.Response, d.Done = p.Response, p.Done
	srv.Drift = &d
}

// addFindings returns the findings and those of more that are not among them.
func addFindings(findings, more []Finding) []Finding {
	known := make(map[string]bool, len(findings))
	out := make([]Finding, 0, len(findings)+len(more))
	for _, list := range [][]Finding{findings, more} {
		for _, f := range list {
			if !known[f.Key()] {
				known[f.Key()] = true
				out = append(out, f)
			}
		}
	}
	return out
}

func dropFindings(findings []Finding, keys []string) []Finding {
	gone := make(map[string]bool, len(keys))
	for _, k := range keys {
		gone[k] = true
	}
	var out []Finding
	for _, f := range findings {
		if !gone[f.Key()] {
			out = append(out, f)
		}
	}
	return out
}

// openSession taints the server and condemns it.
func (s *Service) openSession(e Event, srv *Server, p SessionOpened, st *State) {
	x := p.Session
	x.Opened = e.Elapsed
	s.Sessions = append(s.Sessions, &x)
	s.Sessions = s.Sessions[max(0, len(s.Sessions)-sessionsKept):]
	st.NextID++
	t := Taint{Since: e.Elapsed, Kind: x.Kind}
	if srv.Taint != nil {
		t = *srv.Taint
	}
	if x.Kind == SessionHotfix {
		t.Kind = SessionHotfix
	}
	t.Sessions++
	t.Session, t.By, t.Reason = x.ID, x.By, x.Reason
	srv.Taint = &t
	if x.OutOfRotation {
		srv.Aside = max(srv.Aside, x.Until)
	}
	s.condemn(srv, Condemned{Cause: CondemnedBySession, Reason: taintReason(&x), Since: e.Elapsed, From: p.From, Until: x.Until})
}

func taintReason(x *Session) string {
	return fmt.Sprintf("%s %s by %s: %s", x.Kind, x.ID, x.By, x.Reason)
}

func (s *Service) extendSession(e Event, srv *Server, p SessionExtended) error {
	old := s.Session(p.ID)
	if old == nil {
		return fmt.Errorf("there is no session %s", p.ID)
	}
	x := *old
	x.Until = p.Until
	x.Extensions = append(slices.Clip(x.Extensions), Extension{By: p.By, Reason: p.Reason, At: e.At, Until: p.Until})
	s.replaceSession(&x)
	if srv.Aside != 0 {
		srv.Aside = max(srv.Aside, p.Until)
	}
	if c := srv.Condemned; c != nil && c.Cause == CondemnedBySession {
		srv.Condemned = &Condemned{Cause: c.Cause, Reason: taintReason(&x), Since: c.Since, From: p.From, Until: p.Until}
	}
	return nil
}

func (s *Service) endSession(p SessionEnded) error {
	if s == nil || s.Session(p.ID) == nil {
		return fmt.Errorf("there is no session %s", p.ID)
	}
	x := *s.Session(p.ID)
	x.Ended = &p.End
	s.replaceSession(&x)
	return nil
}

func (s *Service) replaceSession(x *Session) {
	for i := range s.Sessions {
		if s.Sessions[i].ID == x.ID {
			s.Sessions[i] = x
		}
	}
}

// foldTrial folds what is tried on a service, and what it finds out by itself.
func (s *State) foldTrial(e Event) error {
	var svc *Service
	switch p := e.Data.(type) {
	case DriftRecurred:
		svc = s.Services[p.Service]
	case ExperimentStarted:
		svc = s.Services[p.Experiment.Service]
	case ExperimentAdvanced:
		svc = s.Services[p.Service]
	case ExperimentEnded:
		svc = s.Services[p.Service]
	}
	if svc == nil {
		return fmt.Errorf("there is no such service")
	}
	switch p := e.Data.(type) {
	case DriftRecurred:
		svc.Recurrence = &DriftRecurrence{TemplateHash: p.TemplateHash, Count: p.Count, Halted: p.Halted, Reason: p.Reason, Since: e.Elapsed}
	case ExperimentStarted:
		if svc.Experiment != nil {
			return fmt.Errorf("experiment %s runs already", svc.Experiment.ID)
		}
		x := p.Experiment
		x.Started, x.StartedAt = e.Elapsed, e.At
		svc.Experiment = &x
		s.NextID++
	case ExperimentAdvanced:
		return svc.advanceExperiment(p)
	case ExperimentEnded:
		return svc.endExperiment(e, p)
	}
	return nil
}

func (s *Service) advanceExperiment(p ExperimentAdvanced) error {
	if s.Experiment == nil || s.Experiment.ID != p.ID {
		return fmt.Errorf("experiment %s of %s does not run", p.ID, s.Name)
	}
	x := *s.Experiment
	for _, f := range []struct{ at, to *Instant }{{&p.Armed, &x.Armed}, {&p.Applied, &x.Applied}, {&p.Detected, &x.Detected}, {&p.Replaced, &x.Replaced}} {
		if *f.at != 0 {
			*f.to = *f.at
		}
	}
	if p.Ending != "" {
		x.Ending, x.Reason = p.Ending, p.Reason
	}
	s.Experiment = &x
	return nil
}

// disturbed reports whether the server is the one that an experiment disturbs:
// that it suffers says nothing about its kind.
func (s *Service) disturbed(id ServerID) bool {
	return s.Experiment != nil && s.Experiment.Server == id
}

func (s *Service) endExperiment(e Event, p ExperimentEnded) error {
	if s.Experiment == nil || s.Experiment.ID != p.ID {
		return fmt.Errorf("experiment %s of %s does not run", p.ID, s.Name)
	}
	x := *s.Experiment
	x.Outcome, x.Reason, x.Failed, x.Ended, x.EndedAt, x.Ending = p.Outcome, p.Reason, p.Failed, e.Elapsed, e.At, ""
	s.Experiment = nil
	s.Experiments = append(s.Experiments, &x)
	s.Experiments = s.Experiments[max(0, len(s.Experiments)-ExperimentsKept):]
	return nil
}

func (s *State) pinImage(e Event, p ImagePinned) error {
	img := s.Images[p.Digest]
	if img == nil {
		return fmt.Errorf("there is no image %s", p.Digest)
	}
	img.Pinned = nil
	if p.Pinned {
		img.Pinned = &Pin{By: p.By, Reason: p.Reason, At: e.At}
	}
	return nil
}

// checksKept is how many results of checks are remembered of an image.
const checksKept = 16

func (s *State) checkImage(e Event, p ImageChecked) error {
	img := s.Images[p.Digest]
	if img == nil {
		return fmt.Errorf("there is no image %s", p.Digest)
	}
	p.Checked.At = e.At
	var kept []CheckedImage
	for _, known := range img.Checked {
		if known.Suite != p.Checked.Suite || known.Config != p.Checked.Config {
			kept = append(kept, known)
		}
	}
	kept = append(kept, p.Checked)
	img.Checked = kept[max(0, len(kept)-checksKept):]
	return nil
}

func (s *State) rejectImage(e Event, p ImageRejected) error {
	img := s.Images[p.Digest]
	if img == nil {
		return fmt.Errorf("there is no image %s", p.Digest)
	}
	if p.Rejection.From == "" {
		p.Rejection.At = e.At
	}
	img.Rejection = &p.Rejection
	return nil
}

func (s *State) attestImage(e Event, p ImageAttested) error {
	img := s.Images[p.Digest]
	if img == nil {
		return fmt.Errorf("there is no image %s", p.Digest)
	}
	p.Statement.At = e.At
	for _, known := range img.Statements {
		if known.Bundle == p.Statement.Bundle {
			return nil
		}
	}
	img.Statements = append(slices.Clip(img.Statements), p.Statement)
	return nil
}

// foldVolume folds what happens to a service's volumes.
func (s *State) foldVolume(e Event) error {
	service, name := volumeOf(e.Data)
	svc := s.Services[service]
	if svc == nil {
		return fmt.Errorf("there is no service %q", service)
	}
	if p, ok := e.Data.(VolumeCreated); ok {
		if svc.Volume(name) != nil {
			return fmt.Errorf("volume %s of %s exists already", name, service)
		}
		v := p.Volume
		v.Created = e.Elapsed
		svc.Volumes = append(svc.Volumes, &v)
		return nil
	}
	old := svc.Volume(name)
	if old == nil {
		return fmt.Errorf("%s has no volume %s", service, name)
	}
	v := *old
	v.Snapshots = append([]VolumeSnapshot(nil), old.Snapshots...)
	switch p := e.Data.(type) {
	case VolumeSnapshotted:
		if p.Missing == "" {
			v.Snapshots = append(v.Snapshots, p.Snapshot)
		} else {
			v.Missed = p.Snapshot.Deployment
		}
	case VolumeSnapshotRemoved:
		v.dropSnapshot(p.ID)
	}
	_, removed := e.Data.(VolumeRemoved)
	svc.replaceVolume(&v, removed)
	return nil
}

func (v *Volume) dropSnapshot(id string) {
	var kept []VolumeSnapshot
	for _, x := range v.Snapshots {
		if x.ID != id {
			kept = append(kept, x)
		}
	}
	v.Snapshots = kept
}

func (s *Service) replaceVolume(v *Volume, removed bool) {
	var out []*Volume
	for _, old := range s.Volumes {
		switch {
		case old.Name != v.Name:
			out = append(out, old)
		case !removed:
			out = append(out, v)
		}
	}
	s.Volumes = out
}

func volumeOf(p Payload) (service, name string) {
	switch p := p.(type) {
	case VolumeCreated:
		return p.Volume.Service, p.Volume.Name
	case VolumeSnapshotted:
		return p.Service, p.Name
	case VolumeSnapshotRemoved:
		return p.Service, p.Name
	case VolumeRestored:
		return p.Service, p.Name
	case VolumeRemoved:
		return p.Service, p.Name
	default:
		return "", ""
	}
}

// forget notes which values are not kept any more.
func (s *State) forget(p ObjectsRemoved) {
	if p.Object != ObjectSecret && p.Object != ObjectConfig {
		return
	}
	if s.Forgotten == nil {
		s.Forgotten = map[string]bool{}
	}
	for _, id := range p.IDs {
		s.Forgotten[id] = true
	}
}
