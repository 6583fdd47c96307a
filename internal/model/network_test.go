package model

import (
	"net/netip"
	"testing"
)

// TestServiceAddress: inside the network, never its first or last address, and
// the same for ever.
func TestServiceAddress(t *testing.T) {
	for _, text := range []string{"198.19.0.0/16", "10.1.2.129/25", "10.0.0.0/8", "192.0.2.0/30", "0.0.0.0/0"} {
		network := netip.MustParsePrefix(text)
		for _, service := range []string{"db", "shop", "a", "b", "c", "d", "e", "f"} {
			a := ServiceAddress(network, "abcdef", service)
			if !network.Contains(a) || a == network.Masked().Addr() {
				t.Errorf("%s in %s has %s", service, text, a)
			}
			if next := a.Next(); next.IsValid() && !network.Contains(next) {
				t.Errorf("%s in %s has its last address %s", service, text, a)
			}
		}
	}
	if a := ServiceAddress(netip.MustParsePrefix(DefaultServiceNet), "abcdef", "db"); a.String() != "198.19.35.76" {
		t.Errorf("db of abcdef has %s: addresses are for ever", a)
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("192.0.2.0/31"), netip.MustParsePrefix("fd00::/64")} {
		if a := ServiceAddress(bad, "abcdef", "db"); a.IsValid() {
			t.Errorf("%s gives %s", bad, a)
		}
	}
}
