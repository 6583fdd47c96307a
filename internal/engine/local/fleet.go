package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/typeurl/v2"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"

	"kiln/internal/model"
)

// InspectFleet implements engine.Inspector.
func (e *Engine) InspectFleet(ctx context.Context) ([]model.Finding, error) {
	ctx, cancel := context.WithTimeout(e.scoped(ctx), 10*time.Second)
	defer cancel()
	f := &fleet{e: e}
	if err := errors.Join(f.tasks(ctx), f.snapshots(ctx), f.firewall(), f.links()); err != nil {
		return f.found, model.Errorf(model.Unavailable, "cannot look at all of the fleet: %w", err)
	}
	e.forgetLayers()
	return f.found, nil
}

// fleet is one look at what belongs to no server.
type fleet struct {
	e     *Engine
	found []model.Finding
}

func (f *fleet) add(what, where, detail, how string) {
	f.found = append(f.found, model.Finding{
		Detector: model.DetectFleet, What: what, Where: where, Detail: detail, How: how, At: time.Now().UTC(),
	})
}

// tasks finds what runs in kiln's namespace of containerd and is neither a
// server nor a step of a build.
func (f *fleet) tasks(ctx context.Context) error {
	const how = "the tasks in containerd's namespace"
	running, err := f.e.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return containerdError(err, "list the tasks")
	}
	for _, t := range running.Tasks {
		if _, r := f.e.lookup(model.ServerID(t.ID)); r != nil {
			continue
		}
		c, err := f.e.client.ContainerService().Get(ctx, t.ID)
		if err != nil {
			continue // it is being made or removed
		}
		if c.Labels[serverLabel] == t.ID || f.ofBuild(c.Spec) {
			continue // what is left of a server is an orphan, which is removed
		}
		f.add("foreign task", t.ID, fmt.Sprintf("process %d", t.Pid), how)
	}
	return nil
}

// ofBuild reports whether a container is a step of a build, by its control group.
func (f *fleet) ofBuild(packed typeurl.Any) bool {
	var spec specs.Spec
	if packed == nil || typeurl.UnmarshalTo(packed, &spec) != nil || spec.Linux == nil {
		return false
	}
	return strings.HasPrefix(spec.Linux.CgroupsPath, f.e.cgroup()+"/build")
}

// buildSnapshot is what the builder calls its snapshots.
var buildSnapshot = regexp.MustCompile(`^[a-z0-9]{25}(-view)?$`)

// snapshots finds file systems in kiln's namespace that neither kiln nor its
// builder has made.
func (f *fleet) snapshots(ctx context.Context) error {
	const how = "the snapshots in containerd's namespace"
	err := f.e.client.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		name := info.Name
		switch {
		case strings.HasPrefix(name, "sha256:"), strings.HasPrefix(name, "kiln-"), strings.HasPrefix(name, "extract-"), buildSnapshot.MatchString(name):
		default:
			f.add("foreign snapshot", name, "made "+info.Created.UTC().Format("2006-01-02 15:04:05"), how)
		}
		return nil
	})
	if err != nil {
		return containerdError(err, "list the snapshots")
	}
	return nil
}

// firewall compares the instance's table with what kiln put there.
func (f *fleet) firewall() error {
	const how = "the instance's nftables table"
	n := f.e.network.names
	n.mu.Lock()
	defer n.mu.Unlock()
	now, err := readFirewall(f.e.Config)
	if err != nil {
		return err
	}
	if len(now) == 0 {
		f.add("firewall removed", "table "+f.e.table(), "", how)
		return nil
	}
	flags, err := tableFlags(f.e.Config)
	if err != nil {
		return err
	}
	if flags != 0 {
		f.add("firewall table changed", "table "+f.e.table(), flagWords(flags), how)
	}
	for _, chain := range slices.Sorted(maps.Keys(n.wall)) {
		switch rules, there := now[chain]; {
		case !there:
			f.add("firewall chain removed", chain, "", how)
		case !slices.Equal(rules, n.wall[chain]):
			f.add("firewall chain changed", chain, fmt.Sprintf("wanted %d rules, seen %d, or others", len(n.wall[chain])-1, len(rules)-1), how)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(now)) {
		if _, wanted := n.wall[chain]; !wanted {
			f.add("firewall chain added", chain, "", how)
		}
	}
	return f.members(n, how)
}

// members compares who may reach which service's name.
func (f *fleet) members(n *names, how string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot reach nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: f.e.table()}
	elements, err := conn.GetSetElements(membersSet(table))
	if err != nil {
		f.add("firewall set removed", namesSet, "", how)
		return nil //nolint:nilerr // it is gone
	}
	wanted := map[string]bool{}
	for m := range n.members {
		wanted[string(m.element().Key)] = true
	}
	for _, el := range elements {
		if !wanted[string(el.Key)] {
			f.add("firewall set changed", namesSet, "something may reach a service's name that should not", how)
		}
		delete(wanted, string(el.Key))
	}
	if len(wanted) > 0 {
		f.add("firewall set changed", namesSet, "a server may not reach a service's name that it should", how)
	}
	return nil
}

// tableFlags returns the flags of the instance's table. kiln sets none.
func tableFlags(c Config) (uint32, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("cannot reach nftables: %w", err)
	}
	table, err := conn.ListTableOfFamily(c.table(), nftables.TableFamilyINet)
	if err != nil {
		return 0, fmt.Errorf("cannot read the firewall: %w", err)
	}
	// The kernel has them in the network's order, and the library reads them in
	// the machine's.
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, table.Flags)), nil
}

func flagWords(flags uint32) string {
	const dormant = 1 // NFT_TABLE_F_DORMANT
	if flags&dormant != 0 {
		return "it is dormant: none of its rules is in force"
	}
	return fmt.Sprintf("wanted no flags, seen %#x", flags)
}

// readFirewall returns what the kernel has in the instance's table: for each
// chain how it hooks in, and its rules, without what they have counted.
func readFirewall(c Config) (map[string][]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot reach nftables: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("cannot read the firewall: %w", err)
	}
	all := map[string][]string{}
	for _, chain := range chains {
		if chain.Table.Name != c.table() {
			continue
		}
		head := string(chain.Type)
		if chain.Hooknum != nil && chain.Priority != nil {
			head += fmt.Sprint(" hook ", *chain.Hooknum, " priority ", *chain.Priority)
		}
		if chain.Policy != nil {
			head += fmt.Sprint(" policy ", *chain.Policy)
		}
		lines := []string{head}
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("cannot read the firewall: %w", err)
		}
		for _, rule := range rules {
			var words []string
			for _, x := range rule.Exprs {
				if _, counts := x.(*expr.Counter); counts {
					x = &expr.Counter{}
				}
				words = append(words, fmt.Sprintf("%T%+v", x, x))
			}
			lines = append(lines, strings.Join(words, " "))
		}
		all[chain.Name] = lines
	}
	return all, nil
}

// links finds links of the instance's that belong to nobody, and addresses of
// services' names that are gone.
func (f *fleet) links() error {
	const how = "the machine's links"
	known := map[string]bool{}
	f.e.noteSixes(known)
	names, err := f.e.network.links()
	if err != nil {
		return err
	}
	f.e.noteSixes(known) // one that was made meanwhile
	for _, name := range names {
		if six := strings.TrimPrefix(name, f.e.linkPrefix()); !known[six] {
			f.add("link added", name, "it belongs to no server", how)
		}
	}
	n := f.e.network.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.have) == 0 {
		return nil
	}
	link, err := netlink.LinkByName(f.e.namesLink())
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		f.add("link removed", f.e.namesLink(), "the addresses of services' names were on it", how)
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for link %s: %w", f.e.namesLink(), err)
	}
	routes, err := localRoutes(link)
	if err != nil {
		return err
	}
	for address := range n.have {
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool {
			a, ok := netip.AddrFromSlice(r.Dst.IP.To4())
			return ok && a == address
		}) {
			f.add("link changed", f.e.namesLink(), "the address "+address.String()+" of a service's name is gone", how)
		}
	}
	return nil
}

// Mend implements engine.Mender: it puts the firewall and the addresses of
// services' names back, and removes links that belong to nobody.
func (e *Engine) Mend(ctx context.Context) error {
	n := e.network.names
	if err := n.mend(); err != nil {
		return err
	}
	if err := n.update(e.records, nil); err != nil {
		return err
	}
	return e.sweepLinks(ctx)
}

// sweepLinks removes links that belong to no server.
func (e *Engine) sweepLinks(ctx context.Context) error {
	links, err := e.network.links()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	e.noteSixes(known)
	for _, name := range links {
		if known[strings.TrimPrefix(name, e.linkPrefix())] || ctx.Err() != nil {
			continue
		}
		e.Log.Info("removing a link that belongs to no server", "link", name)
		if err := removeLink(name); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// mend puts the firewall back, and finds out which addresses are left.
func (n *names) mend() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := installFirewall(n.config, n.members); err != nil {
		return err
	}
	n.ruled = len(n.members) > 0
	var err error
	if n.wall, err = readFirewall(n.config); err != nil {
		return err
	}
	n.have = map[netip.Addr]bool{}
	link, err := netlink.LinkByName(n.config.namesLink())
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for link %s: %w", n.config.namesLink(), err)
	}
	return n.findLocked(link)
}
