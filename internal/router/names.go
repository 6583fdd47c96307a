package router

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"kiln/internal/model"
)

// names are the addresses at which the services of the instance find each
// other: db.kiln is one of them, and everything that arrives at its port goes to
// the service db, without a look at host or path.
type names struct {
	instance model.InstanceID // "": there are no names
	network  netip.Prefix
}

func newNames(instance model.InstanceID, network netip.Prefix) names {
	if !network.IsValid() {
		network = netip.MustParsePrefix(model.DefaultServiceNet)
	}
	return names{instance, network}
}

// address returns where the service's name is listened on, or "".
func (n names) address(s *model.TableService) string {
	if n.instance == "" || s.Port <= 0 {
		return ""
	}
	ip := model.ServiceAddress(n.network, n.instance, s.Name)
	if !ip.IsValid() {
		return ""
	}
	return netip.AddrPortFrom(ip, uint16(s.Port)).String()
}

// addresses returns where names are listened on in t, sorted. An address that a
// route has is the route's.
func (n names) addresses(t *model.Table) []string {
	routes := listenAddresses(t)
	var out []string
	for i := range t.Services {
		if a := n.address(&t.Services[i]); a != "" && !slices.Contains(routes, a) {
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// all returns everything that t needs bound.
func (n names) all(t *model.Table) []string {
	return append(listenAddresses(t), n.addresses(t)...)
}

// addTo gives each name's listener in r to its service. Should two services
// share an address, the first has it; the daemon refuses the second.
func (n names) addTo(r *routing) {
	for i := range r.table.Services {
		s := &r.table.Services[i]
		if a := n.address(s); a != "" && r.listeners[a] == nil {
			h := newHosts()
			h.add("", "", r.services[s.Name])
			r.listeners[a] = h
		}
	}
}

// bindNames binds the names of t that are not bound yet. One that cannot be had
// keeps no table from being used: it is said, and tried again. unbound is what
// cannot be had of the routes, and is added to.
func (r *Router) bindNames(t *model.Table, unbound map[string]string) (fresh []*listener, missing bool) {
	routes := len(unbound)
	for _, address := range r.names.addresses(t) {
		if r.listeners[address] != nil {
			continue
		}
		nl, err := r.binder.ListenFree(address)
		if err != nil {
			unbound[address] = err.Error()
			continue
		}
		fresh = append(fresh, newListener(r, address, nl))
	}
	r.mu.Lock()
	before := r.unbound
	r.unbound, r.missing = unbound, routes
	r.mu.Unlock()
	for address, why := range unbound {
		if name := r.names.service(t, address); name != "" && before[address] != why {
			r.log.Warn("cannot listen on a service's name; trying again", "service", name, "error", why)
		}
	}
	return fresh, len(unbound) > routes
}

// service returns whose name the address is.
func (n names) service(t *model.Table, address string) string {
	for i := range t.Services {
		if n.address(&t.Services[i]) == address {
			return t.Services[i].Name
		}
	}
	return ""
}

// unboundLocked returns, in words, what cannot be listened on.
func (r *Router) unboundLocked() []string {
	var out []string
	for _, why := range r.unbound {
		out = append(out, why)
	}
	slices.Sort(out)
	return out
}

// bindLoop gets the listeners that were missing, until ctx ends.
func (r *Router) bindLoop(ctx context.Context) {
	const first, longest = 50 * time.Millisecond, time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.bindKick:
		}
		wait := first
		for missing := true; missing; wait = min(longest, 2*wait) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			missing = r.bindAgain()
		}
	}
}

func (r *Router) bindSoon() {
	select {
	case r.bindKick <- struct{}{}:
	default:
	}
}
