package builder

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

const (
	defaultNetwork = "198.18.0.0/16"
	insideLink     = "eth0"
	forwarding     = "/proc/sys/net/ipv4/ip_forward"
)

// gateway is the next hop inside: it is nobody's address, only a name for the
// other end of the link.
func gateway() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 1}) }

// connect makes the link between the host, where it is called, and the
// namespace, and claims an address for it.
func (n *netns) connect(id model.InstanceID, within string) error {
	if within == "" {
		within = defaultNetwork
	}
	prefix, err := netip.ParsePrefix(within)
	if err != nil {
		return err
	}
	inside, err := os.Open(n.path)
	if err != nil {
		return err
	}
	defer inside.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.link
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: insideLink, PeerNamespace: netlink.NsFd(int(inside.Fd()))})
	if err != nil {
		return fmt.Errorf("link %s: %w", n.link, err)
	}
	outer, err := netlink.LinkByName(n.link)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(outer); err != nil {
		return err
	}
	if err := n.claim(outer, id, prefix); err != nil {
		return err
	}
	inner, err := n.configureInside(inside, outer.Attrs().HardwareAddr)
	if err != nil {
		return err
	}
	// Neighbours are fixed: nothing on the link has to be asked for, and the
	// host's end needs no address.
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: outer.Attrs().Index, State: netlink.NUD_PERMANENT, IP: n.address.AsSlice(), HardwareAddr: inner})
	if err != nil {
		return err
	}
	return n.checkForwarding()
}

// claim takes an address that no other builder, server or kiln has: an
// exclusive route is the claim.
func (n *netns) claim(outer netlink.Link, id model.InstanceID, prefix netip.Prefix) error {
	const attempts = 64
	for i := range byte(attempts) {
		sum := sha256.Sum256(append([]byte("builder of "+id), i))
		address := within(prefix, binary.BigEndian.Uint32(sum[:4]))
		err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: outer.Attrs().Index,
			Scope:     netlink.SCOPE_LINK,
			Dst:       &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)},
		})
		if err == nil {
			n.address = address
			return nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route to %s: %w", address, err)
		}
	}
	return fmt.Errorf("no free address in %s after %d attempts", prefix, attempts)
}

// within returns the n-th address of a prefix, never its first or last.
func within(p netip.Prefix, n uint32) netip.Addr {
	b := p.Masked().Addr().As4()
	size := uint32(1) << (32 - p.Bits())
	if size > 2 {
		n = 1 + n%(size-2)
	} else {
		n %= size
	}
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}

// configureInside gives the namespace's end its address and its way out, and
// returns its hardware address.
func (n *netns) configureInside(inside *os.File, next net.HardwareAddr) (net.HardwareAddr, error) {
	var hardware net.HardwareAddr
	err := inNamespace(int(inside.Fd()), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		names := &net.IPNet{IP: nameserver().AsSlice(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: names}); err != nil {
			return err
		}
		link, err := netlink.LinkByName(insideLink)
		if err != nil {
			return err
		}
		hardware = link.Attrs().HardwareAddr
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		index := link.Attrs().Index
		own := &net.IPNet{IP: n.address.AsSlice(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: own}); err != nil {
			return err
		}
		hop := net.IP(gateway().AsSlice())
		err = netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: hop, HardwareAddr: next})
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: hop, Flags: int(netlink.FLAG_ONLINK)})
	})
	return hardware, err
}

// checkForwarding says what will be seen of a machine that does not forward.
// The daemon sets that when it starts, and journals it; whoever has set it back
// since is not overruled.
func (n *netns) checkForwarding() error {
	v, err := os.ReadFile(forwarding)
	if err != nil || strings.TrimSpace(string(v)) != "0" {
		return err
	}
	n.log.Warn("net.ipv4.ip_forward is 0: builds do not reach the outside until it is 1, as it was when the daemon started")
	return nil
}

// disconnect removes the link; its other end, routes and neighbours go with it.
func (n *netns) disconnect() error {
	link, err := netlink.LinkByName(n.link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
