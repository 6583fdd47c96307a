package model

import (
	"fmt"
	"slices"
	"time"
)

// deadKept and deploymentsKept bound what the fold remembers of the past; the
// journal itself keeps everything.
const (
	deadKept        = 1000
	deploymentsKept = 1000
	lossesKept      = 100
)

// lossAgain is how long after a loss the same server counts no second time:
// one that comes and goes is one loss, the latest.
const lossAgain = time.Minute

// Apply folds one event into the state. Events that cannot follow from the
// state are refused with an error and change nothing that matters: a journal
// in which they stand was not written by kiln.
func (s *State) Apply(e Event) error {
	if e.Seq != s.Seq+1 {
		return fmt.Errorf("event %d follows event %d", e.Seq, s.Seq)
	}
	if e.Epoch < s.Epoch {
		return fmt.Errorf("event %d is of epoch %d, but epoch %d has written already", e.Seq, e.Epoch, s.Epoch)
	}
	boot := s.BootID
	if err := s.fold(e); err != nil {
		return fmt.Errorf("event %d (%s): %w", e.Seq, e.Data.Kind(), err)
	}
	if d, started := e.Data.(DaemonStarted); (!started || d.BootID == boot) && s.ClockJump(e.At, e.Elapsed) != 0 {
		s.ClockJumped = e.Elapsed
	}
	s.Seq, s.Epoch, s.Wall = e.Seq, e.Epoch, e.At
	s.Elapsed = max(s.Elapsed, e.Elapsed)
	return nil
}

func (s *State) fold(e Event) error {
	switch p := e.Data.(type) {
	case InstanceCreated:
		s.Instance = p.Instance
	case DaemonStarted:
		s.BootID, s.BootOffset, s.DaemonSince = p.BootID, p.BootOffset, e.Elapsed
	case HostChanged:
	case JournalUpgraded:
		if p.Format > JournalFormat {
			return fmt.Errorf("the journal is of format %d since kiln %s, and this kiln knows %d", p.Format, p.Version, JournalFormat)
		}
		s.Format = p.Format
	case JournalRestored:
		s.restore(e)
	case ImageAdded:
		s.addImage(p.Image, e.Elapsed)
	case ReleaseCreated:
		return s.addRelease(p.Release)
	case StrangerRecorded:
		s.addStranger(&p.Record)
	case TablePublished:
		s.Table.Generation, s.Table.Hash = p.Generation, p.Hash
	case TableAcknowledged:
		s.acknowledge(e, p.Generation)
	case ServerCreated, ServerAdvanced, ServerHealth, ServerValidated, ServerDrained, ServerRecorded:
		return s.foldServer(e)
	default:
		if known, err := s.foldUpkeep(e); known {
			return err
		}
		return s.foldService(e)
	}
	return nil
}

// lostCount is how many identifiers and tables a lost part of a journal may
// have used up: they are not used again after a restore.
const lostCount = 1 << 20

// restore takes into account that the world is ahead of the journal: what was
// made after the backup has used identifiers, and what was there may be gone
// through nobody's fault.
func (s *State) restore(e Event) {
	s.RestoredAt = e.Elapsed
	s.NextID += lostCount
	s.Table.Generation += lostCount
	s.Table.Hash = ""
	for _, svc := range s.Services {
		for _, srv := range svc.Servers {
			if srv.BootID != "" {
				srv.BootID = BootBeforeRestore
			}
		}
	}
}

// acknowledge starts the drain of the servers that no router's table names any
// more.
func (s *State) acknowledge(e Event, generation uint64) {
	s.Table.Acknowledged = max(s.Table.Acknowledged, generation)
	if generation >= s.Table.Generation {
		s.RestoredAt = 0 // what routers use follows from this journal again
	}
	for _, svc := range s.Services {
		for _, srv := range svc.Servers {
			if srv.DrainGen != 0 && srv.DrainSince == 0 && srv.DrainGen <= s.Table.Acknowledged {
				srv.DrainSince = e.Elapsed
			}
		}
	}
}

// addStranger remembers that a server which is not ours may be destroyed.
func (s *State) addStranger(r *DeathRecord) {
	s.Strangers = append(s.Strangers, r.Server)
	s.Strangers = s.Strangers[max(0, len(s.Strangers)-deadKept):]
	if svc := s.Services[r.Service]; svc != nil {
		svc.bury(r)
	}
}

func (s *State) addImage(img Image, at Instant) {
	known, ok := s.Images[img.Digest]
	if !ok {
		s.Images[img.Digest] = &img
		known = &img
	}
	if img.Provenance.Inputs != "" { // what it was made from last is what is kept
		known.Provenance.Inputs = img.Provenance.Inputs
	}
	known.RemovedAt, known.LastUse = time.Time{}, at // its content is here, whatever became of it before
	for _, service := range img.Services {
		known.Services = append(without(known.Services, service), service)
	}
	for _, made := range img.Made {
		if known.MadeFor(made.Service) == nil {
			known.Made = append(slices.Clip(known.Made), made)
		}
	}
	for _, name := range img.Names {
		for d, other := range s.Images {
			if d != img.Digest {
				other.Names = without(other.Names, name)
			}
		}
		known.Names = append(without(known.Names, name), name)
	}
}

func without(names []string, name string) []string {
	var kept []string
	for _, n := range names {
		if n != name {
			kept = append(kept, n)
		}
	}
	return kept
}

func (s *State) addRelease(r Release) error {
	svc := s.Services[r.Service]
	if svc == nil {
		svc = &Service{Name: r.Service, Servers: map[ServerID]*Server{}}
		s.Services[r.Service] = svc
	}
	if r.Number != len(svc.Releases)+1 {
		return fmt.Errorf("release %d of %s follows release %d", r.Number, r.Service, len(svc.Releases))
	}
	if r.TemplateHash == "" {
		r.TemplateHash = r.Template.Hash()
	}
	if r.ChecksHash == "" {
		r.ChecksHash = r.Policy.ChecksHash()
	}
	for _, digest := range r.Template.Values() {
		delete(s.Forgotten, digest) // it was given anew
	}
	svc.Releases = append(svc.Releases, &r)
	svc.Destroyed = false
	return nil
}

func (s *State) foldService(e Event) error {
	name := serviceOf(e.Data)
	svc := s.Services[name]
	if svc == nil {
		return fmt.Errorf("there is no service %q", name)
	}
	switch p := e.Data.(type) {
	case DeploymentStarted:
		return svc.startDeployment(e, p.Deployment, s)
	case DeploymentQueued:
		return svc.queueDeployment(e, p.Deployment, s)
	case DeploymentAdvanced, DeploymentAborting, DeploymentPaused, DeploymentResumed, DeploymentFinishing, DeploymentEnded:
		return svc.foldDeployment(e)
	case DeploymentSettled:
		d := svc.DeploymentByID(p.ID)
		if d == nil {
			return fmt.Errorf("there is no deployment %s", p.ID)
		}
		d.Settled, d.Finished, d.Cut = true, p.Finished, p.Cut
	case ServiceSwitched:
		if svc.Release(p.Release) == nil {
			return fmt.Errorf("%s has no release %d", name, p.Release)
		}
		s.leave(svc, p.Release, e.Elapsed)
		svc.InService, svc.Pending = p.Release, nil
		if d := svc.DeploymentByID(p.Deployment); d != nil {
			d.Switched = true
		}
	case SwitchAbandoned:
		svc.Pending = nil
	case ServiceBackedOff:
		svc.BackOff = BackOff{Failures: p.Failures, Until: p.Until, Reason: p.Reason}
	case ServiceMelting:
		svc.Meltdown = &Meltdown{Since: e.Elapsed, Reason: p.Reason}
	case ServiceRecovered:
		svc.Meltdown = nil
	case ServiceDestroying:
		svc.Destroying = true
	case ServiceDestroyed:
		s.leave(svc, 0, e.Elapsed)
		svc.Destroying, svc.Destroyed, svc.InService, svc.BackOff, svc.Pending = false, true, 0, BackOff{}, nil
		svc.Meltdown, svc.Losses = nil, nil
	default:
		return fmt.Errorf("the fold does not know this kind")
	}
	return nil
}

// leave notes that the release in service gives way to another, or (0) to none.
func (s *State) leave(svc *Service, to int, at Instant) {
	old := svc.Release(svc.InService)
	if old == nil || old.Number == to {
		return
	}
	if svc.Left == nil {
		svc.Left = map[int]Instant{}
	}
	svc.Left[old.Number] = at
	if img := s.Images[old.Template.Image]; img != nil {
		img.LastUse = at
	}
}

func serviceOf(p Payload) string {
	switch p := p.(type) {
	case DeploymentStarted:
		return p.Deployment.Service
	case DeploymentQueued:
		return p.Deployment.Service
	case DeploymentAdvanced:
		return p.Service
	case DeploymentPaused:
		return p.Service
	case DeploymentResumed:
		return p.Service
	case DeploymentFinishing:
		return p.Service
	case ServiceMelting:
		return p.Service
	case ServiceRecovered:
		return p.Service
	case DeploymentAborting:
		return p.Service
	case DeploymentEnded:
		return p.Service
	case DeploymentSettled:
		return p.Service
	case ServiceSwitched:
		return p.Service
	case SwitchAbandoned:
		return p.Service
	case ServiceBackedOff:
		return p.Service
	case ServiceDestroying:
		return p.Service
	case ServiceDestroyed:
		return p.Service
	default:
		return ""
	}
}

func (s *Service) startDeployment(e Event, d Deployment, st *State) error {
	if s.Deployment != nil {
		return fmt.Errorf("deployment %s runs already", s.Deployment.ID)
	}
	if s.Release(d.To) == nil {
		return fmt.Errorf("%s has no release %d", s.Name, d.To)
	}
	d.Started, d.Since, d.StartedAt = e.Elapsed, e.Elapsed, e.At
	s.Deployment = &d
	if s.dequeue(d.ID) == nil { // its number was counted when it was queued
		st.NextID++
	}
	return nil
}

func (s *Service) queueDeployment(e Event, d Deployment, st *State) error {
	if s.Release(d.To) == nil {
		return fmt.Errorf("%s has no release %d", s.Name, d.To)
	}
	if s.DeploymentByID(d.ID) != nil {
		return fmt.Errorf("deployment %s exists already", d.ID)
	}
	d.Phase, d.Started, d.Since, d.StartedAt = DeployQueued, e.Elapsed, e.Elapsed, e.At
	s.Queue = append(s.Queue, &d)
	st.NextID++
	return nil
}

// dequeue takes the deployment from those that wait; nil: it does not wait.
func (s *Service) dequeue(id DeploymentID) *Deployment {
	for i, d := range s.Queue {
		if d.ID == id {
			s.Queue = slices.Delete(slices.Clone(s.Queue), i, i+1)
			if len(s.Queue) == 0 {
				s.Queue = nil
			}
			return d
		}
	}
	return nil
}

func (s *Service) foldDeployment(e Event) error {
	id := deploymentOf(e.Data)
	if p, ok := e.Data.(DeploymentEnded); ok {
		return s.endDeployment(e, p)
	}
	d := s.Deployment
	if d == nil || d.ID != id {
		return fmt.Errorf("deployment %s of %s does not run", id, s.Name)
	}
	switch p := e.Data.(type) {
	case DeploymentAdvanced:
		d.advance(e, p)
	case DeploymentAborting:
		d.Abort = p.By
	case DeploymentPaused:
		d.Pause = &Pause{By: p.By, Since: e.Elapsed, Until: p.Until}
	case DeploymentResumed:
		d.Pause, d.Until, d.Deadline = nil, p.Until, p.Deadline
	case DeploymentFinishing:
		d.Pause, d.Until, d.Deadline, d.Finish = nil, p.Until, p.Deadline, p.By
	}
	return nil
}

// advance moves the deployment to another phase, and perhaps stage. The
// generation is that of the stage's table: a stage that is worked on anew will
// get another one.
func (d *Deployment) advance(e Event, p DeploymentAdvanced) {
	if d.Phase != p.Phase || d.Stage != p.Stage {
		d.Since = e.Elapsed
		if p.Phase == DeployProvisioning {
			d.Generation = 0
		}
	}
	d.Phase, d.WaitingFor, d.Until, d.Stage = p.Phase, p.WaitingFor, p.Until, p.Stage
	if p.Generation != 0 {
		d.Generation = p.Generation
	}
	if p.Phase == DeployHolding {
		d.Held = p.Stage + 1
	}
}

func (s *Service) endDeployment(e Event, p DeploymentEnded) error {
	d := s.Deployment
	switch queued := s.dequeue(p.ID); {
	case queued != nil:
		d = queued
	case d == nil || d.ID != p.ID:
		return fmt.Errorf("deployment %s of %s does not run, nor waits", p.ID, s.Name)
	default:
		s.Deployment = nil
	}
	d.Phase, d.WaitingFor, d.Verdict, d.Reason, d.Pause = DeployEnded, "", p.Verdict, p.Reason, nil
	d.TookMS, d.EndedAt, d.Since = p.TookMS, e.At, e.Elapsed
	if p.Verdict == Unknown {
		s.Pending = &PendingSwitch{Release: d.To, Deployment: d.ID, Generation: d.Generation}
	}
	s.Deployments = append(s.Deployments, d)
	s.Deployments = s.Deployments[max(0, len(s.Deployments)-deploymentsKept):]
	return nil
}

func deploymentOf(p Payload) DeploymentID {
	switch p := p.(type) {
	case DeploymentAdvanced:
		return p.ID
	case DeploymentAborting:
		return p.ID
	case DeploymentPaused:
		return p.ID
	case DeploymentResumed:
		return p.ID
	case DeploymentFinishing:
		return p.ID
	case DeploymentEnded:
		return p.ID
	default:
		return ""
	}
}

func (s *State) foldServer(e Event) error {
	if p, ok := e.Data.(ServerCreated); ok {
		return s.createServer(e, p)
	}
	id := serverOf(e.Data)
	svc := s.Services[id.Service()]
	srv := s.Server(id)
	if srv == nil {
		return fmt.Errorf("there is no server %s", id)
	}
	switch p := e.Data.(type) {
	case ServerAdvanced:
		return s.advance(srv, e, p)
	case ServerHealth:
		if srv.Phase == PhaseServing && p.Status == Unhealthy && srv.Health != Unhealthy {
			svc.lose(srv, e)
		}
		srv.Health, srv.HealthDetail, srv.HealthSince = p.Status, p.Detail, e.Elapsed
	case ServerValidated:
		srv.Checks = p.Checks
	case ServerDrained:
		srv.Drained, srv.Finished, srv.Cut = true, p.Finished, p.Cut
		if d := svc.DeploymentByID(srv.Retired); d != nil {
			d.Finished, d.Cut = d.Finished+p.Finished, d.Cut+p.Cut
		}
	case ServerRecorded:
		if !srv.Phase.CanBecome(PhaseRecorded) {
			return fmt.Errorf("server %s is %s and cannot become recorded", id, srv.Phase)
		}
		srv.Phase, srv.Since, srv.Record = PhaseRecorded, e.Elapsed, &p.Record
		svc.bury(&p.Record)
	}
	return nil
}

func (s *Service) bury(r *DeathRecord) {
	s.Dead = append(s.Dead, r)
	s.Dead = s.Dead[max(0, len(s.Dead)-deadKept):]
}

func (s *State) createServer(e Event, p ServerCreated) error {
	svc := s.Services[p.Service]
	if svc == nil || p.ID.Service() != p.Service {
		return fmt.Errorf("there is no service %q for server %s", p.Service, p.ID)
	}
	if svc.Servers[p.ID] != nil {
		return fmt.Errorf("server %s exists already", p.ID)
	}
	svc.Servers[p.ID] = &Server{
		ID: p.ID, Service: p.Service, Release: p.Release, TemplateHash: p.TemplateHash, Cause: p.Cause,
		Phase: PhaseCreated, CreatedAt: e.At, Created: e.Elapsed, Since: e.Elapsed, Until: p.Until,
		Health: HealthUnknown, HealthSince: e.Elapsed,
	}
	s.NextID++
	return nil
}

func (s *State) advance(srv *Server, e Event, p ServerAdvanced) error {
	stays := srv.Phase == p.Phase && (p.Phase == PhaseServing || p.Phase == PhaseStopping)
	if !stays && !srv.Phase.CanBecome(p.Phase) {
		return fmt.Errorf("server %s is %s and cannot become %s", srv.ID, srv.Phase, p.Phase)
	}
	if p.Phase == PhaseDestroyed {
		delete(s.Services[srv.Service].Servers, srv.ID)
		return nil
	}
	s.noteLoss(srv, e, p)
	if srv.Phase != p.Phase {
		srv.Since = e.Elapsed
	}
	srv.Phase, srv.Reason, srv.Until = p.Phase, p.Reason, p.Until
	switch p.Phase {
	case PhaseRunning:
		srv.Address, srv.StartedAt, srv.RanSince, srv.BootID = p.Address, p.StartedAt, e.Elapsed, s.BootID
	case PhaseServing:
		srv.Release, srv.Drained, srv.DrainSince, srv.DrainGen, srv.Retired = p.Release, false, 0, 0, ""
		srv.DrainFlight, srv.DrainCut, srv.Finished, srv.Cut = 0, 0, 0, 0
	case PhaseWarm, PhaseDraining, PhaseEnded:
		s.leaveTable(srv, e, p)
	case PhaseParked:
		srv.WasParked = true
	case PhaseStopping:
		srv.Inspected = srv.Inspected || p.Inspected
	default:
	}
	if p.Exit != nil {
		srv.Exit = p.Exit
	}
	return nil
}

// noteLoss counts a server in service that ends by itself, unless the machine
// was rebooted, and while replacement is held back the ones that come into
// service.
func (s *State) noteLoss(srv *Server, e Event, p ServerAdvanced) {
	svc := s.Services[srv.Service]
	switch {
	case srv.Phase == PhaseServing && p.Phase == PhaseEnded && srv.BootID == s.BootID:
		svc.lose(srv, e)
	case srv.Phase == PhaseReady && p.Phase == PhaseServing && svc.Meltdown != nil:
		svc.Meltdown.Proven++
	}
}

// lose counts a loss. What came into service since the meltdown proves nothing
// any more when there is another. What is done to a server on purpose is none.
func (s *Service) lose(srv *Server, e Event) {
	if s.disturbed(srv.ID) {
		return
	}
	again := srv.Lost != 0 && e.Elapsed < srv.Lost.Add(lossAgain)
	if i := slices.Index(s.Losses, srv.Lost); again && i >= 0 {
		s.Losses = slices.Delete(slices.Clone(s.Losses), i, i+1)
	}
	srv.Lost = e.Elapsed
	s.Losses = append(s.Losses, e.Elapsed)
	s.Losses = s.Losses[max(0, len(s.Losses)-lossesKept):]
	if s.Meltdown != nil && !again {
		s.Meltdown.Proven = 0
	}
}

// leaveTable notes from which table on the server gets nothing new. A server
// that is in no table is drained from the start.
func (s *State) leaveTable(srv *Server, e Event, p ServerAdvanced) {
	if p.Retired != "" {
		srv.Retired = p.Retired
	}
	switch {
	case p.DrainGen > srv.DrainGen:
		srv.DrainGen, srv.Drained, srv.DrainSince = p.DrainGen, false, 0
		srv.DrainFlight, srv.DrainCut = p.InFlight, p.CutBefore
		if p.DrainGen <= s.Table.Acknowledged {
			srv.DrainSince = e.Elapsed
		}
	case srv.DrainGen == 0 && srv.DrainSince == 0:
		srv.DrainSince = e.Elapsed
	}
}

func serverOf(p Payload) ServerID {
	switch p := p.(type) {
	case ServerAdvanced:
		return p.ID
	case ServerHealth:
		return p.ID
	case ServerValidated:
		return p.ID
	case ServerDrained:
		return p.ID
	case ServerRecorded:
		return p.Record.Server
	default:
		return ""
	}
}
