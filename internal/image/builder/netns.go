package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/oci"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/util/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// insideEnv tells the process that it was replaced by itself inside its
// network namespace, and which descriptors it got from before:
// lock:hostnetns:address.
const insideEnv = "KILN_BUILDER_INSIDE"

// netns is the builder's network namespace. Its fields are fixed.
type netns struct {
	path    string // a bind mount that keeps the namespace, for the steps
	link    string // the host's end
	table   string // of nftables
	address netip.Addr
	host    int // a descriptor of the host's namespace
	lock    *os.File
	log     *slog.Logger
}

func newNetns(cfg Config) *netns {
	return &netns{
		path:  filepath.Join(cfg.RunDir, "builder.netns"),
		link:  "k" + string(cfg.Instance) + "-build", // no server's link has a "-"
		table: "kiln-" + string(cfg.Instance) + "-build",
		log:   cfg.Log,
	}
}

// RemoveNetwork removes the network of an instance's builder that was killed. No
// builder of the instance may run.
func RemoveNetwork(instance model.InstanceID, runDir string, log *slog.Logger) {
	newNetns(Config{Instance: instance, RunDir: runDir, Log: log}).removeRemnants()
}

// enterNetwork puts the whole process into a network namespace of its own. It
// returns only inside: before, the process makes the namespace and replaces
// itself, since no thread of a Go program may stay outside.
func enterNetwork(cfg Config, lockPath string) (*netns, error) {
	n := newNetns(cfg)
	if v := os.Getenv(insideEnv); v != "" {
		return n, n.inherit(v)
	}
	lock, err := takeLock(lockPath, filepath.Join(cfg.RunDir, SocketName))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := n.make(cfg); err != nil {
		n.remove()
		return nil, model.Errorf(model.Unavailable, "cannot make the builder's network: %w", err)
	}
	err = n.replaceProcess(lock)
	n.remove()
	return nil, model.Errorf(model.Unavailable, "cannot enter the builder's network: %w", err)
}

// make makes the namespace, its link to the host and its filter.
func (n *netns) make(cfg Config) error {
	n.removeRemnants()
	host, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.host = host
	if err := keepNamespace(n.path); err != nil {
		return err
	}
	if err := n.connect(cfg.Instance, cfg.Network); err != nil {
		return err
	}
	return n.filter()
}

// keepNamespace makes an empty network namespace and mounts it at path.
func keepNamespace(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	return <-done
}

// replaceProcess executes the same program with the same arguments inside the
// namespace. It returns only if that fails.
func (n *netns) replaceProcess(lock *os.File) error {
	inside, err := os.Open(n.path)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	for _, fd := range []int{n.host, int(lock.Fd())} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	state := fmt.Sprintf("%d:%d:%s", lock.Fd(), n.host, n.address)
	runtime.LockOSThread() // exec keeps the namespace of the thread that calls it
	defer runtime.UnlockOSThread()
	if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = syscall.Exec(exe, os.Args, append(os.Environ(), insideEnv+"="+state))
	return errors.Join(err, unix.Setns(n.host, unix.CLONE_NEWNET))
}

// inherit takes over what replaceProcess left.
func (n *netns) inherit(state string) error {
	if err := os.Unsetenv(insideEnv); err != nil { // not for git and other children
		return err
	}
	parts := strings.Split(state, ":")
	if len(parts) != 3 {
		return model.Errorf(model.Internal, "cannot start the builder: %s is %q", insideEnv, state)
	}
	lockFD, err1 := strconv.Atoi(parts[0])
	host, err2 := strconv.Atoi(parts[1])
	address, err3 := netip.ParseAddr(parts[2])
	if err := errors.Join(err1, err2, err3); err != nil {
		return model.Errorf(model.Internal, "cannot start the builder: %s is %q", insideEnv, state)
	}
	unix.CloseOnExec(lockFD)
	unix.CloseOnExec(host)
	n.lock, n.host, n.address = os.NewFile(uintptr(lockFD), "lock"), host, address
	return nil
}

// inHost runs do on a thread that is in the host's network namespace. Sockets
// that do opens stay there.
func (n *netns) inHost(do func() error) error { return inNamespace(n.host, do) }

// inNamespace runs do on a thread that is in the network namespace fd.
func inNamespace(fd int, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- do()
	}()
	return <-done
}

// remove takes the namespace and all that belongs to it off the machine.
func (n *netns) remove() {
	if n.host == 0 {
		return
	}
	if err := n.inHost(func() error { n.removeRemnants(); return nil }); err != nil {
		n.log.Warn("cannot remove the builder's network", "error", err)
	}
	if n.lock != nil {
		n.lock.Close()
	}
}

// removeRemnants removes what bears the names of this instance's builder. It
// runs in the host's namespace.
func (n *netns) removeRemnants() {
	if err := n.disconnect(); err != nil {
		n.log.Warn("cannot remove the builder's link", "link", n.link, "error", err)
	}
	if err := n.unfilter(); err != nil {
		n.log.Warn("cannot remove the builder's packet filter", "table", n.table, "error", err)
	}
	if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		n.log.Warn("cannot unmount the builder's network namespace", "path", n.path, "error", err)
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.log.Warn("cannot remove the builder's network namespace", "path", n.path, "error", err)
	}
}

// New implements network.Provider: all steps share the builder's namespace,
// which holds nothing but its link to the outside, but those that have one of
// their own.
func (n *netns) New(ctx context.Context, _ string, _ network.NamespaceOptions) (network.Namespace, error) {
	if own, ok := ctx.Value(stepKey{}).(string); ok {
		return joined{path: own}, nil
	}
	return joined{path: n.path}, nil
}

// Close implements network.Provider.
func (n *netns) Close() error { return nil }

// joined is the builder's namespace as a step sees it.
type joined struct{ path string }

// Set implements network.Namespace.
func (j joined) Set(s *specs.Spec) error {
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: j.path})(nil, nil, nil, s)
}

// Close implements network.Namespace.
func (j joined) Close() error { return nil }

// Sample implements network.Namespace.
func (j joined) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil }
