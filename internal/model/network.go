package model

import (
	"encoding/binary"
	"net/netip"
)

// DefaultServiceNet is where the names of services have their addresses,
// unless configured: set apart for tests between networks, like the servers'.
const DefaultServiceNet = "198.19.0.0/16"

// ServiceAddress returns the address of the service's name in the IPv4 network
// of service names. A network too small for any has none.
func ServiceAddress(network netip.Prefix, instance InstanceID, service string) netip.Addr {
	const least, bits = 30, 32 // a network of at least four addresses
	if !network.IsValid() || !network.Addr().Is4() || network.Bits() > least {
		return netip.Addr{}
	}
	first := network.Masked().Addr().As4()
	offset := ServiceOffset(instance, service, 1<<(bits-network.Bits()))
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], binary.BigEndian.Uint32(first[:])+uint32(offset))
	return netip.AddrFrom4(address)
}
