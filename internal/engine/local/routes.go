package local

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// route is one of a server's network namespace, in the words of ip route.
type route struct{ to, text string }

// routes compares the routes of the server's network namespace with those that
// configure has made there, in whichever table they are. What the kernel makes
// for addresses is left out: the addresses are compared themselves.
func (c *configuration) routes(inside *netlink.Handle, links []netlink.Link, addresses []netlink.Addr) error {
	const how = "the routes of its network namespace"
	var now []route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// Without a table in the filter it would be those of the main one.
		all, err := inside.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range all {
			late := r.Table == lateTable && c.e.disturbances.of(c.r.ID)
			if !late && !ofAddress(r, addresses) {
				now = append(now, routeOf(r, links))
			}
		}
	}
	come := now
	for _, was := range c.wantedRoutes() {
		if i := slices.Index(come, was); i >= 0 {
			come = slices.Delete(come, i, i+1)
			continue
		}
		i := slices.IndexFunc(come, func(r route) bool { return r.to == was.to })
		if i < 0 {
			c.add("route removed", was.to, "wanted "+was.text, how)
			continue
		}
		c.add("route changed", was.to, fmt.Sprintf("wanted %s, seen %s", was.text, come[i].text), how)
		come = slices.Delete(come, i, i+1)
	}
	for _, is := range come {
		c.add("route added", is.to, "seen "+is.text, how)
	}
	return nil
}

// wantedRoutes are those that configure makes.
func (c *configuration) wantedRoutes() []route {
	gateway := c.e.network.gateway.String()
	return []route{
		{to: gateway + "/32", text: fmt.Sprintf("%s/32 dev eth0 scope link src %s", gateway, c.r.Address)},
		{to: "default", text: fmt.Sprintf("default via %s dev eth0 src %s", gateway, c.r.Address)},
	}
}

// ofAddress reports whether the route is one that the kernel makes for an
// address of the namespace, to itself and to its neighbours, or for the links
// of IPv6.
func ofAddress(r netlink.Route, addresses []netlink.Addr) bool {
	if r.Gw != nil || r.Dst == nil {
		return false
	}
	if r.Family == netlink.FAMILY_V6 && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.String() == "ff00::/8" || r.Type == unix.RTN_UNREACHABLE) {
		return true // of one that has just come, and of older kernels
	}
	if r.Protocol != unix.RTPROT_KERNEL {
		return false
	}
	if r.Dst.IP.IsLoopback() || r.Dst.IP.IsMulticast() || r.Type == unix.RTN_BROADCAST {
		return true
	}
	to, _ := r.Dst.Mask.Size()
	return slices.ContainsFunc(addresses, func(a netlink.Addr) bool {
		ones, _ := a.Mask.Size()
		return to >= ones && r.Dst.Contains(a.IP)
	})
}

// routeOf puts the route into words.
func routeOf(r netlink.Route, links []netlink.Link) route {
	to := "default"
	if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
		to = r.Dst.String()
	}
	var b strings.Builder
	word := func(name string, value any) { fmt.Fprintf(&b, " %s %v", name, value) }
	if r.Type != unix.RTN_UNICAST {
		word("type", r.Type)
	}
	address := func(name string, ip net.IP) {
		if ip != nil {
			word(name, ip)
		}
	}
	address("via", r.Gw)
	for _, hop := range r.MultiPath {
		word("nexthop", hop)
	}
	if r.Encap != nil {
		word("encap", r.Encap)
	}
	for _, l := range links {
		if l.Attrs().Index == r.LinkIndex {
			word("dev", l.Attrs().Name)
		}
	}
	if r.Table != unix.RT_TABLE_MAIN {
		word("table", r.Table)
	}
	if r.Scope == netlink.SCOPE_LINK {
		word("scope", "link")
	}
	address("src", r.Src)
	if r.Priority != 0 {
		word("metric", r.Priority)
	}
	if r.Tos != 0 {
		word("tos", r.Tos)
	}
	if r.MTU != 0 {
		word("mtu", r.MTU)
	}
	return route{to: to, text: to + b.String()}
}
