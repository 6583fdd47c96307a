package builder

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/image"
	"kiln/internal/model"
)

const (
	cgroupRoot     = "/sys/fs/cgroup"
	remnantsLeave  = 5 * time.Second // how long killed processes may take to be gone
	remnantsAgain  = 20 * time.Millisecond
	procDir        = "/proc"
	shimNamespace  = "-namespace"
	shimContainer  = "-id"
	cgroupProcFile = "cgroup.procs"
)

// cgroupParent is the control group below which steps run.
func cgroupParent(id model.InstanceID) string { return "/kiln-" + string(id) + "/build" }

// removeRemnants removes what the steps of a killed builder left: containers,
// and, where containerd was making one and lost it, its processes and its shim.
func removeRemnants(ctx context.Context, cfg Config, store *image.Store) error {
	if err := store.Sweep(ctx); err != nil {
		return err
	}
	if err := killSteps(cfg.Instance, cfg.Log); err != nil {
		return model.Errorf(model.Unavailable, "cannot end what a killed builder left running: %w", err)
	}
	return killOrphanedShims(ctx, cfg, store)
}

// killSteps ends every process in the builder's control groups.
func killSteps(id model.InstanceID, log *slog.Logger) error {
	for deadline := time.Now().Add(remnantsLeave); ; time.Sleep(remnantsAgain) {
		left := map[int]bool{}
		for _, top := range cgroups(id) {
			for _, dir := range tree(top) {
				for _, pid := range processes(filepath.Join(dir, cgroupProcFile)) {
					left[pid] = true
				}
			}
		}
		if len(left) == 0 {
			return nil
		}
		for pid := range left {
			log.Info("ending the remnant of a step", "pid", pid)
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return errors.New("processes do not end: " + strconv.Itoa(len(left)))
		}
	}
}

// killOrphanedShims ends the shims of the instance whose container is gone.
func killOrphanedShims(ctx context.Context, cfg Config, store *image.Store) error {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot look for shims: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		id := shimOf(pid, image.Namespace(cfg.Instance))
		if id == "" {
			continue
		}
		// The container was there before its shim, and goes after it.
		there, err := store.HasContainer(ctx, id)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		cfg.Log.Info("ending a shim without a container", "pid", pid, "container", id)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return model.Errorf(model.Unavailable, "cannot end the shim %d: %w", pid, err)
		}
	}
	return nil
}

// shimOf returns the id of the container of which a process is the shim, if it
// is one of the namespace, or "".
func shimOf(pid int, namespace string) string {
	line, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return ""
	}
	args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") || value(args, shimNamespace) != namespace {
		return ""
	}
	return value(args, shimContainer)
}

// value returns what follows a flag.
func value(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func processes(file string) []int {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil // it is gone, and they with it
	}
	var pids []int
	for word := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cgroups returns where the builder's control groups are or would be: there is
// one hierarchy of version 2, and one for each controller of version 1.
func cgroups(id model.InstanceID) []string {
	tops := []string{filepath.Join(cgroupRoot, cgroupParent(id))}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil // no control groups here
	}
	for _, e := range entries {
		if e.IsDir() {
			tops = append(tops, filepath.Join(cgroupRoot, e.Name(), cgroupParent(id)))
		}
	}
	return tops
}

// removeCgroups removes the builder's control groups, which are empty.
func removeCgroups(id model.InstanceID, log *slog.Logger) {
	for _, top := range cgroups(id) {
		for _, dir := range slices.Backward(tree(top)) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				log.Warn("cannot remove a control group of the builder", "path", dir, "error", err)
			}
		}
	}
}

// tree returns the directories of a tree, parents first.
func tree(top string) []string {
	var dirs []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // what is gone meanwhile is not in it
	})
	return dirs
}
