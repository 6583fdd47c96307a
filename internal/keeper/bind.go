package keeper

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// bind opens a listening socket for the address. A port that is taken is a
// conflict that names the process that has it, if it can be found. free says
// that the machine need not have the address yet. own returns the sockets that
// the caller has on a port already.
func bind(address string, free bool, own func(port string) []syscall.Conn) (*net.TCPListener, error) {
	l, err := listenTCP(address, free, free)
	if errors.Is(err, syscall.EADDRINUSE) && (free || everyOtherIsOne(address)) {
		l, err = bindBeside(address, free, own(portOf(address)))
	}
	if err == nil {
		return l, nil
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e := model.Errorf(model.Conflict, "cannot listen on %s: the port is taken%s", address, takenBy(address))
		return nil, e.WithHint("end what listens there, or give the route another listen address")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, model.Errorf(model.Invalid, "cannot listen on %s: this machine has no such address", address)
	case errors.Is(err, syscall.EACCES):
		return nil, model.Errorf(model.Denied, "cannot listen on %s: not allowed (ports below 1024 need privileges)", address)
	default:
		return nil, model.Errorf(model.Unavailable, "cannot listen on %s: %w", address, err)
	}
}

// listenTCP listens. shared sockets may be bound beside others that are.
func listenTCP(address string, free, shared bool) (*net.TCPListener, error) {
	var lc net.ListenConfig // sets SO_REUSEADDR
	lc.KeepAlive = -1       // accepted connections set their own
	lc.Control = func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if free {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			}
			if shared {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			}
		})
		return errors.Join(err, cerr)
	}
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, model.Errorf(model.Internal, "cannot listen on %s: not TCP", address)
	}
	return tcp, nil
}

// bindBeside listens on the address beside sockets of the same port at other
// addresses. The kernel has a wildcard and one address of a port apart when
// connections come, yet lets both be bound only where each is marked as shared.
// Sockets of service names (free) bear that mark for good, so that any kiln may
// route the port; those of routes for this moment only, so that two programs
// never share a route without knowing.
func bindBeside(address string, free bool, own []syscall.Conn) (*net.TCPListener, error) {
	if free {
		for _, c := range own {
			share(c, true)
			defer share(c, false)
		}
	}
	l, err := listenTCP(address, free, true)
	if err == nil && !free {
		share(l, false)
	}
	return l, err
}

// share marks a socket as one that others may be bound beside. Sockets of
// service names keep the mark.
func share(c syscall.Conn, on bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if free, err := unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND); err == nil && free != 0 {
			return
		}
		v := 0
		if on {
			v = 1
		}
		// Where it fails the address counts as taken, and that is said.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, v)
	})
}

// everyOtherIsOne reports whether the address is a wildcard and everybody who
// listens on its port does so at one address: then the two are told apart.
func everyOtherIsOne(address string) bool {
	if !wildcard(address) {
		return false
	}
	port, err := strconv.ParseUint(portOf(address), 10, 16)
	if err != nil {
		return false
	}
	inodes := map[string]netip.AddrPort{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listening(table, uint16(port), inodes)
	}
	for _, at := range inodes {
		if at.Addr().IsUnspecified() {
			return false
		}
	}
	return true
}

// portOf returns the port of a normalized address.
func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

// wildcard reports whether the address stands for every address of the machine.
func wildcard(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// takenBy returns " by NAME (process PID)", or "" if it cannot be found out.
func takenBy(address string) string {
	_, portText, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return ""
	}
	inodes := map[string]netip.AddrPort{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listening(table, uint16(port), inodes)
	}
	if len(inodes) == 0 {
		return ""
	}
	pid, at := holder(inodes)
	if pid == 0 {
		for _, at = range inodes {
			break
		}
		return fmt.Sprintf(": somebody listens on %s", at)
	}
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		name = []byte("?")
	}
	return fmt.Sprintf(" by %s (process %d, listening on %s)", strings.TrimSpace(string(name)), pid, at)
}

// listening adds the inodes of the sockets that listen on the port.
func listening(table string, port uint16, inodes map[string]netip.AddrPort) {
	f, err := os.Open(table)
	if err != nil {
		return // IPv6 may be off
	}
	defer f.Close()
	const listen, localField, stateField, inodeField = "0A", 1, 3, 9
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) <= inodeField || fields[stateField] != listen {
			continue
		}
		if at, ok := procAddress(fields[localField]); ok && at.Port() == port {
			inodes["socket:["+fields[inodeField]+"]"] = at
		}
	}
}

// procAddress reads an address as /proc/net/tcp writes it: words in the
// machine's byte order, which is little-endian wherever kiln runs.
func procAddress(s string) (netip.AddrPort, bool) {
	addr, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(addr)
	if !ok || err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	ip, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip, uint16(n)), ok && err == nil
}

// holder returns the process that has one of the sockets, or 0.
func holder(inodes map[string]netip.AddrPort) (pid int, at netip.AddrPort) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, at
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if at, ok := inodes[target]; ok {
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			if err == nil {
				return pid, at
			}
		}
	}
	return 0, at
}
