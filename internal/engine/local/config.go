package local

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// DefaultServerNet is where servers get their addresses, unless configured.
const DefaultServerNet = "198.18.0.0/16"

// leastServiceNet is how many bits of an address at most may name the network of
// services' names.
const leastServiceNet = 24

// Config says where an engine lives. Zero values are the defaults.
type Config struct {
	Instance   model.InstanceID
	DataDir    string        // what outlives a reboot
	RunDir     string        // what does not
	ServerNet  netip.Prefix  // servers' addresses; the first is the machine's end of every link
	ServiceNet netip.Prefix  // addresses of services' names
	Runtime    string        // path of another OCI runtime than the embedded runc, as crun
	Connect    time.Duration // how long New waits for containerd; 30 s: after a reboot nothing is in memory
	Vault      engine.Vault  // has the values that templates name; nil: none
	Log        *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if !model.ValidInstanceID(string(c.Instance)) {
		return c, model.Errorf(model.Invalid, "cannot start the engine: %q is no instance id", c.Instance)
	}
	if !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.RunDir) {
		return c, model.Errorf(model.Invalid, "cannot start the engine: its directories %q and %q must be absolute", c.DataDir, c.RunDir)
	}
	if !c.ServerNet.IsValid() {
		c.ServerNet = netip.MustParsePrefix(DefaultServerNet)
	}
	if !c.ServerNet.Addr().Is4() || c.ServerNet.Bits() > 29 {
		return c, model.Errorf(model.Invalid, "cannot start the engine: %s cannot hold servers", c.ServerNet).
			WithHint("choose an IPv4 network of at least 8 addresses, as %s", DefaultServerNet)
	}
	c.ServerNet = c.ServerNet.Masked()
	if !c.ServiceNet.IsValid() {
		c.ServiceNet = netip.MustParsePrefix(model.DefaultServiceNet)
	}
	c.ServiceNet = c.ServiceNet.Masked()
	if !c.ServiceNet.Addr().Is4() || c.ServiceNet.Bits() > leastServiceNet || c.ServiceNet.Overlaps(c.ServerNet) {
		return c, model.Errorf(model.Invalid, "cannot start the engine: %s cannot hold the names of services beside servers in %s", c.ServiceNet, c.ServerNet).
			WithHint("choose an IPv4 network of at least 256 addresses, as %s", model.DefaultServiceNet)
	}
	if c.Connect == 0 {
		c.Connect = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// The names that the machine sees.

func (c Config) socket() string    { return filepath.Join(c.RunDir, "containerd.sock") }
func (c Config) namespace() string { return "kiln-" + string(c.Instance) }
func (c Config) cgroup() string    { return "/kiln-" + string(c.Instance) }
func (c Config) table() string     { return "kiln-" + string(c.Instance) }
func (c Config) linkPrefix() string {
	return "k" + string(c.Instance)
}
func (c Config) link(id model.ServerID) string { return c.linkPrefix() + id.Six() }
func (c Config) netnsDir() string              { return filepath.Join(c.RunDir, "netns") }
func (c Config) netns(id model.ServerID) string {
	return filepath.Join(c.netnsDir(), string(id))
}
func (c Config) runcRoot() string   { return filepath.Join(c.RunDir, "runc") }
func (c Config) serversDir() string { return filepath.Join(c.DataDir, "servers") }
func (c Config) serverDir(id model.ServerID) string {
	return filepath.Join(c.serversDir(), string(id))
}

func (c Config) exitFile(id model.ServerID) string {
	return filepath.Join(c.serverDir(id), "exit")
}
func (c Config) logsDir() string { return filepath.Join(c.DataDir, "logs") }
func (c Config) logDir(id model.ServerID) string {
	return filepath.Join(c.logsDir(), string(id))
}

// ContainerdName is the name under which the kiln binary is containerd: cmd
// dispatches on it.
const ContainerdName = "containerd"

// ContainerdCommand returns the command that runs containerd for the instance.
// The engine does not start it: whoever supervises processes does. The path is
// a link to this binary, made here, so that machine and tools see the process
// under containerd's own name.
func ContainerdCommand(c Config) (path string, args []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("cannot find kiln's own binary: %w", err)
	}
	dir := filepath.Join(c.DataDir, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("cannot make a place for containerd: %w", err)
	}
	path = filepath.Join(dir, ContainerdName)
	if target, err := os.Readlink(path); err != nil || target != self {
		fresh := path + ".new"
		if err := os.Remove(fresh); err != nil && !os.IsNotExist(err) {
			return "", nil, fmt.Errorf("cannot link containerd: %w", err)
		}
		if err := os.Symlink(self, fresh); err != nil {
			return "", nil, fmt.Errorf("cannot link containerd: %w", err)
		}
		if err := os.Rename(fresh, path); err != nil {
			return "", nil, fmt.Errorf("cannot link containerd: %w", err)
		}
	}
	return path, []string{
		"--root", filepath.Join(c.DataDir, "containerd"),
		"--state", filepath.Join(c.RunDir, "containerd"),
		"--address", c.socket(),
	}, nil
}
