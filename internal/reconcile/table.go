package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"kiln/internal/model"
)

// noDeadline is the drain deadline of a server that gets nothing new, but
// whose drain has not begun: some router may not have acknowledged that yet, or
// the server may take requests again.
const noDeadline = math.MaxInt64

func sortedNames(s *model.State) []string { return slices.Sorted(maps.Keys(s.Services)) }

func publishKey(epoch, generation uint64) Key {
	return Key("publish/" + strconv.FormatUint(epoch, 10) + "/" + strconv.FormatUint(generation, 10))
}

// Table derives the routing table from the state, without its epoch: that is
// the writer's. Its generation is that of the last published one; Step sees to
// it that a table with other content is published under a new one.
//
//   - A service with a route or a port is listed. Its backends are the servers
//     in service. While its deployment switches they are those of the stage: of
//     the new set, and before the last stage of the old one too. While a switch
//     awaits its acknowledgement with an unknown verdict they are the new set.
//   - Requests are shared by weight while a stage of a canary is in force.
//   - Unhealthy servers are left out, unless fewer than half are healthy: then
//     all are kept in.
//   - A service without servers stays listed: it answers 503.
//   - Every other server that may have something in flight is listed as
//     draining. Its deadlines count from the acknowledgement of the first table
//     without it; before that it has none.
func Table(s *model.State) model.Table {
	t := model.Table{Epoch: s.Epoch, Generation: s.Table.Generation, Services: []model.TableService{}}
	for _, name := range sortedNames(s) {
		svc := s.Services[name]
		shown := map[model.ServerID]bool{}
		if r := inRotation(svc); listed(r.release) {
			entry := r.entry(name)
			for _, b := range entry.Backends {
				shown[b.Server] = true
			}
			t.Services = append(t.Services, entry)
		}
		t.Draining = append(t.Draining, drainingOf(s, svc, shown)...)
	}
	return t
}

// rotation is what the routers shall do with a service: a release whose routes
// hold and its servers, and beside them those of another release.
type rotation struct {
	release *model.Release
	servers []*model.Server
	beside  []*model.Server // of another release
	other   int             // its number; 0: that for which each of them serves
	split   *model.Split
}

func (r rotation) entry(name string) model.TableService {
	template := r.release.Template
	entry := model.TableService{
		Name: name, Release: r.release.Number, Protocol: template.Protocol, Port: template.Port, ProxyProtocol: template.ProxyProtocol,
		Routes: r.release.Policy.Routes, Backends: []model.Upstream{},
	}
	if entry.Routes == nil {
		entry.Routes = []model.Route{}
	}
	servers, beside := r.servers, r.beside
	if r.split != nil && len(servers) > 0 && len(beside) > 0 {
		entry.Split = r.split
		servers, beside = withoutUnhealthy(servers), withoutUnhealthy(beside)
	} else {
		both := withoutUnhealthy(slices.Concat(servers, beside))
		out := func(srv *model.Server) bool { return !slices.Contains(both, srv) }
		servers, beside = slices.DeleteFunc(slices.Clone(servers), out), slices.DeleteFunc(slices.Clone(beside), out)
	}
	for _, srv := range servers {
		entry.Backends = append(entry.Backends, model.Upstream{Server: srv.ID, Release: r.release.Number, Address: srv.Address})
	}
	for _, srv := range beside {
		entry.Backends = append(entry.Backends, model.Upstream{Server: srv.ID, Release: cmp.Or(r.other, srv.Release), Address: srv.Address})
	}
	slices.SortFunc(entry.Backends, func(a, b model.Upstream) int { return cmp.Compare(a.Server, b.Server) })
	return entry
}

// inRotation returns what the routers shall do with the service.
func inRotation(svc *model.Service) rotation {
	if svc.Destroying || svc.Destroyed {
		return rotation{}
	}
	d := svc.Deployment
	switching := d != nil && d.Phase == model.DeploySwitching
	switch {
	case switching && d.LastStage():
		return rotation{release: svc.Release(d.To), servers: able(stageMembers(svc))}
	case switching:
		stage := d.Stages[d.Stage]
		return rotation{
			release: svc.Release(svc.InService), servers: oldInRotation(svc, stage.Old),
			beside: able(stageMembers(svc)), other: d.To, split: splitOf(svc, stage),
		}
	case svc.Pending != nil:
		release := svc.Release(svc.Pending.Release)
		return rotation{release: release, servers: able(members(svc, release))}
	}
	r := rotation{release: svc.Release(svc.InService)}
	for _, srv := range serversOf(svc) {
		switch {
		case srv.Phase != model.PhaseServing:
		case r.release != nil && srv.TemplateHash != r.release.TemplateHash:
			r.beside = append(r.beside, srv)
		default:
			r.servers = append(r.servers, srv)
		}
	}
	if d != nil && d.Held > 0 {
		r.other, r.split = d.To, splitOf(svc, d.Stages[d.Held-1])
	}
	return r
}

// splitOf returns how a stage shares the requests; nil: by number of servers.
func splitOf(svc *model.Service, stage model.Stage) *model.Split {
	if stage.Weight == 0 {
		return nil
	}
	to := svc.Release(svc.Deployment.To)
	canary := to.Policy.Deploy.Canary
	return &model.Split{Release: to.Number, Weight: stage.Weight, Cookie: canary.Cookie, Header: canary.Header}
}

// able returns the servers that have passed every check.
func able(servers []*model.Server) []*model.Server {
	return slices.DeleteFunc(servers, func(srv *model.Server) bool { return !proven(srv.Phase) })
}

func proven(p model.ServerPhase) bool {
	return p == model.PhaseReady || p == model.PhaseServing || p == model.PhaseWarm
}

// withoutUnhealthy leaves unhealthy servers out, unless fewer than half are
// healthy: a broken dependency must not empty the rotation.
func withoutUnhealthy(servers []*model.Server) []*model.Server {
	fit := slices.DeleteFunc(slices.Clone(servers), func(srv *model.Server) bool { return srv.Health == model.Unhealthy })
	if 2*len(fit) < len(servers) {
		return servers
	}
	return fit
}

// drainingOf lists the servers of the service that get nothing new while
// something may be in flight to them.
func drainingOf(s *model.State, svc *model.Service, shown map[model.ServerID]bool) []model.Draining {
	var list []model.Draining
	for _, srv := range serversOf(svc) {
		release := svc.Release(srv.Release)
		if shown[srv.ID] || srv.Address == "" || !mayHaveTraffic(svc, srv) {
			continue
		}
		entry := model.Draining{
			Server: srv.ID, Address: srv.Address,
			Requests: noDeadline, Streams: noDeadline, WebSockets: noDeadline,
		}
		if srv.Phase != model.PhaseServing && srv.DrainSince != 0 && !backInTable(svc, srv) {
			drain := release.Policy.Deploy.Drain
			entry.Requests = int64(srv.DrainSince.Add(drain.Requests.D()) - s.BootOffset)
			entry.Streams = int64(srv.DrainSince.Add(drain.Streams.D()) - s.BootOffset)
			entry.WebSockets = int64(srv.DrainSince.Add(drain.WebSockets.D()) - s.BootOffset)
		}
		list = append(list, entry)
	}
	return list
}

// mayHaveTraffic reports whether the server is, or was, in a routing table, and
// is not ended.
func mayHaveTraffic(svc *model.Service, srv *model.Server) bool {
	switch srv.Phase {
	case model.PhaseServing:
		return listed(svc.Release(srv.Release), svc.Release(svc.InService))
	case model.PhaseWarm, model.PhaseDraining:
		return srv.DrainGen != 0
	default:
		return false
	}
}

// tableHash identifies a table's content, whatever its epoch and generation.
// Its first half is that of the rotation alone: who gets requests.
func tableHash(t model.Table) string {
	return hashOf(t.Services) + hashOf(t.Draining)
}

// sameRotation reports whether two tables with these hashes send requests to
// the same servers. Drain deadlines alone do not make a difference.
func sameRotation(a, b string) bool {
	return len(a) == len(b) && a[:len(a)/2] == b[:len(b)/2]
}

func hashOf(part any) string {
	b, err := json.Marshal(part)
	if err != nil { // no field of a Table can fail to marshal
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
