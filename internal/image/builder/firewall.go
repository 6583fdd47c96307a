package builder

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// filter lets what comes from the builder's namespace out into the world, and
// nowhere else: not to an address of the host, not to servers, not to the
// link-local range where clouds keep their metadata. It runs in the host's
// namespace.
func (n *netns) filter() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: n.table})
	chain := func(name string, hook *nftables.ChainHook, prio *nftables.ChainPriority, kind nftables.ChainType) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Hooknum: hook, Priority: prio, Type: kind})
	}
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		r := &nftables.Rule{Table: t, Chain: ch}
		for _, p := range parts {
			r.Exprs = append(r.Exprs, p...)
		}
		c.AddRule(r)
	}
	input := chain("input", nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainTypeFilter)
	rule(input, from(n.link), refused())

	forward := chain("forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainTypeFilter)
	rule(forward, to(n.link), answers(), verdict(expr.VerdictAccept))
	rule(forward, to(n.link), verdict(expr.VerdictDrop))
	rule(forward, from(n.link), notIPv4(), refused())
	for _, p := range forbidden() {
		rule(forward, from(n.link), destination(p), refused())
	}

	post := chain("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainTypeNAT)
	rule(post, source(netip.PrefixFrom(n.address, 32)), []expr.Any{&expr.Masq{}})
	return c.Flush()
}

// forbidden are the destinations beyond the host that a build may not reach.
func forbidden() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("198.18.0.0/15"),  // servers and services
		netip.MustParsePrefix("169.254.0.0/16"), // link-local
		netip.MustParsePrefix("127.0.0.0/8"),
	}
}

// unfilter removes the table. It runs in the host's namespace.
func (n *netns) unfilter() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Name == n.table {
			c.DelTable(t)
		}
	}
	return c.Flush()
}

// ifname is an interface's name as the kernel compares it.
func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

func from(link string) []expr.Any { return interfaceIs(expr.MetaKeyIIFNAME, link) }
func to(link string) []expr.Any   { return interfaceIs(expr.MetaKeyOIFNAME, link) }

func interfaceIs(key expr.MetaKey, link string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(link)},
	}
}

func notIPv4() []expr.Any { return protocol(expr.CmpOpNeq) }

func protocol(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

// answers matches packets of connections that were opened from inside.
func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

const (
	sourceOffset      = 12 // in the IPv4 header
	destinationOffset = 16
)

func source(p netip.Prefix) []expr.Any      { return addressIn(sourceOffset, p) }
func destination(p netip.Prefix) []expr.Any { return addressIn(destinationOffset, p) }

func addressIn(offset uint32, p netip.Prefix) []expr.Any {
	base := p.Masked().Addr().As4()
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), p.Bits()).Masked().Addr().As4()
	return append(protocol(expr.CmpOpEq),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask[:], Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: base[:]},
	)
}

// refused tells the sender, so that a step fails at once instead of waiting.
func refused() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
