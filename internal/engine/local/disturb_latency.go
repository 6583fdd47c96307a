package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

const (
	lateDevice = "kiln-late"
	lateTable  = 198 // of routes, in the server's own namespace
	lateQueue  = 4096
	tunDevice  = "/dev/net/tun"
)

// delay has everything come late that the server sends. The kernel's own way to
// do so (netem) is missing from many; so, in the server's network namespace and
// nowhere else, all that it sends is routed to a device of this process, which
// passes it on later. When this process ends, the device and its route are gone.
func (e *Engine) delay(r *record) (undo func(), err error) {
	if _, err := os.Stat(tunDevice); err != nil {
		return nil, model.Errorf(model.Invalid, "this machine cannot make packets late: %w", err).WithHint("modprobe tun")
	}
	link, err := net.InterfaceByName(e.link(r.ID))
	if err != nil {
		return nil, err
	}
	d := &delayer{machine: link.HardwareAddr}
	if err := inNetwork(e.netns(r.ID), d.open); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	late := make(chan packet, lateQueue)
	go d.read(late)
	go func() {
		d.send(late)
		close(ended)
	}()
	return func() {
		_ = d.device.Close()
		<-ended
		if err := inNetwork(e.netns(r.ID), removeLateRule); err != nil && !errors.Is(err, os.ErrNotExist) {
			e.Log.Warn("cannot remove the route of a delay", "server", r.ID, "error", err)
		}
	}, nil
}

// inNetwork calls f in the network namespace at path.
func inNetwork(path string, f func() error) error {
	failed := make(chan error)
	go func() {
		// Never unlocked: the thread belongs to the namespace, and ends with this
		// function.
		runtime.LockOSThread()
		failed <- func() error {
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return err
			}
			defer func() { _ = ns.Close() }()
			if err := netns.Set(ns); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-failed
}

// delayer takes what a server sends and passes it on later.
type delayer struct {
	machine net.HardwareAddr // of the machine's end of the link
	device  *os.File         // where the server's packets come from
	socket  int              // where they go
	to      *unix.SockaddrLinklayer
}

type packet struct {
	due  time.Time
	data []byte
}

// open makes the device and the socket, in the server's namespace.
func (d *delayer) open() error {
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	protocol := uint16(unix.ETH_P_IP>>8 | unix.ETH_P_IP<<8&0xff00) // in network order
	d.to = &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: eth.Index, Halen: uint8(len(d.machine))}
	copy(d.to.Addr[:], d.machine)
	if d.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if d.device, err = openTun(lateDevice); err == nil {
		err = routeTo(lateDevice)
	}
	if err != nil {
		err = errors.Join(err, unix.Close(d.socket))
		if d.device != nil {
			err = errors.Join(err, d.device.Close())
		}
	}
	return err
}

func openTun(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "this machine cannot make packets late: cannot open %s: %w", tunDevice, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), tunDevice), nil
}

// routeTo routes all that is sent in this namespace to the device. What comes in
// on another than that is taken all the same.
func routeTo(name string) error {
	for _, of := range []string{"all", "eth0", name} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte("0"), 0); err != nil {
			return err
		}
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Scope: netlink.SCOPE_LINK, Table: lateTable}
	if main, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE); err == nil {
		for _, r := range main {
			if r.Src != nil {
				route.Src = r.Src
			}
		}
	}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("cannot route to %s: %w", name, err)
	}
	if err := h.RuleAdd(lateRule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot route to %s: %w", name, err)
	}
	return nil
}

func lateRule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.Family = lateTable, lateTable, netlink.FAMILY_V4
	return rule
}

// removeLateRule removes what sends packets to the device, in this namespace.
func removeLateRule() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.RuleDel(lateRule()); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// read takes what the server sends, until the device is closed. What the queue
// cannot take is lost, as on any long way.
func (d *delayer) read(late chan<- packet) {
	defer close(late)
	buffer := make([]byte, 1<<16)
	for {
		n, err := d.device.Read(buffer)
		if err != nil {
			return
		}
		select {
		case late <- packet{time.Now().Add(model.ChaosDelay), append([]byte(nil), buffer[:n]...)}:
		default:
		}
	}
}

// send passes packets on when their time has come.
func (d *delayer) send(late <-chan packet) {
	defer func() { _ = unix.Close(d.socket) }()
	for p := range late {
		time.Sleep(time.Until(p.due))
		if len(p.data) > 0 && p.data[0]>>4 == 4 {
			_ = unix.Sendto(d.socket, p.data, 0, d.to) // the link may be gone
		}
	}
}
