package local

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"kiln/internal/engine"
)

// The states of TCP as the kernel writes them. Those of UDP are the same
// numbers: "07" is one that is not connected.
var tcpStates = map[string]string{
	"01": "established", "02": "syn-sent", "03": "syn-received", "04": "fin-wait-1", "05": "fin-wait-2", "06": "time-wait",
	"07": "closed", "08": "close-wait", "09": "last-ack", "0A": stateListening, "0B": "closing", "0C": "syn-received",
}

const stateListening = "listening"

// socketsOf lists the sockets of the network namespace of the process, the
// listening ones first.
func socketsOf(pid int) ([]engine.Socket, error) {
	found := []engine.Socket{}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "unix"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) && table != "tcp" {
			continue // a machine without it
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if table == "unix" {
				if s, ok := unixSocket(words); ok {
					found = append(found, s)
				}
			} else if s, ok := ipSocket(strings.TrimSuffix(table, "6"), words); ok {
				found = append(found, s)
			}
		}
	}
	first := func(s engine.Socket) int {
		if s.State == stateListening {
			return 0
		}
		return 1
	}
	slices.SortFunc(found, func(a, b engine.Socket) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(a.Network, b.Network), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Remote, b.Remote))
	})
	return slices.Compact(found), nil
}

// listeningAmong returns the sockets on which others can reach the server over
// a network.
func listeningAmong(sockets []engine.Socket) []engine.Socket {
	found := []engine.Socket{}
	for _, s := range sockets {
		if s.State == stateListening && s.Network != "unix" {
			found = append(found, engine.Socket{Network: s.Network, Address: s.Address})
		}
	}
	return found
}

// ipSocket reads a line of /proc/net/tcp or udp.
func ipSocket(network string, words []string) (engine.Socket, bool) {
	if len(words) < 4 {
		return engine.Socket{}, false
	}
	local, err := parseSocketAddress(words[1])
	remote, err2 := parseSocketAddress(words[2])
	if err != nil || err2 != nil {
		return engine.Socket{}, false
	}
	s := engine.Socket{Network: network, Address: local.String(), State: tcpStates[words[3]]}
	if network == "udp" && words[3] == "07" {
		s.State = stateListening
	}
	if remote.Port() != 0 {
		s.Remote = remote.String()
	}
	return s, true
}

// unixSocket reads a line of /proc/net/unix: Num RefCount Protocol Flags Type
// St Inode Path. Those without a path are the two ends of pairs, mostly, and say
// nothing.
func unixSocket(words []string) (engine.Socket, bool) {
	if len(words) < 8 || words[0] == "Num" {
		return engine.Socket{}, false
	}
	const accepts = 1 << 16 // __SO_ACCEPTCON
	flags, err := strconv.ParseUint(words[3], 16, 64)
	if err != nil {
		return engine.Socket{}, false
	}
	s := engine.Socket{Network: "unix", Address: strings.Join(words[7:], " ")}
	switch {
	case flags&accepts != 0:
		s.State = stateListening
	case words[5] == "03":
		s.State = "established"
	}
	return s, true
}

// parseSocketAddress reads ADDRESS:PORT as in /proc/net/tcp: words of four bytes
// in the machine's order, in hexadecimal.
func parseSocketAddress(s string) (netip.AddrPort, error) {
	address, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("cannot understand %q", s)
	}
	b, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("cannot understand %q", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip, uint16(n)), err
}
