package local

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// The user and group ids that servers have on the machine lie in the upper half
// of all there are, where no distribution, no systemd and no /etc/subuid gives
// any out. Each server has a range of its own: its user 0 is the first.
const (
	idsPerServer = 1 << 16
	firstIDs     = 1 << 31
	idRanges     = 1<<15 - 1 // the last range would hold the id that means none
)

// idsFor returns the first id of the range for a server: it follows from the
// names, so that those of two kilns differ, but for one chance in 32,767; within
// one kiln the next free is taken.
func idsFor(instance model.InstanceID, id model.ServerID, taken map[uint32]bool) uint32 {
	sum := sha256.Sum256([]byte(string(instance) + "/" + string(id)))
	n := binary.BigEndian.Uint32(sum[:4]) % idRanges
	for range idRanges {
		if ids := firstIDs + n*idsPerServer; !taken[ids] {
			return ids
		}
		n = (n + 1) % idRanges
	}
	return firstIDs // more servers than a machine can have addresses for
}

// idsLocked returns the ids for a new server; 0 if it has those of the machine.
func (e *Engine) idsLocked(id model.ServerID, t model.Template) uint32 {
	if !t.UserNamespace {
		return 0
	}
	taken := map[uint32]bool{}
	for _, s := range e.servers {
		taken[s.record.IDs] = true
	}
	return idsFor(e.Instance, id, taken)
}

func (c Config) usernsDir() string { return filepath.Join(c.RunDir, "userns") }
func (c Config) userns(id model.ServerID) string {
	return filepath.Join(c.usernsDir(), string(id))
}

// letServersPass opens the run directory to those who know what they look for:
// a server's root file system is put together below it by a process that is
// nobody on the machine.
func (c Config) letServersPass() error {
	if err := os.Chmod(c.RunDir, 0o711); err != nil {
		return fmt.Errorf("cannot let servers pass the run directory: %w", err)
	}
	for dir := c.RunDir; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("cannot look at the run directory: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return model.Errorf(model.Precondition, "cannot run servers below %s: directory %s (mode %#o) lets only its owner pass, and servers are nobody on the machine",
				c.RunDir, dir, info.Mode().Perm()).WithHint("chmod o+x %s", dir)
		}
	}
	return nil
}

// namespaces are what runc has the server's process join or make.
func (c Config) namespaces(r *record) []specs.LinuxNamespace {
	spaces := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.CgroupNamespace},
		{Type: specs.NetworkNamespace, Path: c.netns(r.ID)},
	}
	if r.IDs != 0 {
		spaces = append(spaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: c.userns(r.ID)})
	}
	return spaces
}

// makeNamespaces makes a user namespace whose ids are those from first on, and a
// network namespace that belongs to it: so its root may do there what the
// machine's root may do in the machine's. They stay as long as the paths are
// mounted.
func makeNamespaces(user, network string, first uint32) error {
	for _, path := range []string{user, network} {
		if err := makeMountPoint(path); err != nil {
			return err
		}
	}
	// The namespaces' first process is a copy of this one that stops before its
	// first instruction. It is traced by the thread that made it, and dies with
	// that.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(first), Size: idsPerServer}}
	child, err := os.StartProcess("/proc/self/exe", []string{"kiln"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: unix.SIGKILL,
	}})
	if err != nil {
		return model.Errorf(model.Precondition, "cannot make a user namespace: %w", err).
			WithHint("see sysctl user.max_user_namespaces, or user_namespace = false")
	}
	for path, kind := range map[string]string{user: "user", network: "net"} {
		from := fmt.Sprintf("/proc/%d/ns/%s", child.Pid, kind)
		if mounting := unix.Mount(from, path, "none", unix.MS_BIND, ""); err == nil {
			err = mounting
		}
	}
	err = errors.Join(err, child.Kill())
	_, _ = child.Wait() // it was killed
	return err
}

func makeMountPoint(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

// removeMountPoint lets go of what is mounted on the file; absent is done.
func removeMountPoint(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot release namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// mapIDs has the image's files seem to belong, in the server, to whom they
// belong in the image: the layers are taken from a mount that maps the ids, so
// that not one file is changed. That mount is needed until the layers are put
// together; the caller then calls release.
func (e *Engine) mapIDs(r *record, mounts []mount.Mount) (mapped []mount.Mount, release func(), err error) {
	if r.IDs == 0 {
		return mounts, func() {}, nil
	}
	if r.Upper == "" || len(r.Lowers) == 0 {
		return nil, nil, fmt.Errorf("cannot map the ids of a file system without layers: %v", mounts)
	}
	if err := chownBy(r.Upper, r.IDs); err != nil {
		return nil, nil, err
	}
	space, err := os.Open(e.userns(r.ID))
	if err != nil {
		return nil, nil, err
	}
	defer space.Close()
	layers := filepath.Dir(filepath.Dir(r.Upper)) // LAYERS/NUMBER/fs
	at := filepath.Join(e.mountsDir(), string(r.ID))
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, nil, err
	}
	release = func() {
		_ = unix.Unmount(at, unix.MNT_DETACH)
		_ = os.Remove(at) // what stays is removed when the engine is opened
	}
	if err := mount.IDMapMountWithAttrs(layers, at, int(space.Fd()), unix.MOUNT_ATTR_RDONLY, 0); err != nil {
		release()
		return nil, nil, model.Errorf(model.Precondition, "cannot map the ids of the images' files in %s: %w", layers, err).
			WithHint("the data directory has to lie on a file system that can be mounted with mapped ids (ext4, xfs, btrfs; Linux 5.19 or newer), or user_namespace = false")
	}
	lowers := make([]string, 0, len(r.Lowers))
	for _, lower := range r.Lowers {
		rest, ok := strings.CutPrefix(lower, layers+"/")
		if !ok {
			release()
			return nil, nil, fmt.Errorf("cannot map the ids of layer %s: it does not lie in %s", lower, layers)
		}
		lowers = append(lowers, filepath.Join(at, rest))
	}
	return withLowers(mounts, lowers), release, nil
}

// chownBy adds the offset to the ids that the directory belongs to.
func chownBy(dir string, offset uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("cannot find whose %s is: %w", dir, err)
	}
	return os.Chown(dir, int(offset+st.Uid), int(offset+st.Gid))
}

// withLowers returns the overlay mounts with other layers below.
func withLowers(mounts []mount.Mount, lowers []string) []mount.Mount {
	changed := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		options := make([]string, 0, len(m.Options))
		for _, o := range m.Options {
			if strings.HasPrefix(o, "lowerdir=") {
				o = "lowerdir=" + strings.Join(lowers, ":")
			}
			options = append(options, o)
		}
		m.Options = options
		changed = append(changed, m)
	}
	return changed
}
