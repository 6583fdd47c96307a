package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// network makes and removes the links of servers. Each server has a network
// namespace of its own and a pair of virtual interfaces, one end of which stays
// on the machine: there is no bridge, so whatever a server sends is routed, and
// passes the filter.
type network struct {
	config     Config
	gateway    netip.Addr // the machine's address on every link
	setForward bool       // net.ipv4.ip_forward was 0 and is 1 now
	names      *names

	mu   sync.Mutex
	last netip.Addr // the address that was given out last
}

// ErrNoAddress says that every address is taken.
var errNoAddress = errors.New("every address is taken")

const forwardSwitch = "/proc/sys/net/ipv4/ip_forward"

func openNetwork(c Config, records []*record) (*network, error) {
	n := &network{config: c, gateway: c.ServerNet.Addr().Next()}
	n.last = n.gateway
	if b, err := os.ReadFile(n.lastFile()); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil && c.ServerNet.Contains(a) {
			n.last = a
		}
	}
	b, err := os.ReadFile(forwardSwitch)
	if err != nil {
		return nil, fmt.Errorf("cannot read whether the machine forwards: %w", err)
	}
	if strings.TrimSpace(string(b)) == "0" {
		if err := os.WriteFile(forwardSwitch, []byte("1"), 0); err != nil {
			return nil, fmt.Errorf("cannot have the machine forward what servers send: %w", err)
		}
		n.setForward = true
	}
	if err := installFirewall(c, c.membersOf(records)); err != nil {
		return nil, err
	}
	n.names, err = openNames(c, records)
	return n, err
}

// IPForwardWasSet reports whether the engine has changed net.ipv4.ip_forward
// from 0 to 1 when it was opened: the one setting of the machine that kiln
// changes, so it is announced.
func (e *Engine) IPForwardWasSet() bool { return e.network.setForward }

func (n *network) lastFile() string { return filepath.Join(n.config.serversDir(), "last-address") }

// attach gives the server a network namespace and a link with an address that
// nobody else on the machine has claimed. With ids the namespace belongs to a
// user namespace of these. A trial's link leads to the machine and no further.
func (n *network) attach(id model.ServerID, ids uint32, trial bool) (netip.Addr, error) {
	path := n.config.netns(id)
	var err error
	if ids == 0 {
		err = makeNamespace(path)
	} else {
		err = makeNamespaces(n.config.userns(id), path, ids)
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot make a network namespace for %s: %w", id, err)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot open the network namespace of %s: %w", id, err)
	}
	defer func() { _ = ns.Close() }()
	link, err := n.makeLink(id, ns)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot make a link for %s: %w", id, err)
	}
	if trial {
		if err := cutOff(n.config.link(id)); err != nil {
			return netip.Addr{}, err
		}
	}
	address, err := n.claim(link)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot give %s an address: %w", id, err)
	}
	if err := n.configure(ns, address, trial); err != nil {
		return netip.Addr{}, fmt.Errorf("cannot set up the link of %s: %w", id, err)
	}
	return address, nil
}

// makeNamespace makes a network namespace that stays as long as path is mounted.
func makeNamespace(path string) error {
	if err := makeMountPoint(path); err != nil {
		return err
	}
	failed := make(chan error)
	go func() {
		// Never unlocked: the thread belongs to the new namespace, and ends with
		// this function.
		runtime.LockOSThread()
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "none", unix.MS_BIND, "")
		}()
	}()
	if err := <-failed; err != nil {
		_ = os.Remove(path)
		return err
	}
	return nil
}

func (n *network) makeLink(id model.ServerID, ns netns.NsHandle) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.config.link(id)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return nil, err
	}
	// The machine's end speaks IPv4 only: an IPv6 address of its own would be
	// one more way to the machine.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+attrs.Name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: hostNet(n.gateway)}); err != nil {
		return nil, err
	}
	return link, netlink.LinkSetUp(link)
}

// claim takes the next free address: an exclusive route to it is a claim that
// every kiln of the machine respects. Addresses are given out in turn, so that
// one that was just given back is not used again soon.
func (n *network) claim(link netlink.Link) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	candidate := n.last
	for range 1 << (32 - n.config.ServerNet.Bits()) {
		candidate = n.after(candidate)
		err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       hostNet(candidate),
			Src:       n.gateway.AsSlice(),
			Scope:     netlink.SCOPE_LINK,
		})
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return netip.Addr{}, err
		}
		n.last = candidate
		// Only to go on from there after a restart: a loss does no harm.
		_ = writeFile(n.lastFile(), []byte(candidate.String()), false)
		return candidate, nil
	}
	return netip.Addr{}, errNoAddress
}

// after returns the address that is tried after a: not the network's own, the
// machine's or the last, which may be a broadcast address.
func (n *network) after(a netip.Addr) netip.Addr {
	a = a.Next()
	if !n.config.ServerNet.Contains(a) || !n.config.ServerNet.Contains(a.Next()) {
		a = n.gateway.Next()
	}
	return a
}

// free is how many servers the network still has addresses for: those that
// neither this kiln nor another one of the machine has claimed.
func (n *network) free() (int, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_TABLE)
	if err != nil {
		return 0, fmt.Errorf("cannot list the addresses that are taken: %w", err)
	}
	const all, notServers = 32, 3 // the network's own, the machine's and the last
	free := 1<<(all-n.config.ServerNet.Bits()) - notServers
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && ones == all && n.config.ServerNet.Contains(a) {
			free--
		}
	}
	return max(0, free), nil
}

// configure sets up the server's end.
func (n *network) configure(ns netns.NsHandle, address netip.Addr, trial bool) error {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return err
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := h.AddrAdd(eth, &netlink.Addr{IPNet: hostNet(address)}); err != nil {
		return err
	}
	if err := h.LinkSetUp(eth); err != nil {
		return err
	}
	index := eth.Attrs().Index
	err = h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: hostNet(n.gateway), Scope: netlink.SCOPE_LINK, Src: address.AsSlice()})
	if err != nil || trial {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: n.gateway.AsSlice(), Src: address.AsSlice()})
}

// detach removes the server's link and namespaces; absent is done.
func (n *network) detach(id model.ServerID) error {
	err := removeLink(n.config.link(id))
	return errors.Join(err, removeMountPoint(n.config.netns(id)), removeMountPoint(n.config.userns(id)))
}

// removeLink removes the machine's end, and the other with it. The kernel would
// do so by itself, but some time after the namespace is gone.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot remove link %s: %w", name, err)
	}
	return nil
}

// links returns the names of the links that bear the instance's mark.
func (n *network) links() ([]string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("cannot list the machine's links: %w", err)
	}
	var names []string
	for _, i := range interfaces {
		if six, ok := strings.CutPrefix(i.Name, n.config.linkPrefix()); ok && model.ValidInstanceID(six) {
			names = append(names, i.Name)
		}
	}
	return names, nil
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}
