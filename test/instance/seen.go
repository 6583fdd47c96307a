package instance

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// serverID is a server's id as a part of a path or an argument.
var serverID = regexp.MustCompile(`^[a-z][a-z0-9-]*-[a-z2-7]{6}$`)

// Strays returns what the machine has of servers that are not among those: shims,
// processes, links, network namespaces, mounts and control groups.
func (i *Instance) Strays(ctx context.Context, servers []string) ([]string, error) {
	known := map[string]bool{"kiln-" + i.ID(): true} // a name like a server's, of containerd's namespace
	for _, id := range servers {
		known[id] = true
		known["k"+i.ID()+id[strings.LastIndexByte(id, '-')+1:]] = true
	}
	strays := map[string]bool{}
	look := func(kind string, names ...string) {
		for _, name := range names {
			if serverID.MatchString(name) && !known[name] {
				strays[kind+" of "+name] = true
			}
		}
	}
	processes, err := i.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		switch p.Role {
		case "shim":
			look("shim", strings.Fields(p.Name)...)
		case "server":
			for line := range strings.Lines(p.Unit) {
				look("process", strings.Split(strings.TrimSpace(line), "/")...)
			}
		}
	}
	mounts, err := i.mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		look("mount", strings.Split(m, "/")...)
	}
	for _, g := range i.cgroups() {
		look("control group", filepath.Base(g))
	}
	namespaces, _ := os.ReadDir(filepath.Join("/run/kiln", i.ID(), "netns")) // none: none
	for _, n := range namespaces {
		look("network namespace", n.Name())
	}
	links, err := i.links(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if !known[l] && !strings.Contains(l, "-") { // the builder's has one
			strays["link "+l] = true
		}
	}
	return slices.Sorted(maps.Keys(strays)), nil
}

// ShimOf returns the process that is the shim of a server; 0: there is none.
func (i *Instance) ShimOf(server string) (int, error) {
	processes, err := i.Processes()
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		if p.Role == "shim" && slices.Contains(strings.Fields(p.Name), server) {
			return p.PID, nil
		}
	}
	return 0, nil
}
