package reconcile

import "kiln/internal/model"

// routers is what the live routers say together.
type routers struct {
	live   int
	silent int
	least  uint64 // the generation of this epoch that every answering one uses, or a newer one
	most   uint64 // the newest generation of this epoch that one of them uses
	flight map[model.ServerID]model.RouterServer
}

func hear(s *model.State, obs Observation) routers {
	r := routers{live: len(obs.Routers), silent: obs.RoutersSilent}
	for i, status := range obs.Routers {
		// A table of an older epoch is not known to be ours, whatever its
		// generation: the journal may have been restored since.
		generation := status.Generation
		if status.Epoch < s.Epoch {
			generation = 0
		}
		if i == 0 || generation < r.least {
			r.least = generation
		}
		r.most = max(r.most, generation)
		for _, srv := range status.Servers {
			if r.flight == nil {
				r.flight = map[model.ServerID]model.RouterServer{}
			}
			sum := r.flight[srv.Server]
			sum.InFlight.Requests += srv.InFlight.Requests
			sum.InFlight.Streams += srv.InFlight.Streams
			sum.InFlight.WebSockets += srv.InFlight.WebSockets
			sum.Finished += srv.Finished
			sum.Cut += srv.Cut
			r.flight[srv.Server] = sum
		}
	}
	return r
}

// acknowledged reports whether every live router uses the generation or a
// newer one. Without any router there is no acknowledgement: one that comes
// back has the table it had.
func (r routers) acknowledged(generation uint64) bool {
	return r.live > 0 && r.silent == 0 && r.least >= generation
}

// tableInUse reports whether every live router sends requests where the state
// now says. A set may change while its table awaits the acknowledgement;
// what is acknowledged then names servers that are not of the set any more.
func (st *step) tableInUse() bool {
	return sameRotation(tableHash(Table(st.s)), st.s.Table.Hash) && st.routers.acknowledged(st.s.Table.Generation)
}

// acknowledge notes which generation every live router has come to use.
func (st *step) acknowledge() {
	r := st.routers
	if r.live > 0 && r.silent == 0 && r.least > st.s.Table.Acknowledged {
		st.emit(model.TableAcknowledged{Generation: min(r.least, st.s.Table.Generation)})
	}
}

// publish decides on a new table where its content has changed, or where a
// server awaits the acknowledgement of the next one, and notes the generation
// that carries a deployment's switch.
func (st *step) publish() {
	table := Table(st.s)
	generation := st.s.Table.Generation
	if hash := tableHash(table); hash != st.s.Table.Hash || st.awaited() > generation {
		generation++
		st.emit(model.TablePublished{Generation: generation, Hash: hash})
	}
	for _, name := range sortedNames(st.s) {
		d := st.s.Services[name].Deployment
		if d != nil && d.Phase == model.DeploySwitching && d.Generation == 0 {
			st.emit(model.DeploymentAdvanced{
				ID: d.ID, Service: name, Phase: d.Phase, Until: d.Until, Generation: generation, Stage: d.Stage,
				WaitingFor: "every router to acknowledge the table that names the new servers",
			})
		}
	}
}

// awaited returns the newest generation whose acknowledgement a server awaits.
func (st *step) awaited() uint64 {
	newest := uint64(0)
	for _, svc := range st.s.Services {
		for _, srv := range svc.Servers {
			newest = max(newest, srv.DrainGen)
		}
	}
	return newest
}

// giveTable gives the published table to the routers that lack it.
func (st *step) giveTable() {
	generation := st.s.Table.Generation
	if generation == 0 || st.routers.acknowledged(generation) || st.routers.live+st.routers.silent == 0 || st.withheld() {
		return
	}
	table := Table(st.s)
	table.Epoch, table.Generation = st.s.Epoch, generation
	st.give(Action{Key: publishKey(st.s.Epoch, generation), Verb: Publish, Table: &table})
}
