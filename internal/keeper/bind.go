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

	"kiln/internal/model"
)

// bind opens a listening socket for the address. A port that is taken is a
// conflict that names the process that has it, if it can be found.
func bind(address string) (*net.TCPListener, error) {
	var lc net.ListenConfig // sets SO_REUSEADDR
	lc.KeepAlive = -1       // accepted connections set their own
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err == nil {
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return nil, model.Errorf(model.Internal, "cannot listen on %s: not TCP", address)
		}
		return tcp, nil
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
