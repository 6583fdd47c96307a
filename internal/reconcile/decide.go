package reconcile

import (
	"cmp"
	"slices"

	"kiln/internal/model"
)

// Step decides what follows from the state, an observation and the time. It
// returns either events, to be made durable and folded before it is asked
// again, or actions to carry out and the time at which to ask again. It
// changes neither s nor obs, and the same arguments give the same decision.
//
// Being asked again with the same outcomes is harmless: an outcome whose
// consequence stands in the state has no other. An action whose outcome was an
// error that says nothing (unavailable, internal) is wanted as before and given
// again; the shell spaces such repetitions.
func Step(s *model.State, obs Observation, now model.Now) Decision {
	st := &step{s: s, obs: obs, now: now, nextID: s.NextID, routers: hear(s, obs)}
	st.news()
	if len(st.events) == 0 {
		for _, name := range sortedNames(s) {
			st.service(s.Services[name])
		}
	}
	if len(st.events) == 0 && !st.withheld() {
		st.publish()
	}
	if len(st.events) > 0 {
		return Decision{Events: st.events}
	}
	st.act()
	return Decision{Actions: st.actions, Wake: st.wake}
}

// step is one decision in the making.
type step struct {
	s       *model.State
	obs     Observation
	now     model.Now
	nextID  uint64
	routers routers
	seen    map[model.ServerID]*model.Observed // the snapshot's servers
	events  []model.Payload
	actions []Action
	wake    model.Instant
}

// service is a step's view of one service.
type service struct {
	*step
	svc   *model.Service
	mark  int  // events of the services before it
	ended bool // its deployment has been ended in this turn
	lost  int  // ready servers of the release in service that ended in this turn
}

// spoke reports whether the service has written something down in this turn.
func (v *service) spoke() bool { return len(v.events) > v.mark }

// news notes what is told only once: how actions ended. It comes before all
// else and for every service, so that no outcome is passed over because
// something else was to be written down first.
func (st *step) news() {
	st.acknowledge()
	st.noteClock()
	st.noteFleet()
	st.noteOrphans()
	for _, name := range sortedNames(st.s) {
		v := &service{step: st, svc: st.s.Services[name], mark: len(st.events)}
		v.noteOutcomes()
	}
}

// service decides for one service. The rules stand in the order in which they
// matter: what happened comes before what shall happen. The first rule that
// has something to write down ends the turn, so that each rule decides on a
// state that holds all facts before it.
func (st *step) service(svc *model.Service) {
	v := &service{step: st, svc: svc, mark: len(st.events)}
	rules := []func(){
		v.noteLife, v.adopt, v.noteHealth, v.noteDrift, v.noteDrains, v.endServers, v.destroy, v.proveServers, v.dequeue, v.deploy,
		v.resolvePending, v.melt, v.outlive, v.keepUp, v.experiment, v.overdueServers, v.settle,
	}
	for _, rule := range rules {
		rule()
		if v.spoke() {
			return
		}
	}
}

func (st *step) emit(events ...model.Payload) { st.events = append(st.events, events...) }

// give adds an action unless it is under way.
func (st *step) give(a Action) {
	if !st.obs.UnderWay[a.Key] {
		a.Seq = st.s.Seq
		st.actions = append(st.actions, a)
	}
}

// due reports whether the instant has come; if not, it sees to it that the
// shell asks again then. Zero never comes.
func (st *step) due(at model.Instant) bool {
	if at == 0 {
		return false
	}
	if st.now.Elapsed >= at {
		return true
	}
	if st.wake == 0 || at < st.wake {
		st.wake = at
	}
	return false
}

// six takes the next identifier of the instance.
func (st *step) six() string {
	id := model.Sixes(st.s.Instance, st.nextID)
	st.nextID++
	return id
}

// servers returns the service's servers that are not destroyed, the oldest
// first.
func (v *service) servers() []*model.Server { return serversOf(v.svc) }

func serversOf(svc *model.Service) []*model.Server {
	list := make([]*model.Server, 0, len(svc.Servers))
	for _, srv := range svc.Servers {
		list = append(list, srv)
	}
	slices.SortFunc(list, byAge)
	return list
}

func byAge(a, b *model.Server) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
}

// observed returns what the engine saw of the server, and whether anything was
// seen at all: without a snapshot no server is presumed gone.
func (st *step) observed(id model.ServerID) (o *model.Observed, known bool) {
	if st.obs.Snapshot == nil {
		return nil, false
	}
	if st.seen == nil {
		st.seen = make(map[model.ServerID]*model.Observed, len(st.obs.Snapshot.Servers))
		for i := range st.obs.Snapshot.Servers {
			st.seen[st.obs.Snapshot.Servers[i].ID] = &st.obs.Snapshot.Servers[i]
		}
	}
	return st.seen[id], true
}

// release returns the release whose policy and template the server lives by.
func (v *service) release(srv *model.Server) *model.Release { return v.svc.Release(srv.Release) }

func (v *service) inService() *model.Release { return v.svc.Release(v.svc.InService) }

// target returns the release that the running deployment wants in service.
func (v *service) target() *model.Release {
	if v.svc.Deployment == nil {
		return nil
	}
	return v.svc.Release(v.svc.Deployment.To)
}

// pending returns the release of a switch whose verdict is unknown.
func (v *service) pending() *model.Release {
	if v.svc.Pending == nil {
		return nil
	}
	return v.svc.Release(v.svc.Pending.Release)
}

// listed reports whether one of the releases is in the routing table: it has a
// route, or a port that other services reach by name.
func listed(releases ...*model.Release) bool {
	for _, r := range releases {
		if r != nil && (len(r.Policy.Routes) > 0 || r.Template.Port != 0) {
			return true
		}
	}
	return false
}

// routed reports whether one of the releases has a route: only such a one has
// a warm set, and may always run beside its successor.
func routed(releases ...*model.Release) bool {
	for _, r := range releases {
		if r != nil && len(r.Policy.Routes) > 0 {
			return true
		}
	}
	return false
}
