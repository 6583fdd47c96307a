package router

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"kiln/internal/model"
)

// routing is a model.Table made ready for look-ups. It is immutable but for
// the round-robin counters: a switch replaces it whole.
type routing struct {
	table     model.Table
	listeners map[string]*hosts // by normalized address
	servers   map[model.ServerID]*server
	services  map[string]*service
}

// service is a service as one routing knows it.
type service struct {
	name       string
	release    int
	protocol   model.Protocol
	backends   []backend
	turn       turn
	split      *split    // nil: none
	introduces int       // the version of the PROXY header that its servers are sent; 0: none
	redirect   *redirect // instead of backends: a route that sends clients elsewhere
}

// backend is a server together with the release it serves for, which may
// change while the server stays.
type backend struct {
	server  *server
	release int
	tally   *tally
}

// newer reports whether t supersedes what r holds.
func (r *routing) newer(t *model.Table) bool {
	if t.Epoch != r.table.Epoch {
		return t.Epoch > r.table.Epoch
	}
	return t.Generation > r.table.Generation
}

// normalizeListen returns the one spelling of a listen address.
func normalizeListen(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", model.Errorf(model.Invalid, "cannot use listen address %q: %v", listen, err).
			WithHint(`write it as ":80" or "127.0.0.1:8080"`)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", model.Errorf(model.Invalid, "cannot use listen address %q: the port is not a number below 65536", listen)
	}
	if host != "" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return "", model.Errorf(model.Invalid, "cannot use listen address %q: %q is not an IP address", listen, host)
		}
		host = ip.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// checkTable refuses a table that cannot be meant: what it lets through is
// routed without further questions.
func checkTable(t *model.Table) error {
	names := map[string]bool{}
	serving := map[model.ServerID]string{}
	for i := range t.Services {
		s := &t.Services[i]
		if names[s.Name] || s.Name == "" {
			return model.Errorf(model.Invalid, "cannot use table: service %q is unnamed or there twice", s.Name)
		}
		names[s.Name] = true
		if err := checkSplit(s.Name, s.Split); err != nil {
			return err
		}
		switch s.Protocol {
		case model.HTTP, model.H2C, model.TCP, "":
		default:
			return model.Errorf(model.Invalid, "cannot use table: service %q has protocol %q", s.Name, s.Protocol).
				WithHint("the protocols are http, h2c and tcp")
		}
		for _, u := range s.Backends {
			if other, ok := serving[u.Server]; ok || u.Server == "" {
				return model.Errorf(model.Invalid, "cannot use table: server %q of %q is unnamed or serves %q already", u.Server, s.Name, other)
			}
			serving[u.Server] = s.Name
			if _, err := netip.ParseAddrPort(u.Address); err != nil {
				return model.Errorf(model.Invalid, "cannot use table: server %s: %v", u.Server, err)
			}
		}
	}
	for _, d := range t.Draining {
		if name, ok := serving[d.Server]; ok {
			return model.Errorf(model.Invalid, "cannot use table: server %s is draining and serves %q as well", d.Server, name)
		}
	}
	if err := checkRoutes(t); err != nil {
		return err
	}
	if err := checkIntroductions(t); err != nil {
		return err
	}
	return checkSecurity(t)
}

// checkRoutes refuses routes that two services claim, and listeners that would
// have to speak both HTTP and plain bytes.
func checkRoutes(t *model.Table) error {
	type claim struct{ listen, host, path string }
	claimed := map[claim]string{}
	bytesOf := map[string]string{} // listener → tcp service
	httpOf := map[string]string{}
	for i := range t.Services {
		s := &t.Services[i]
		for _, route := range s.Routes {
			listen, err := normalizeListen(route.Listen)
			if err != nil {
				return err
			}
			if err := checkHost(route.Host); err != nil {
				return err
			}
			c := claim{listen, normalizeHost(route.Host), normalizePrefix(route.Path)}
			if other, ok := claimed[c]; ok && other != s.Name {
				return model.Errorf(model.Conflict, "cannot use table: services %q and %q both claim %s host %q path %q", other, s.Name, route.Listen, route.Host, route.Path)
			}
			claimed[c] = s.Name
			mine, theirs := httpOf, bytesOf
			if s.Protocol == model.TCP {
				mine, theirs = bytesOf, httpOf
				if other, ok := mine[listen]; ok && other != s.Name && !route.TLS.Enabled() {
					return model.Errorf(model.Conflict, "cannot use table: tcp services %q and %q share listener %s", other, s.Name, route.Listen).
						WithHint("by TLS they may, told apart by their hosts")
				}
			}
			if other, ok := theirs[listen]; ok {
				return model.Errorf(model.Conflict, "cannot use table: listener %s cannot carry both %q and %q: one of them is tcp", route.Listen, s.Name, other).
					WithHint("give the tcp service a listener of its own")
			}
			mine[listen] = s.Name
		}
	}
	return nil
}

func checkHost(host string) error {
	name, wild := strings.CutPrefix(host, "*.")
	if strings.ContainsAny(name, "*/ \t") || (wild && name == "") {
		return model.Errorf(model.Invalid, "cannot use host %q", host).
			WithHint(`a host is a name, "*." and a name (one label in front), or empty for any`)
	}
	return nil
}

// listenAddresses returns what the table needs bound, sorted, each once.
func listenAddresses(t *model.Table) []string {
	var out []string
	for i := range t.Services {
		for _, route := range t.Services[i].Routes {
			if listen, err := normalizeListen(route.Listen); err == nil {
				out = append(out, listen)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// compile makes t ready for look-ups. serverFor returns the accounting record
// of a server: the one of the table before where there is one, because what is
// in flight is counted there.
func compile(t model.Table, serverFor func(model.Upstream, model.Protocol) *server, tallyFor func(tallyKey) *tally) *routing {
	r := &routing{table: t, listeners: map[string]*hosts{}, servers: map[model.ServerID]*server{}, services: map[string]*service{}}
	ports := securePorts(&t)
	for i := range t.Services {
		s := &t.Services[i]
		svc := &service{name: s.Name, release: s.Release, protocol: s.Protocol, split: newSplit(s.Split), introduces: s.ProxyProtocol}
		r.services[s.Name] = svc
		for _, u := range s.Backends {
			srv := serverFor(u, s.Protocol)
			r.servers[u.Server] = srv
			svc.backends = append(svc.backends, backend{
				server:  srv,
				release: u.Release,
				tally:   tallyFor(tallyKey{s.Name, u.Release, u.Server}),
			})
		}
		for _, route := range s.Routes {
			listen, err := normalizeListen(route.Listen)
			if err != nil { // checkTable has refused it
				continue
			}
			h := r.listeners[listen]
			if h == nil {
				h = newHosts()
				r.listeners[listen] = h
			}
			to := svc
			if d := newRedirect(&route, securePort(ports, route.Host)); d != nil {
				to = &service{name: s.Name, release: s.Release, protocol: s.Protocol, redirect: d}
			}
			h.add(route.Host, route.Path, to)
			h.introduced = route.ProxyProtocol
			if route.TLS.Enabled() {
				h.secure(route.Host, sourceOf(&route))
			}
		}
	}
	return r
}
