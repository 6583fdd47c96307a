package local

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// linkLocal is where clouds keep what only the machine may know.
var linkLocal = netip.MustParsePrefix("169.254.0.0/16")

// installFirewall puts the instance's table in place, in one transaction, also
// when one is there. The table is all that kiln has in the machine's filters:
//
//	chain forward: from a server to a server or 169.254.0.0/16: drop;
//	               from a server to a service's name that is not here: drop
//	               to a server, unless it answers: drop
//	chain input:   from a server to a name that it connects to: accept
//	               from a server, unless it answers: drop
//	chain nat:     from a server to elsewhere: masquerade
func installFirewall(c Config, members map[member]bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: c.table()}
	// Added first, so that there is one to delete.
	conn.AddTable(table)
	conn.DelTable(table)
	table = conn.AddTable(table)

	accept := nftables.ChainPolicyAccept
	f := firewall{conn: conn, table: table, links: c.linkPrefix()}
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	f.add(forward, f.fromServer(), f.toNet(linkLocal), drop())
	f.add(forward, f.fromServer(), f.toNet(c.ServerNet), drop())
	f.add(forward, f.fromServer(), f.toNet(c.ServiceNet), drop())
	f.add(forward, f.fromServer(), f.toServer(), drop())
	f.add(forward, f.fromServer(), ipv6(), drop())
	f.add(forward, f.toServer(), f.notAnswering(), drop())
	input := conn.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	if err := f.addNames(input, members); err != nil {
		return err
	}
	f.add(input, f.fromServer(), f.notAnswering(), drop())
	nat := conn.AddChain(&nftables.Chain{
		Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept,
	})
	f.add(nat, f.fromServer(), []expr.Any{&expr.Masq{}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot install nftables table %s: %w", c.table(), err)
	}
	return nil
}

// addNames adds the chain and the set of services' names; the rule comes with
// the first server that connects to one.
func (f firewall) addNames(input *nftables.Chain, members map[member]bool) error {
	set := membersSet(f.table)
	var elements []nftables.SetElement
	for m := range members {
		elements = append(elements, m.element())
	}
	if err := f.conn.AddSet(set, elements); err != nil {
		return fmt.Errorf("cannot say who may reach a service's name: %w", err)
	}
	chain := f.conn.AddChain(&nftables.Chain{Name: namesChain, Table: f.table})
	if len(members) > 0 {
		f.add(chain, f.reachesName(set))
	}
	f.add(input, f.fromServer(), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name}})
	return nil
}

// removeFirewall removes the instance's table; absent is done.
func removeFirewall(c Config) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: c.table()})
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot remove nftables table %s: %w", c.table(), err)
	}
	return nil
}

// firewall builds rules out of conditions and a verdict.
type firewall struct {
	conn  *nftables.Conn
	table *nftables.Table
	links string // what the names of the instance's links begin with
}

func (f firewall) add(chain *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	f.conn.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: all})
}

func drop() []expr.Any { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

// fromServer holds for what comes in by a link of the instance: comparing fewer
// bytes than a name has compares its beginning.
func (f firewall) fromServer() []expr.Any { return f.name(expr.MetaKeyIIFNAME) }

func (f firewall) toServer() []expr.Any { return f.name(expr.MetaKeyOIFNAME) }

func (f firewall) name(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(f.links)},
	}
}

func family(f byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f}},
	}
}

func ipv6() []expr.Any { return family(unix.NFPROTO_IPV6) }

// toNet holds for IPv4 packets to the network.
func (f firewall) toNet(p netip.Prefix) []expr.Any {
	return append(family(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	)
}

// notAnswering holds for packets of a connection that the other side began, or
// nobody.
func (f firewall) notAnswering() []expr.Any {
	answers := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(answers), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}
