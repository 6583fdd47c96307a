package local

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// comesByItself are the links that the kernel makes in every network namespace
// where it has tunnels. They are down.
var comesByItself = map[string]bool{
	"tunl0": true, "gre0": true, "gretap0": true, "erspan0": true, "ip_vti0": true,
	"sit0": true, "ip6tnl0": true, "ip6gre0": true, "ip6_vti0": true,
}

// addresses compares both ends of the server's link, and what else is in its
// network namespace.
func (c *configuration) addresses() error {
	const how = "the links of its network namespace"
	ns, err := netns.GetFromPath(c.e.netns(c.r.ID))
	if err != nil {
		c.add("namespace changed", "net", "the name of its network namespace is gone: "+err.Error(), how)
		return nil
	}
	defer func() { _ = ns.Close() }()
	var st unix.Stat_t
	const net = 2
	if unix.Fstat(int(ns), &st) == nil && fmt.Sprintf("net:[%d]", st.Ino) != c.base.Spaces[net] {
		c.add("namespace changed", "net", "the name of its network namespace stands for another", how)
	}
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	links, err := inside.LinkList()
	if err != nil {
		return err
	}
	addresses, err := inside.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	c.links(links, addresses, how)
	return errors.Join(c.routes(inside, links, addresses), c.hostEnd())
}

// links compares the links of the server's network namespace.
func (c *configuration) links(links []netlink.Link, addresses []netlink.Addr, how string) {
	for _, link := range links {
		have := slices.DeleteFunc(slices.Clone(addresses), func(a netlink.Addr) bool { return a.LinkIndex != link.Attrs().Index })
		switch name := link.Attrs().Name; {
		case name == "eth0":
			c.linkUp(link, how)
			c.addressesOf(link, have, c.r.Address+"/32", linkLocalOf(link, have), how)
		case name == "lo":
			c.linkUp(link, how)
			c.addressesOf(link, have, "127.0.0.1/8", "::1/128", how)
		case name == lateDevice && c.e.disturbances.of(c.r.ID):
		case comesByItself[name] && !isUp(link):
		default:
			c.add("link added", name, "of type "+link.Type(), how)
		}
	}
	if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == "eth0" }) {
		c.add("link removed", "eth0", "", how)
	}
}

func isUp(link netlink.Link) bool { return link.Attrs().Flags&net.FlagUp != 0 }

func (c *configuration) linkUp(link netlink.Link, how string) {
	if !isUp(link) {
		c.add("link down", link.Attrs().Name, "", how)
	}
}

// addressesOf compares the addresses of a link: it has to have the wanted one,
// and may have the other.
func (c *configuration) addressesOf(link netlink.Link, have []netlink.Addr, want, other, how string) {
	name, found := link.Attrs().Name, false
	for _, a := range have {
		switch seen := a.IPNet.String(); seen {
		case want:
			found = true
		case other:
		default:
			c.add("address added", seen, "on "+name+", wanted "+want+" only", how)
		}
	}
	if !found {
		c.add("address removed", want, "from "+name, how)
	}
}

// linkLocalOf returns the address that the kernel has given the link for IPv6
// by itself: the one that follows from its hardware address, or else, where the
// machine has the kernel make them up, the only one that can be it.
func linkLocalOf(link netlink.Link, have []netlink.Addr) string {
	var first string
	mac := link.Attrs().HardwareAddr
	for _, a := range have {
		if ones, _ := a.Mask.Size(); !a.IP.IsLinkLocalUnicast() || a.IP.To4() != nil || ones != 64 {
			continue
		}
		if first == "" {
			first = a.IPNet.String()
		}
		if len(mac) == 6 && slices.Equal(a.IP[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}) {
			return a.IPNet.String()
		}
	}
	return first
}

// hostEnd compares the machine's end of the link. It has no address for IPv6, but
// for the one that the kernel gives it when somebody switches IPv6 on for every
// link of the machine.
func (c *configuration) hostEnd() error {
	const how = "the machine's end of its link"
	name := c.e.link(c.r.ID)
	link, err := netlink.LinkByName(name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		c.add("link removed", name, "", how)
		return nil
	}
	if err != nil {
		return err
	}
	c.linkUp(link, how)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	have, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	c.addressesOf(link, have, hostNet(c.e.network.gateway).String(), linkLocalOf(link, have), how)
	return nil
}
