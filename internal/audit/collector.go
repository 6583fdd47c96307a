package audit

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"kiln/internal/model"
)

// Event is an entry of the journal, as it is taken in.
type Event struct {
	model.Event
	Hash    string
	Service string // that it is about; "": none
	Text    string // in words
}

// Collector makes an account of events, which are added in their order.
type Collector struct {
	account  Account
	services map[string]*service
	images   map[model.Digest]model.Image
	servers  map[model.ServerID]*Server
	sessions map[model.SessionID]*Session
	chaos    map[model.ExperimentID]*Experiment
	deploys  map[model.DeploymentID]*Deployment
	recycled map[model.ServerID]*Recycled
	line     *Lineage
}

// service is one that is being accounted for. What is behind pointers changes
// with later events.
type service struct {
	releases    []model.Release
	images      []*Image
	deployments []*Deployment
	servers     []*Server
	sessions    []*Session
	drifts      []*Drift
	chaos       []*Experiment
	recycled    []*Recycled
	other       []Entry
}

// NewCollector returns a Collector for what happens from since to until, of one
// service or ("") of all.
func NewCollector(only string, since, until time.Time) *Collector {
	return &Collector{
		account:  Account{Service: only, Since: since.UTC(), Until: until.UTC(), Machine: []Entry{}},
		services: map[string]*service{}, images: map[model.Digest]model.Image{}, servers: map[model.ServerID]*Server{},
		sessions: map[model.SessionID]*Session{}, chaos: map[model.ExperimentID]*Experiment{},
		deploys: map[model.DeploymentID]*Deployment{}, recycled: map[model.ServerID]*Recycled{}, line: NewLineage(),
	}
}

func (c *Collector) service(name string) *service {
	if c.services[name] == nil {
		c.services[name] = &service{}
	}
	return c.services[name]
}

// Add takes in the next event.
func (c *Collector) Add(e Event) {
	if e.At.After(c.account.Until) { // the wall clock was set back since
		c.account.Until = e.At.UTC()
	}
	c.line.Add(e.Event)
	if c.release(e) || c.deployment(e) || c.server(e) || c.upkeep(e) {
		return
	}
	entry := Entry{Seq: e.Seq, Hash: e.Hash, At: e.At, By: e.Actor, Text: e.Text}
	switch p := e.Data.(type) {
	case model.InstanceCreated:
		c.account.Instance = p.Instance
	case model.TablePublished, model.TableAcknowledged, model.ServerHealth, model.ServerDrained:
		return // steps of what is told as a whole
	}
	if e.Service == "" {
		c.account.Machine = append(c.account.Machine, entry)
		return
	}
	svc := c.service(e.Service)
	svc.other = append(svc.other, entry)
}

// release takes in what says which image is which, and which one serves.
func (c *Collector) release(e Event) bool {
	switch p := e.Data.(type) {
	case model.ImageAdded:
		c.images[p.Image.Digest] = p.Image
	case model.ReleaseCreated:
		svc := c.service(p.Release.Service)
		svc.releases = append(svc.releases, p.Release)
	case model.ServiceSwitched:
		c.serves(p.Service, p.Release, e.At)
	case model.SwitchAbandoned:
		return false
	case model.ServiceDestroyed:
		c.service(p.Service).stops(e.At)
		return false
	default:
		return false
	}
	return true
}

// serves notes that the release is the one in service from now on.
func (c *Collector) serves(name string, number int, at time.Time) {
	svc := c.service(name)
	svc.stops(at)
	r, ok := svc.releaseOf(number)
	if !ok {
		return
	}
	img := &Image{
		Digest: r.Template.Image, Commit: r.Provenance.Commit, Dirty: r.Provenance.Dirty, Author: r.Author, Reason: r.Reason,
		Parents: r.Provenance.Parents, Release: number, Rollback: r.RollbackOf, From: at,
	}
	if known, ok := c.images[img.Digest]; ok {
		img.Commit = cmp.Or(img.Commit, known.Provenance.Commit)
		img.Author, img.Reason = cmp.Or(img.Author, known.Author), cmp.Or(img.Reason, known.Reason)
		if len(img.Parents) == 0 {
			img.Parents = known.Provenance.Parents
		}
	}
	svc.images = append(svc.images, img)
}

func (s *service) stops(at time.Time) {
	if n := len(s.images); n > 0 && s.images[n-1].To.IsZero() {
		s.images[n-1].To = at
	}
}

func (s *service) releaseOf(number int) (model.Release, bool) {
	for _, r := range slices.Backward(s.releases) {
		if r.Number == number {
			return r, true
		}
	}
	return model.Release{}, false
}

// deployment takes in what a deployment does.
func (c *Collector) deployment(e Event) bool {
	note := func(id model.DeploymentID, what, by string) {
		if d := c.deploys[id]; d != nil {
			d.Others = append(d.Others, what+" by "+by)
		}
	}
	switch p := e.Data.(type) {
	case model.DeploymentQueued:
		c.begin(e, p.Deployment)
	case model.DeploymentStarted:
		c.begin(e, p.Deployment)
	case model.DeploymentAborting:
		note(p.ID, "aborted", p.By)
	case model.DeploymentPaused:
		note(p.ID, "paused", p.By)
	case model.DeploymentResumed:
		note(p.ID, "resumed", p.By)
	case model.DeploymentFinishing:
		note(p.ID, "finished at once", p.By)
	case model.DeploymentEnded:
		if d := c.deploys[p.ID]; d != nil {
			if p.Verdict == model.Failed && strings.Contains(p.Reason, "server ") {
				d.failed("", p.Reason)
			}
			d.EndedAt, d.Verdict, d.Why = e.At, p.Verdict, p.Reason
		}
	case model.DeploymentSettled:
		if d := c.deploys[p.ID]; d != nil {
			d.Finished, d.Cut = p.Finished, p.Cut
		}
	case model.DeploymentAdvanced:
	default:
		return false
	}
	return true
}

// begin notes a deployment, which is told twice if it waited first.
func (c *Collector) begin(e Event, d model.Deployment) {
	if known := c.deploys[d.ID]; known != nil {
		known.begun = true
		known.Strategy, known.From = cmp.Or(d.Strategy, known.Strategy), d.From
		return
	}
	svc := c.service(d.Service)
	out := &Deployment{ID: d.ID, Seq: e.Seq, Hash: e.Hash, From: d.From, To: d.To, Strategy: d.Strategy, By: cmp.Or(d.Actor, e.Actor), At: e.At, Checks: []Check{}, begun: d.Phase != model.DeployQueued}
	if r, ok := svc.releaseOf(d.To); ok {
		out.Image, out.Reason = r.Template.Image, r.Reason
		if r.Policy.Health.Kind != "" {
			out.Checks = append(out.Checks, Check{Name: "health (" + string(r.Policy.Health.Kind) + ")"})
		}
		for _, v := range r.Policy.Validations {
			out.Checks = append(out.Checks, Check{Name: v.Name + " (" + string(v.Kind) + ")"})
		}
	}
	c.deploys[d.ID] = out
	svc.deployments = append(svc.deployments, out)
}

// server takes in the life of servers.
func (c *Collector) server(e Event) bool {
	switch p := e.Data.(type) {
	case model.ServerCreated:
		srv := &Server{ID: p.ID, Release: p.Release, Cause: p.Cause, CreatedAt: e.At}
		svc := c.service(p.Service)
		if r, ok := svc.releaseOf(p.Release); ok {
			srv.Image = r.Template.Image
		}
		c.servers[p.ID] = srv
		svc.servers = append(svc.servers, srv)
	case model.ServerAdvanced:
		c.advance(e, p)
	case model.ServerValidated:
		c.passed(p.ID, true)
	case model.ServerRecorded:
		if srv := c.servers[p.Record.Server]; srv != nil {
			srv.Evidence, srv.Missing = p.Record.Evidence, p.Record.Missing
		}
	default:
		return false
	}
	return true
}

func (c *Collector) advance(e Event, p model.ServerAdvanced) {
	srv := c.servers[p.ID]
	if srv == nil {
		return
	}
	switch p.Phase {
	case model.PhaseReady:
		c.passed(p.ID, false)
	case model.PhaseServing:
		if srv.LeftAt = (time.Time{}); srv.ServedAt.IsZero() {
			srv.ServedAt = e.At
		}
		if p.Release != 0 {
			srv.Release = p.Release
		}
	case model.PhaseParked:
		if srv.ServedAt.IsZero() {
			c.failed(p.ID, p.Reason)
		}
	case model.PhaseEnded:
		srv.EndedAt, srv.Why = e.At, p.Reason
		if p.Exit != nil {
			srv.Exit = p.Exit.String()
			if !p.Exit.At.IsZero() {
				srv.EndedAt = p.Exit.At
			}
		}
	default:
	}
	if p.Phase != model.PhaseServing && !srv.ServedAt.IsZero() && srv.LeftAt.IsZero() {
		srv.LeftAt = e.At
	}
	if r := c.recycled[p.ID]; r != nil && p.Phase == model.PhaseEnded {
		r.GoneAt = e.At
	}
}

// madeFor returns the deployment under way that the server is made for, or taken
// over by.
func (c *Collector) madeFor(id model.ServerID) *Deployment {
	srv := c.servers[id]
	if srv == nil {
		return nil
	}
	for _, d := range slices.Backward(c.service(id.Service()).deployments) {
		if d.Verdict == "" && (d.To == srv.Release || d.Image == srv.Image && d.begun) {
			return d
		}
	}
	return nil
}

// passed notes that a server of a deployment is healthy, or passed every
// validation.
func (c *Collector) passed(id model.ServerID, validations bool) {
	d := c.madeFor(id)
	if d == nil {
		return
	}
	for i, check := range d.Checks {
		if strings.HasPrefix(check.Name, "health (") != validations {
			d.Checks[i].Passed++
		}
	}
}

// failed notes why a server of a deployment was not fit.
func (c *Collector) failed(id model.ServerID, reason string) {
	if d := c.madeFor(id); d != nil {
		d.failed(id, reason)
	}
}

// failed notes why a server ("": the reason says which) was not fit, once.
func (d *Deployment) failed(id model.ServerID, reason string) {
	for _, check := range d.Checks {
		if id == "" && len(check.Failed) > 0 {
			return // it was told when it was seen
		}
	}
	if len(d.Checks) == 0 {
		return
	}
	which := 0 // where no validation is named it did not become healthy
	for i, check := range d.Checks {
		name, _, _ := strings.Cut(check.Name, " (")
		if i > 0 && strings.Contains(reason, name) {
			which = i
		}
	}
	if id != "" {
		reason = string(id) + ": " + reason
	}
	d.Checks[which].Failed = append(d.Checks[which].Failed, reason)
}

// upkeep takes in sessions, drift, chaos and recycling.
func (c *Collector) upkeep(e Event) bool {
	entry := Entry{Seq: e.Seq, Hash: e.Hash, At: e.At, By: e.Actor, Text: e.Text}
	switch p := e.Data.(type) {
	case model.SessionOpened:
		x := &Session{Session: p.Session, Seq: e.Seq, Hash: e.Hash, Until: wallOf(e, p.Session.Until)}
		c.sessions[x.ID] = x
		svc := c.service(x.Server.Service())
		svc.sessions = append(svc.sessions, x)
	case model.SessionExtended:
		if x := c.sessions[p.ID]; x != nil {
			x.Until = wallOf(e, p.Until)
			x.Extensions = append(x.Extensions, Extension{By: p.By, Reason: p.Reason, At: e.At, Until: x.Until})
		}
	case model.SessionEnded:
		if x := c.sessions[p.ID]; x != nil {
			x.Ended = &p.End
		}
	case model.ServerDrifted:
		svc := c.service(p.ID.Service())
		svc.drifts = append(svc.drifts, &Drift{Entry: entry, Server: p.ID, Findings: p.Findings, More: p.More, Response: p.Response, Done: p.Done})
	case model.ExperimentStarted:
		x := &Experiment{Experiment: p.Experiment, Seq: e.Seq, Hash: e.Hash}
		c.chaos[x.ID] = x
		svc := c.service(x.Service)
		svc.chaos = append(svc.chaos, x)
	case model.ExperimentAdvanced:
		if x := c.chaos[p.ID]; x != nil {
			x.Armed, x.Applied = cmp.Or(p.Armed, x.Armed), cmp.Or(p.Applied, x.Applied)
			x.Detected, x.Replaced = cmp.Or(p.Detected, x.Detected), cmp.Or(p.Replaced, x.Replaced)
		}
	case model.ExperimentEnded:
		if x := c.chaos[p.ID]; x != nil {
			x.DetectedAfter, x.RecoveredAfter = between(x.Applied, x.Detected), between(x.Applied, x.Replaced)
			x.Outcome, x.Reason, x.Failed, x.EndedAt, x.Ended = p.Outcome, p.Reason, p.Failed, e.At, e.Elapsed
		}
	case model.ServerCondemned:
		r := &Recycled{Entry: entry, Server: p.ID, Cause: p.Cause, Reason: p.Reason}
		c.recycled[p.ID] = r
		svc := c.service(p.ID.Service())
		svc.recycled = append(svc.recycled, r)
	default:
		return false
	}
	return true
}

// wallOf returns the wall clock's time of an instant, as of the event.
func wallOf(e Event, at model.Instant) time.Time {
	return e.At.Add(at.Sub(e.Elapsed)).UTC().Round(time.Millisecond)
}

// between is the time between two instants; 0 where there is no second one.
func between(from, to model.Instant) model.Duration {
	if from == 0 || to == 0 {
		return 0
	}
	return model.Duration(to.Sub(from).Round(time.Millisecond))
}

// Account returns what was taken in, with the result of verifying the chain.
func (c *Collector) Account(chain Chain) Account {
	a := c.account
	a.Chain, a.Services = chain, []Service{}
	a.Machine = since(a.Machine, a.Since)
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		if a.Service == "" || a.Service == name {
			svc := c.services[name].account(name, a.Since)
			svc.Line = c.line.History(name).since(a.Since)
			a.Services = append(a.Services, svc)
		}
	}
	return a
}

// account returns the service's, without what was over before.
func (s *service) account(name string, begin time.Time) Service {
	over := func(at time.Time) bool { return !at.IsZero() && at.Before(begin) }
	out := Service{Name: name, Other: since(s.other, begin)}
	for _, x := range s.images {
		x.Servers = 0
		for _, srv := range s.servers {
			if srv.Image == x.Digest && !srv.ServedAt.IsZero() && (x.To.IsZero() || srv.ServedAt.Before(x.To)) && (srv.LeftAt.IsZero() || !srv.LeftAt.Before(x.From)) {
				x.Servers++
			}
		}
	}
	out.Images = kept(s.images, func(x *Image) bool { return !over(x.To) })
	out.Deployments = kept(s.deployments, func(x *Deployment) bool { return !over(x.EndedAt) })
	out.Servers = kept(s.servers, func(x *Server) bool { return !over(x.EndedAt) })
	out.Sessions = kept(s.sessions, func(x *Session) bool { return x.Ended == nil || !over(x.Ended.At) })
	out.Drifts = kept(s.drifts, func(x *Drift) bool { return !over(x.At) })
	out.Experiments = kept(s.chaos, func(x *Experiment) bool { return !over(x.EndedAt) })
	out.Recycled = kept(s.recycled, func(x *Recycled) bool { return !over(x.At) })
	return out
}

func kept[T any](all []*T, keep func(*T) bool) []T {
	out := []T{}
	for _, x := range all {
		if keep(x) {
			out = append(out, *x)
		}
	}
	return out
}

func since(entries []Entry, begin time.Time) []Entry {
	out := []Entry{}
	for _, e := range entries {
		if !e.At.Before(begin) {
			out = append(out, e)
		}
	}
	return out
}
