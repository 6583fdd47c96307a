package local

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// lossTable is the name of the table that drops packets. It is not the
// instance's own, which is always the same.
func (c Config) lossTable() string { return c.table() + "-chaos" }

// lossSet holds the addresses whose packets are dropped; they leave it by
// themselves, whatever has become of kiln.
func lossSet(table *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: table, Name: "lost", KeyType: nftables.TypeIPAddr, HasTimeout: true}
}

// lose drops every packet to and from the server.
func (e *Engine) lose(r *record, lasts time.Duration) (undo func(), err error) {
	address, err := netip.ParseAddr(r.Address)
	if err != nil {
		return nil, err
	}
	e.disturbances.mu.Lock()
	defer e.disturbances.mu.Unlock()
	table, err := e.makeLossTable()
	if err != nil {
		return nil, err
	}
	element := nftables.SetElement{Key: address.AsSlice()}
	change := func(edit func(*nftables.Conn) error) error {
		conn, err := nftables.New()
		if err == nil {
			err = edit(conn)
		}
		if err == nil {
			err = conn.Flush()
		}
		return err
	}
	err = change(func(c *nftables.Conn) error {
		timed := element
		timed.Timeout = lasts
		return c.SetAddElements(lossSet(table), []nftables.SetElement{timed})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot have its packets dropped: %w", err)
	}
	return func() {
		// One that has timed out is gone already, which is an error.
		_ = change(func(c *nftables.Conn) error {
			return c.SetDeleteElements(lossSet(table), []nftables.SetElement{element})
		})
	}, nil
}

// makeLossTable makes the table unless it is there.
func (e *Engine) makeLossTable() (*nftables.Table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot reach nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: e.lossTable()}
	if have, err := conn.ListTablesOfFamily(nftables.TableFamilyINet); err == nil {
		for _, t := range have {
			if t.Name == table.Name {
				return table, nil
			}
		}
	}
	table = conn.AddTable(table)
	set := lossSet(table)
	if err := conn.AddSet(set, nil); err != nil {
		return nil, err
	}
	const source, destination = 12, 16 // where they are in an IPv4 header
	for _, c := range []struct {
		name   string
		hook   *nftables.ChainHook
		offset uint32
	}{{"from", nftables.ChainHookPrerouting, source}, {"to", nftables.ChainHookPostrouting, destination}} {
		chain := conn.AddChain(&nftables.Chain{
			Name: c.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: c.hook, Priority: nftables.ChainPriorityRaw,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(family(unix.NFPROTO_IPV4),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: c.offset, Len: 4},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			&expr.Verdict{Kind: expr.VerdictDrop},
		)})
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("cannot make nftables table %s: %w", table.Name, err)
	}
	return table, nil
}

// removeLosses removes the table; absent is done.
func removeLosses(c Config) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: c.lossTable()})
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cannot remove nftables table %s: %w", c.lossTable(), err)
	}
	return nil
}
