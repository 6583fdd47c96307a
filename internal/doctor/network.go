package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kiln/internal/api"
)

// network makes what a server's network is made of, in a namespace that ends
// with the thread it was made on.
func network() api.Check {
	if os.Geteuid() != 0 {
		return warn("network", "sudo kiln doctor", "only root can try it")
	}
	type result struct{ what, fix, err string }
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{"a network namespace", "", err.Error()}
			return
		}
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "kdoctor0"}, PeerName: "kdoctor1"}
		if err := netlink.LinkAdd(link); err != nil {
			done <- result{"a veth link", "modprobe veth && echo veth > /etc/modules-load.d/veth.conf", err.Error()}
			return
		}
		if err := tryTable(); err != nil {
			done <- result{"an nftables table", "modprobe nf_tables nft_masq && echo nf_tables > /etc/modules-load.d/nftables.conf", err.Error()}
			return
		}
		done <- result{}
	}()
	if r := <-done; r.err != "" {
		return fail("network", r.fix, "cannot make %s: %s", r.what, r.err)
	}
	return ok("network", "namespaces, veth links and nftables work")
}

// tryTable makes a table with a rule-less forward chain.
func tryTable() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kiln-doctor"})
	conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	return conn.Flush()
}

func forwarding() api.Check {
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return fail("ip forwarding", "", "cannot read net.ipv4.ip_forward: %s", err)
	}
	if strings.TrimSpace(string(raw)) == "0" {
		return warn("ip forwarding", "sysctl -w net.ipv4.ip_forward=1", "net.ipv4.ip_forward is 0: the daemon sets it to 1, and says so")
	}
	return ok("ip forwarding", "net.ipv4.ip_forward is 1")
}

// firewall looks for another firewall that drops what is forwarded. Its drop
// cannot be overruled by kiln's own table.
func firewall(ctx context.Context) api.Check {
	if os.Geteuid() != 0 {
		return warn("firewall", "sudo kiln doctor", "only root can see the rules")
	}
	drops, err := droppingChains()
	if err != nil {
		return warn("firewall", "", "cannot list the nftables chains: %s", err)
	}
	if len(drops) == 0 && legacyDrops(ctx) {
		return warn("firewall", "iptables-legacy -I FORWARD -s 198.18.0.0/16 -j ACCEPT; iptables-legacy -I FORWARD -d 198.18.0.0/16 -j ACCEPT",
			"iptables (legacy) drops what is forwarded: servers cannot reach the outside")
	}
	if len(drops) == 0 {
		return ok("firewall", "no other firewall drops what is forwarded")
	}
	c := drops[0]
	fix := fmt.Sprintf("nft insert rule %s %s %s ip saddr 198.18.0.0/16 accept; nft insert rule %s %s %s ip daddr 198.18.0.0/16 accept",
		family(c.Table.Family), c.Table.Name, c.Name, family(c.Table.Family), c.Table.Name, c.Name)
	return warn("firewall", fix, "the chain %q of table %q drops what is forwarded: servers cannot reach the outside", c.Name, c.Table.Name)
}

// droppingChains returns the forward chains of others whose policy is drop.
func droppingChains() ([]*nftables.Chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var out []*nftables.Chain
	for _, c := range chains {
		forward := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter
		drop := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if forward && drop && !strings.HasPrefix(c.Table.Name, "kiln-") && family(c.Table.Family) != "" {
			out = append(out, c)
		}
	}
	return out, nil
}

// family returns how nft calls the family, "" where IPv4 does not pass.
func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	default:
		return ""
	}
}

// legacyDrops asks the old iptables, where it is in use.
func legacyDrops(ctx context.Context) bool {
	names, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil || !hasWord(string(names), "filter") {
		return false
	}
	out, err := exec.CommandContext(ctx, "iptables-legacy", "-S", "FORWARD").Output()
	return err == nil && strings.HasPrefix(string(out), "-P FORWARD DROP")
}

// listener looks whether a listener of the declaration is free, or kiln's.
func listener(address, dataDir string) api.Check {
	name := "listen " + address
	l, err := net.Listen("tcp", address)
	if err == nil {
		l.Close()
		return ok(name, "is free")
	}
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail(name, "ip address", "no link of this machine has this address")
	case errors.Is(err, unix.EACCES):
		return warn(name, "sudo kiln doctor", "only root can try it")
	case !errors.Is(err, unix.EADDRINUSE):
		return fail(name, "", "%s", err)
	}
	_, port, _ := net.SplitHostPort(address)
	held := holders(port)
	// A daemon holds its kiln's listeners too, and does not say whose it is.
	for _, pid := range held {
		if args := commandLine(pid); len(args) > 1 && (args[1] == "keeper" || args[1] == "router") {
			if slices.Contains(args, dataDir) {
				return ok(name, "held by this kiln's %s (process %d)", args[1], pid)
			}
			return fail(name, "write another listen in kiln.hcl", "is taken by another kiln: %s", strings.Join(args, " "))
		}
	}
	if len(held) == 0 {
		return fail(name, "ss -ltnp 'sport = :"+port+"'", "is taken by another program")
	}
	who, _ := os.ReadFile("/proc/" + strconv.Itoa(held[0]) + "/comm")
	return fail(name, fmt.Sprintf("kill %d, or write another listen in kiln.hcl", held[0]), "is taken by %s (process %d)", bytes.TrimSpace(who), held[0])
}

// commandLine returns the arguments of a process.
func commandLine(pid int) []string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
}

// holders returns which processes have a socket that listens on a TCP port.
func holders(port string) (pids []int) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	sockets := map[string]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, inode := range listening(string(raw), uint16(n)) {
			sockets["socket:["+inode+"]"] = true
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !sockets[target] {
			continue
		}
		if pid, _ := strconv.Atoi(strings.Split(link, "/")[2]); !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// listening returns the inodes of the sockets of a /proc/net/tcp table that
// listen on the port.
func listening(table string, port uint16) []string {
	var inodes []string
	for line := range strings.SplitSeq(table, "\n") {
		f := strings.Fields(line)
		if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}
