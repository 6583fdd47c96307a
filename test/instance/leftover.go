package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Leftovers returns everything of the instance that the machine still has,
// its data directory left out.
func (i *Instance) Leftovers(ctx context.Context) ([]string, error) {
	var left []string
	processes, err := i.Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		left = append(left, fmt.Sprintf("process %d (%s): %s", p.PID, p.Role, p.Name))
	}
	mounts, err := i.mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if !slices.Contains(i.Disks, m) {
			left = append(left, "mount "+m)
		}
	}
	id := i.ID()
	if id == "" {
		return left, nil
	}
	links, err := i.links(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		left = append(left, "link "+l)
	}
	tables, err := exec.CommandContext(ctx, "nft", "list", "tables").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables: %w", err)
	}
	for line := range strings.Lines(string(tables)) {
		if strings.Contains(line, id) {
			left = append(left, "nft "+strings.TrimSpace(line))
		}
	}
	run := filepath.Join("/run/kiln", id)
	if _, err := os.Stat(run); err == nil && !slices.Contains(i.Disks, run) {
		left = append(left, "directory /run/kiln/"+id)
	}
	for _, c := range i.cgroups() {
		left = append(left, "control group "+c)
	}
	return left, nil
}

// mounts returns the mount points of the instance, innermost first.
func (i *Instance) mounts() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := fields[4]
		id := i.ID()
		if strings.HasPrefix(at, i.Data+"/") || id != "" && strings.Contains(at, "/kiln/"+id) {
			found = append([]string{at}, found...)
		}
	}
	return found, nil
}

func (i *Instance) links(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ip", "-o", "link").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list links: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], "k"+i.ID()) {
			name, _, _ := strings.Cut(strings.TrimSuffix(fields[1], ":"), "@")
			found = append(found, name)
		}
	}
	return found, nil
}

// cgroups returns the control groups that carry the instance's id, deepest
// first.
func (i *Instance) cgroups() []string {
	var found []string
	id := i.ID()
	if id == "" {
		return nil
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		// A group that went away meanwhile is none.
		if err == nil && d.IsDir() && strings.Contains(p, id) {
			found = append([]string{p}, found...)
		}
		return nil
	})
	return found
}

// Purge removes everything of the instance by force, whatever state it is in.
func (i *Instance) Purge(ctx context.Context) error {
	i.Disks = nil
	err := i.clear(ctx)
	left, lerr := i.Leftovers(ctx)
	errs := []error{err, lerr}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("left after a purge: %s", strings.Join(left, "; ")))
	}
	return errors.Join(append(errs, os.RemoveAll(i.Data))...)
}

// Reboot does to the instance what a reboot of the machine does: every process
// ends at once, what is in memory is gone, and the boot has another name. If it
// is dirty, links, mounts, namespaces and the run directory stay behind, as no
// reboot leaves them, but a killed machine-wide manager may.
func (i *Instance) Reboot(ctx context.Context, dirty bool) error {
	var err error
	if dirty {
		err = i.endAll()
	} else {
		err = i.clear(ctx)
	}
	name := fmt.Sprintf("%d\n", time.Now().UnixNano())
	return errors.Join(err, os.WriteFile(i.Boot, []byte(name), 0o644))
}

// clear ends every process and removes everything outside of the data
// directory.
func (i *Instance) clear(ctx context.Context) error {
	id := i.ID() // its disk may be one of the mounts
	errs := []error{i.endAll()}
	if mounts, err := i.mounts(); err == nil {
		for _, m := range mounts {
			_ = syscall.Unmount(m, syscall.MNT_DETACH) // what stays is found by Leftovers
		}
	}
	if id == "" {
		return errors.Join(errs...)
	}
	links, err := i.links(ctx)
	errs = append(errs, err)
	for _, l := range links {
		_ = exec.CommandContext(ctx, "ip", "link", "del", l).Run()
	}
	tables, _ := exec.CommandContext(ctx, "nft", "list", "tables").Output()
	for line := range strings.Lines(string(tables)) {
		if strings.Contains(line, id) {
			args := append([]string{"delete"}, strings.Fields(line)...)
			_ = exec.CommandContext(ctx, "nft", args...).Run()
		}
	}
	errs = append(errs, os.RemoveAll(filepath.Join("/run/kiln", id)))
	for _, c := range i.cgroups() {
		_ = os.Remove(c)
	}
	return errors.Join(errs...)
}
