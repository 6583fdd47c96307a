package router

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"kiln/internal/model"
)

// The PROXY protocol (haproxy.org/download/3.0/doc/proxy-protocol.txt): a
// header in front of everything else of a connection, by which a load balancer
// says who the client is. Version 1 is a line, version 2 is binary.

const (
	proxyTimeout = 5 * time.Second // for the whole header
	proxyLine    = 107             // the longest line of version 1
	proxyMost    = 4096            // the longest addresses and extensions of version 2 that are taken
	proxyLead    = 12              // by so many bytes the versions are told apart
)

const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// proxied is what a PROXY header says: who connected to whom. The zero value:
// nothing but that the load balancer itself did.
type proxied struct{ from, to netip.AddrPort }

// errNoProxy is why a connection is not served.
var errNoProxy = errors.New("it does not begin with a PROXY header")

// readProxy reads one header and not a byte more.
func readProxy(r io.Reader) (proxied, error) {
	lead := make([]byte, proxyLead, proxyLine)
	for have := 0; have < proxyLead; {
		n, err := r.Read(lead[have:])
		have += n
		if !begins(proxySignature, lead[:have]) && !begins("PROXY ", lead[:have]) {
			return proxied{}, errNoProxy
		}
		if err != nil && have < proxyLead {
			return proxied{}, err
		}
	}
	if string(lead) == proxySignature {
		return readProxy2(r)
	}
	var one [1]byte
	for !bytes.HasSuffix(lead, []byte("\r\n")) {
		if len(lead) == proxyLine {
			return proxied{}, errors.New("its PROXY header is too long")
		}
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return proxied{}, err
		}
		lead = append(lead, one[0])
	}
	return parseProxy1(string(lead[:len(lead)-2]))
}

// begins reports whether have and want are the same as far as both go.
func begins(want string, have []byte) bool {
	n := min(len(want), len(have))
	return want[:n] == string(have[:n])
}

var errProxy1 = errors.New("its PROXY header of version 1 is malformed")

// parseProxy1 reads a line of version 1 without its end.
func parseProxy1(line string) (proxied, error) {
	if line == "PROXY UNKNOWN" || strings.HasPrefix(line, "PROXY UNKNOWN ") {
		return proxied{}, nil
	}
	f := strings.Split(line, " ")
	if len(f) != 6 || (f[1] != "TCP4" && f[1] != "TCP6") {
		return proxied{}, errProxy1
	}
	from, err1 := parseProxyAddr(f[2], f[4], f[1] == "TCP4")
	to, err2 := parseProxyAddr(f[3], f[5], f[1] == "TCP4")
	return proxied{from, to}, errors.Join(err1, err2)
}

func parseProxyAddr(addr, port string, four bool) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || ip.Is4() != four || ip.Zone() != "" || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, errProxy1
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

var errProxy2 = errors.New("its PROXY header of version 2 is malformed")

// readProxy2 reads what follows the signature of version 2.
func readProxy2(r io.Reader) (proxied, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return proxied{}, err
	}
	length := int(binary.BigEndian.Uint16(head[2:]))
	const version, local, proxy = 0x20, 0, 1
	command := head[0] & 0x0f
	if head[0]&0xf0 != version || command > proxy || length > proxyMost {
		return proxied{}, errProxy2
	}
	rest := make([]byte, length)
	if _, err := io.ReadFull(r, rest); err != nil {
		return proxied{}, err
	}
	if command == local {
		return proxied{}, nil // the load balancer looks whether anybody is there
	}
	p, used, err := parseProxy2(head[1], rest)
	if err != nil {
		return proxied{}, err
	}
	return p, checkProxy2(head, rest, used)
}

// parseProxy2 reads the addresses of version 2, and how long they are. Those of
// other kinds than TCP over IP are passed over.
func parseProxy2(family byte, rest []byte) (p proxied, used int, err error) {
	const tcp4, tcp6, udp4, udp6, stream, datagram, unspecified = 0x11, 0x21, 0x12, 0x22, 0x31, 0x32, 0x00
	lengths := map[byte]int{tcp4: 12, udp4: 12, tcp6: 36, udp6: 36, stream: 216, datagram: 216, unspecified: 0}
	used, known := lengths[family]
	if !known || len(rest) < used {
		return p, 0, errProxy2
	}
	if family != tcp4 && family != tcp6 {
		return p, used, nil
	}
	size := (used - 4) / 2
	from, _ := netip.AddrFromSlice(rest[:size]) // 4 or 16 bytes always are one
	to, _ := netip.AddrFromSlice(rest[size : 2*size])
	ports := rest[2*size:]
	p.from = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports))
	p.to = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	return p, used, nil
}

// checkProxy2 goes through the extensions of version 2: they have to be whole,
// and a checksum has to be right. Where the addresses are of no kind there are
// none to be known.
func checkProxy2(head [4]byte, rest []byte, used int) error {
	const checksum, unspecified = 0x03, 0x00
	for at := used; at < len(rest) && head[1] != unspecified; {
		if len(rest)-at < 3 {
			return errProxy2
		}
		size := int(binary.BigEndian.Uint16(rest[at+1:]))
		value := at + 3
		if len(rest)-value < size {
			return errProxy2
		}
		if rest[at] == checksum {
			if size != crc32.Size {
				return errProxy2
			}
			sum := binary.BigEndian.Uint32(rest[value:])
			whole := append(append([]byte(proxySignature), head[:]...), rest...)
			clear(whole[len(proxySignature)+len(head)+value:][:crc32.Size])
			if crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli)) != sum {
				return errors.New("its PROXY header has another checksum")
			}
		}
		at = value + size
	}
	return nil
}

// proxyHeader returns the header of the version.
func proxyHeader(version int, p proxied) []byte {
	from, to := p.from.Addr().Unmap(), p.to.Addr().Unmap()
	known := from.IsValid() && to.IsValid()
	if known && from.Is4() != to.Is4() {
		from, to = netip.AddrFrom16(from.As16()), netip.AddrFrom16(to.As16())
	}
	if version == 1 {
		return proxyHeader1(known, from, to, p)
	}
	b := append([]byte(nil), proxySignature...)
	switch {
	case !known:
		return append(b, 0x20, 0, 0, 0)
	case from.Is4():
		b = append(b, 0x21, 0x11, 0, 12)
	default:
		b = append(b, 0x21, 0x21, 0, 36)
	}
	b = append(b, from.AsSlice()...)
	b = append(b, to.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, p.from.Port())
	return binary.BigEndian.AppendUint16(b, p.to.Port())
}

func proxyHeader1(known bool, from, to netip.Addr, p proxied) []byte {
	b := []byte("PROXY TCP6 ")
	switch {
	case !known:
		return []byte("PROXY UNKNOWN\r\n")
	case from.Is4():
		b = []byte("PROXY TCP4 ")
	}
	b = append(from.AppendTo(b), ' ')
	b = append(to.AppendTo(b), ' ')
	b = strconv.AppendUint(b, uint64(p.from.Port()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(p.to.Port()), 10)
	return append(b, '\r', '\n')
}

// ends returns who the client of a connection is, and whom it asked for.
func ends(client net.Conn) proxied {
	from, err1 := netip.ParseAddrPort(client.RemoteAddr().String())
	to, err2 := netip.ParseAddrPort(client.LocalAddr().String())
	if err1 != nil || err2 != nil {
		return proxied{}
	}
	return proxied{from, to}
}

// checkIntroductions refuses what cannot be meant of PROXY headers: on one
// listener either every connection begins with one or none does.
func checkIntroductions(t *model.Table) error {
	by := map[string]bool{}
	for i := range t.Services {
		s := &t.Services[i]
		if s.ProxyProtocol < 0 || s.ProxyProtocol > 2 {
			return model.Errorf(model.Invalid, "cannot use table: service %q has version %d of the PROXY protocol; there are 1 and 2", s.Name, s.ProxyProtocol)
		}
		for _, route := range s.Routes {
			listen, err := normalizeListen(route.Listen)
			if err != nil {
				return err
			}
			if other, ok := by[listen]; ok && other != route.ProxyProtocol {
				return model.Errorf(model.Conflict, "cannot use table: some routes of listener %s want a PROXY header and others do not", route.Listen).
					WithHint("give all routes of the listener the same proxy_protocol")
			}
			by[listen] = route.ProxyProtocol
		}
	}
	return nil
}

// introduce reads the PROXY header that the client's connection begins with.
func (c *clientConn) introduce() error {
	_ = c.SetReadDeadline(time.Now().Add(proxyTimeout))
	p, err := readProxy(c.TCPConn)
	if err != nil {
		return err
	}
	if p.from.IsValid() {
		c.from, c.to = net.TCPAddrFromAddrPort(p.from), net.TCPAddrFromAddrPort(p.to)
	}
	return c.SetReadDeadline(time.Time{})
}

// RemoteAddr implements net.Conn: the client's, as the header has it.
func (c *clientConn) RemoteAddr() net.Addr {
	if c.from != nil {
		return c.from
	}
	return c.TCPConn.RemoteAddr()
}

// LocalAddr implements net.Conn: what the client asked for, as the header has it.
func (c *clientConn) LocalAddr() net.Addr {
	if c.to != nil {
		return c.to
	}
	return c.TCPConn.LocalAddr()
}
