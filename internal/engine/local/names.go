package local

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// names makes the addresses of services' names the machine's own, and says which
// server may reach which. An address is there as long as a server connects to
// the service; the router listens on it.
//
// The addresses are local routes over a link of the instance. Such a route is
// exclusive: of two kilns with the same address for a name, the second is
// refused.
type names struct {
	config Config

	mu      sync.Mutex
	have    map[netip.Addr]bool // local routes
	members map[member]bool     // elements of the filter's set
	ruled   bool                // the filter has the rule for them
	wall    map[string][]string // the whole filter, as the kernel had it when kiln last changed it
}

// member says that what comes by the link may reach the address.
type member struct {
	link    string
	address netip.Addr
}

// namesLink and namesPeer are the two ends of the link that the addresses belong
// to. No server's link has such a name.
func (c Config) namesLink() string { return c.linkPrefix() + "-names" }
func (c Config) namesPeer() string { return c.linkPrefix() + "-peer" }

// nameAddress is where the router of the instance stands for the service.
func (c Config) nameAddress(service string) netip.Addr {
	return model.ServiceAddress(c.ServiceNet, c.Instance, service)
}

// membersOf lists what the servers may reach.
func (c Config) membersOf(records []*record) map[member]bool {
	all := map[member]bool{}
	for _, r := range records {
		for _, service := range r.Template.Connects {
			all[member{c.link(r.ID), c.nameAddress(service)}] = true
		}
	}
	return all
}

// openNames finds the addresses that the instance has.
func openNames(c Config, records []*record) (*names, error) {
	n := &names{config: c, have: map[netip.Addr]bool{}, members: c.membersOf(records), ruled: len(c.membersOf(records)) > 0}
	link, err := netlink.LinkByName(c.namesLink())
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !absent {
		return nil, fmt.Errorf("cannot look for link %s: %w", c.namesLink(), err)
	}
	if n.wall, err = readFirewall(c); err != nil {
		return nil, err
	}
	if link == nil {
		return n, nil
	}
	return n, n.findLocked(link)
}

// findLocked notes which addresses the link has.
func (n *names) findLocked(link netlink.Link) error {
	routes, err := localRoutes(link)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok {
			n.have[a] = true
		}
	}
	return nil
}

func localRoutes(link netlink.Link) ([]netlink.Route, error) {
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of link %s: %w", link.Attrs().Name, err)
	}
	return routes, nil
}

// update makes the addresses and the filter's set what the servers need: more
// first, less afterwards. The servers are asked for in turn, so that the last to
// update sees all. An address that cannot be had is an error to those who ask
// for the service; mine are the services asked for, nil: all.
func (n *names) update(servers func() []*record, mine []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	records := servers()
	wanted := n.config.membersOf(records)
	addresses := map[netip.Addr]string{}
	for _, r := range records {
		for _, service := range r.Template.Connects {
			addresses[n.config.nameAddress(service)] = service
		}
	}
	var errs []error
	for address, service := range addresses {
		if n.have[address] {
			continue
		}
		if err := n.addLocked(address, service); err != nil && (mine == nil || slices.Contains(mine, service)) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return errs[0] // with its class and hint
	}
	if err := errors.Join(append(errs, n.admitLocked(wanted))...); err != nil {
		return err
	}
	return n.removeLocked(addresses)
}

// addLocked makes the address the machine's.
func (n *names) addLocked(address netip.Addr, service string) error {
	link, err := n.linkLocked()
	if err != nil {
		return err
	}
	err = netlink.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: hostNet(address), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	})
	if errors.Is(err, unix.EEXIST) {
		return model.Errorf(model.Conflict, "the address %s of %s.kiln is taken on this machine%s", address, service, n.takenBy(address)).
			WithHint("another network of names for this kiln: kiln daemon --service-net")
	}
	if err != nil {
		return fmt.Errorf("cannot give the machine the address %s of %s.kiln: %w", address, service, err)
	}
	n.have[address] = true
	return nil
}

// takenBy says which link has the address, as far as that can be found out.
func (n *names) takenBy(address netip.Addr) string {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: hostNet(address)}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return ", by link " + link.Attrs().Name
}

// linkLocked returns the link of the addresses; it is made with the first.
func (n *names) linkLocked() (netlink.Link, error) {
	name := n.config.namesLink()
	link, err := netlink.LinkByName(name)
	if err == nil {
		return link, nil
	}
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); !absent {
		return nil, fmt.Errorf("cannot look for link %s: %w", name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: n.config.namesPeer()}); err != nil {
		return nil, fmt.Errorf("cannot make link %s: %w", name, err)
	}
	for _, end := range []string{name, n.config.namesPeer()} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+end+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if link, err = netlink.LinkByName(name); err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot set up link %s: %w", name, err)
	}
	return link, nil
}

// admitLocked makes the filter's set the wanted one.
func (n *names) admitLocked(wanted map[member]bool) error {
	var more, less []nftables.SetElement
	for m := range wanted {
		if !n.members[m] {
			more = append(more, m.element())
		}
	}
	for m := range n.members {
		if !wanted[m] {
			less = append(less, m.element())
		}
	}
	if len(more)+len(less) == 0 {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: n.config.table()}
	set := membersSet(table)
	f := firewall{conn: conn, table: table, links: n.config.linkPrefix()}
	if !n.ruled {
		f.add(&nftables.Chain{Name: namesChain, Table: table}, f.reachesName(set))
	}
	if err := errors.Join(conn.SetAddElements(set, more), conn.SetDeleteElements(set, less)); err != nil {
		return fmt.Errorf("cannot say who may reach a service's name: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot let a server reach a service's name (nftables, with its socket expression): %w", err)
	}
	n.members, n.ruled = wanted, true
	now, err := readFirewall(n.config)
	if err != nil {
		return err
	}
	// Only this chain has changed: what else is there now and was not before
	// somebody else did.
	n.wall[namesChain] = now[namesChain]
	return nil
}

// removeLocked takes away the addresses that nobody needs, and with the last
// the link.
func (n *names) removeLocked(needed map[netip.Addr]string) error {
	if len(needed) == 0 {
		n.have = map[netip.Addr]bool{}
		return removeLink(n.config.namesLink())
	}
	var errs []error
	for address := range n.have {
		if _, needs := needed[address]; needs {
			continue
		}
		link, err := n.linkLocked()
		if err != nil {
			return err
		}
		err = netlink.RouteDel(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: hostNet(address), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot remove the address %s: %w", address, err))
			continue
		}
		delete(n.have, address)
	}
	return errors.Join(errs...)
}

// What the filter knows of names.
const (
	namesChain = "names"
	namesSet   = "connects"
)

var membersType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)

func membersSet(table *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: table, Name: namesSet, KeyType: membersType, Concatenation: true}
}

func (m member) element() nftables.SetElement {
	key := make([]byte, unix.IFNAMSIZ, unix.IFNAMSIZ+4)
	copy(key, m.link)
	return nftables.SetElement{Key: append(key, m.address.AsSlice()...)}
}

// reachesName lets a connection begin that a server may have with a service's
// name, where somebody listens on that very address: the router. What listens on
// all of the machine's addresses stays out of reach.
func (f firewall) reachesName(set *nftables.Set) []expr.Any {
	return slices.Concat(
		family(unix.NFPROTO_IPV4),
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			&expr.Socket{Key: expr.SocketKeyWildcard, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
			&expr.Verdict{Kind: expr.VerdictAccept},
		})
}
