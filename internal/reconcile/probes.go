package reconcile

import (
	"cmp"
	"strings"

	"kiln/internal/model"
)

// ProbeTarget is a server whose health is to be watched.
type ProbeTarget struct {
	Service string
	Server  model.ServerID
	Address string // IP:port to ask; "" for a health check that runs inside the server
	Health  model.Health
	Since   model.Instant // when its process was first seen running: the grace counts from here

	Port     int            // the template's
	Protocol model.Protocol // of that port
	Proven   bool           // it has passed its checks: failing makes it unhealthy, not unknown
}

// ProbeTargets returns the servers that are probed: all that may be in service
// now or soon. A server without a health check is not among them: Step judges
// it by its process.
func ProbeTargets(s *model.State) []ProbeTarget {
	var targets []ProbeTarget
	for _, name := range sortedNames(s) {
		svc := s.Services[name]
		for _, srv := range serversOf(svc) {
			switch srv.Phase {
			case model.PhaseRunning, model.PhaseReady, model.PhaseServing, model.PhaseWarm:
			default:
				continue
			}
			release := svc.Release(srv.Release)
			health := release.Policy.Health
			if health.Kind == model.CheckNone || health.Kind == "" {
				continue
			}
			address := ""
			if port := cmp.Or(health.Port, release.Template.Port); port != 0 && health.Kind != model.CheckExec {
				address = withPort(hostOf(srv.Address, release.Template.Port), port)
			}
			targets = append(targets, ProbeTarget{
				Service: name, Server: srv.ID, Address: address, Health: health, Since: srv.RanSince,
				Port: release.Template.Port, Protocol: release.Template.Protocol, Proven: srv.Phase != model.PhaseRunning,
			})
		}
	}
	return targets
}

// hostOf undoes withPort.
func hostOf(address string, port int) string {
	if port == 0 {
		return address
	}
	host := address[:max(0, strings.LastIndexByte(address, ':'))]
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
