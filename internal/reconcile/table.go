package reconcile

import (
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
//   - A service's backends are the servers of the set in service; while its
//     deployment switches, or a switch awaits its acknowledgement with an
//     unknown verdict, those of the new set.
//   - Unhealthy servers are left out, unless fewer than half are healthy: then
//     all are kept in.
//   - A service with routes and without servers stays listed: it answers 503.
//   - Every other server that may have something in flight is listed as
//     draining. Its deadlines count from the acknowledgement of the first table
//     without it; before that it has none.
func Table(s *model.State) model.Table {
	t := model.Table{Epoch: s.Epoch, Generation: s.Table.Generation, Services: []model.TableService{}}
	for _, name := range sortedNames(s) {
		svc := s.Services[name]
		release, servers := inRotation(svc)
		listed := map[model.ServerID]bool{}
		if routed(release) {
			entry := model.TableService{
				Name: name, Release: release.Number, Protocol: release.Template.Protocol,
				Routes: release.Policy.Routes, Backends: []model.Upstream{},
			}
			for _, srv := range withoutUnhealthy(servers) {
				entry.Backends = append(entry.Backends, model.Upstream{Server: srv.ID, Release: release.Number, Address: srv.Address})
				listed[srv.ID] = true
			}
			t.Services = append(t.Services, entry)
		}
		t.Draining = append(t.Draining, drainingOf(s, svc, listed)...)
	}
	return t
}

// inRotation returns the release that the routers shall serve, and its servers.
func inRotation(svc *model.Service) (*model.Release, []*model.Server) {
	if svc.Destroying || svc.Destroyed {
		return nil, nil
	}
	if d := svc.Deployment; d != nil && d.Phase == model.DeploySwitching {
		return svc.Release(d.To), able(members(svc, svc.Release(d.To)))
	}
	if svc.Pending != nil {
		release := svc.Release(svc.Pending.Release)
		return release, able(members(svc, release))
	}
	var serving []*model.Server
	for _, srv := range serversOf(svc) {
		if srv.Phase == model.PhaseServing {
			serving = append(serving, srv)
		}
	}
	return svc.Release(svc.InService), serving
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
func drainingOf(s *model.State, svc *model.Service, listed map[model.ServerID]bool) []model.Draining {
	var list []model.Draining
	for _, srv := range serversOf(svc) {
		release := svc.Release(srv.Release)
		if listed[srv.ID] || srv.Address == "" || !mayHaveTraffic(svc, srv) {
			continue
		}
		entry := model.Draining{
			Server: srv.ID, Address: srv.Address,
			Requests: noDeadline, Streams: noDeadline, WebSockets: noDeadline,
		}
		if srv.Phase != model.PhaseServing && srv.DrainSince != 0 {
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
		return routed(svc.Release(srv.Release), svc.Release(svc.InService))
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
