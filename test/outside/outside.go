// Package outside makes hosts beside this machine for tests: a network namespace at the
// other end of a link.
package outside

import (
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link makes a pair of interfaces: link with the address near here, and eth0 with the
// address far in a network namespace of its own, in which it calls there. The caller's
// thread is given up for it: it is in this namespace again only when Link returns nil.
// The namespace lasts as long as something is open in it, and the link with it.
func Link(link, near, far string, there func() error) error {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: link, PeerNamespace: netlink.NsFd(int(host.Fd()))}); err != nil {
		return err
	}
	if err := address("eth0", far+"/30"); err != nil {
		return err
	}
	if err := there(); err != nil {
		return err
	}
	if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	return address(link, near+"/30")
}

func address(link, cidr string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
