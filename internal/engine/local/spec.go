package local

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/engine/local/exitfile"
	"kiln/internal/engine/local/privateenv"
	"kiln/internal/model"
)

// Sizes of the writable places that every server has, in bytes.
const (
	tmpSize = 64 << 20
	runSize = 16 << 20
	shmSize = 16 << 20
)

// rootCapabilities is what a process of user 0 has; the package's comment says
// why. Another user has none.
var rootCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID",
}

// spec is the OCI configuration of a server.
func (e *Engine) spec(ctx context.Context, r *record, p *plan) (*oci.Spec, error) {
	s, err := oci.GenerateSpec(e.scoped(ctx), nil, &containers.Container{ID: string(r.ID)})
	if err != nil {
		return nil, fmt.Errorf("cannot make the configuration of %s: %w", r.ID, err)
	}
	s.Root.Readonly = true
	s.Hostname = string(r.ID)
	s.Annotations = map[string]string{exitfile.Annotation: e.exitFile(r.ID)}
	if r.Template.HasSecretEnv() {
		s.Annotations[privateenv.Annotation] = e.secretDir(r.ID)
	}
	s.Process = serverProcess(p)
	s.Mounts = e.mounts(r, p)
	s.Linux.CgroupsPath = filepath.Join(e.cgroup(), string(r.ID))
	s.Linux.Namespaces = e.namespaces(r)
	if r.IDs != 0 {
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.IDs, Size: idsPerServer}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	// Any user may bind any port: a server's ports are its own.
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	limit(s.Linux.Resources, r.Template.Resources)
	// Last: which system calls pass depends on the capabilities.
	s.Linux.Seccomp = seccompProfile(s)
	return s, nil
}

var nativeArch = map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}

// seccompProfile is the default one for programs of this machine's own kind. It
// leaves out those of its 32-bit ancestors: their system calls are one more way
// into the kernel, and loading the profile for three kinds takes as long as the
// rest of a start.
func seccompProfile(s *oci.Spec) *specs.LinuxSeccomp {
	profile := seccomp.DefaultProfile(s)
	if own, known := nativeArch[runtime.GOARCH]; known {
		profile.Architectures = []specs.Arch{own}
	}
	return profile
}

// serverProcess is the main process; commands that are run in the server differ
// from it in their arguments only.
func serverProcess(p *plan) *specs.Process {
	none := 0
	process := &specs.Process{
		Args:            p.args,
		Env:             p.env,
		Cwd:             p.cwd,
		User:            specs.User{UID: p.user.UID, GID: p.user.GID, AdditionalGids: p.user.Groups},
		Capabilities:    capabilities(p.user),
		NoNewPrivileges: true,
		// Without a value it would be the shim's, which the kernel spares.
		OOMScoreAdj: &none,
		Rlimits:     []specs.POSIXRlimit{openFiles(), {Type: "RLIMIT_CORE"}},
	}
	return process
}

// openFiles is how many files a process may have open, where the machine lets
// kiln give that many.
func openFiles() specs.POSIXRlimit {
	limit := specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 65536, Hard: 524288}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err == nil {
		limit.Hard = min(limit.Hard, own.Max)
		limit.Soft = min(limit.Soft, limit.Hard)
	}
	return limit
}

func capabilities(u execUser) *specs.LinuxCapabilities {
	if u.UID != 0 {
		return &specs.LinuxCapabilities{}
	}
	c := slices.Clone(rootCapabilities)
	return &specs.LinuxCapabilities{Bounding: c, Permitted: c, Effective: c}
}

func (e *Engine) mounts(r *record, p *plan) []specs.Mount {
	dir := e.serverDir(r.ID)
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		tmpfs("/dev/shm", shmSize, 0o1777, execUser{}),
		tmpfs("/tmp", tmpSize, 0o1777, execUser{}),
		tmpfs("/run", runSize, 0o755, p.user),
	}
	for _, place := range r.Template.Ephemeral {
		at := filepath.Clean(place.Path)
		mode := p.modes[at]
		if mode == 0 {
			mode = 0o755
		}
		mounts = append(mounts, tmpfs(at, place.Size, mode, p.user))
	}
	mounts = append(mounts, e.volumeMounts(r)...)
	for _, file := range ownFiles {
		mounts = append(mounts, specs.Mount{
			Destination: file, Type: "bind", Source: filepath.Join(dir, filepath.Base(file)),
			Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"},
		})
	}
	return append(mounts, e.valueMounts(r)...)
}

func tmpfs(at string, size int64, mode uint32, owner execUser) specs.Mount {
	options := []string{"nosuid", "nodev", fmt.Sprintf("mode=%o", mode)}
	if size > 0 {
		options = append(options, fmt.Sprintf("size=%d", size))
	}
	if owner.UID != 0 || owner.GID != 0 {
		options = append(options, fmt.Sprintf("uid=%d", owner.UID), fmt.Sprintf("gid=%d", owner.GID))
	}
	return specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// limit sets what is bounded; zero is no bound.
func limit(to *specs.LinuxResources, r model.Resources) {
	if r.Memory > 0 {
		to.Memory = &specs.LinuxMemory{Limit: &r.Memory}
		if swapAccounted() {
			// No swap beside it: a server that needs more is too big.
			to.Memory.Swap = &r.Memory
		}
	}
	if r.CPU > 0 {
		period, quota := uint64(cpuPeriod), cpuQuota(r.CPU)
		to.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if r.PIDs > 0 {
		to.Pids = &specs.LinuxPids{Limit: &r.PIDs}
	}
}

// cpuPeriod is how often a server gets its quota of the processors anew, in
// microseconds.
const cpuPeriod = 100_000

// cpuQuota is what a server has of each period, by its thousandths of a
// processor: not less than the kernel takes.
func cpuQuota(thousandths int64) int64 { return max(thousandths*cpuPeriod/1000, 1000) }
