package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// baseline is what a server was when it was made, as far as its template alone
// does not say it. It is kept beside the record.
type baseline struct {
	Spec   string   `json:"spec"`   // digest of the runtime's configuration
	Mounts []string `json:"mounts"` // of its first process, as mountsOf writes them
	Spaces spaces   `json:"spaces"` // its first process's namespaces

	Limits map[string]uint64 `json:"limits"` // that its first process may raise its own to
	Groups []string          `json:"groups"` // hierarchies in which it has a control group
}

func (c Config) baselineFile(id model.ServerID) string {
	return filepath.Join(c.serverDir(id), "baseline.json")
}

// bundleFile is the runtime's configuration of the server.
func (c Config) bundleFile(id model.ServerID) string {
	return filepath.Join(c.RunDir, "containerd", "io.containerd.runtime.v2.task", c.namespace(), string(id), "config.json")
}

// takeBaseline writes down what the server is, before its program begins.
func (e *Engine) takeBaseline(id model.ServerID, pid int) error {
	b, err := e.baselineNow(id, pid)
	if err != nil {
		return err
	}
	return e.writeBaseline(id, b)
}

func (e *Engine) writeBaseline(id model.ServerID, b *baseline) error {
	packed, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return writeFile(e.baselineFile(id), packed, false)
}

func (e *Engine) baselineNow(id model.ServerID, pid int) (*baseline, error) {
	b := &baseline{Spaces: spacesOf(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid))}
	var err error
	if b.Mounts, err = mountsOf(pid); err != nil {
		return nil, err
	}
	spec, err := os.ReadFile(e.bundleFile(id))
	if err != nil {
		return nil, err
	}
	b.Spec = e.specDigest(id, spec)
	if b.Limits, err = hardLimits(pid); err != nil {
		return nil, err
	}
	b.Groups, err = e.groupsMade(id, pid)
	return b, err
}

// baseline returns what the server was when it was made; of what a kiln that
// made it did not write down, what it is now.
func (e *Engine) baseline(r *record) (*baseline, error) {
	packed, err := os.ReadFile(e.baselineFile(r.ID))
	var was *baseline
	if err == nil {
		err = json.Unmarshal(packed, &was)
	}
	if err == nil && was != nil && was.Limits != nil && was.Groups != nil {
		return was, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.Log.Warn("cannot read what a server was made with", "server", r.ID, "error", err)
	}
	earlier := err == nil && was != nil // written by a kiln that took down less
	now, err := e.baselineNow(r.ID, r.Process.PID)
	switch {
	case err != nil && earlier:
		return was, nil
	case err != nil:
		return nil, fmt.Errorf("cannot find out what %s was made with: %w", r.ID, err)
	case earlier:
		now.Spec, now.Mounts, now.Spaces = was.Spec, was.Mounts, was.Spaces
	}
	if err := e.writeBaseline(r.ID, now); err != nil {
		e.Log.Warn("cannot keep what a server was made with; it is compared with what it is now", "server", r.ID, "error", err)
	}
	return now, nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// mountsOf lists the mounts that a process sees: place, file system, root in
// it, options, and the options of file systems that are the server's own.
func mountsOf(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		super := ""
		if right[0] == "tmpfs" {
			super = right[2]
		}
		root := left[3]
		if right[0] == "cgroup" || right[0] == "cgroup2" {
			root = "" // relative to whoever asks
		}
		all = append(all, strings.TrimSpace(strings.Join([]string{left[4], right[0], root, left[5], super}, " ")))
	}
	slices.Sort(all)
	return all, nil
}

// inspectConfiguration compares the server's configuration, as the kernel and
// the runtime have it, with what it was made with.
func (e *Engine) inspectConfiguration(r *record) ([]model.Finding, error) {
	base, err := e.baseline(r)
	if err != nil {
		return nil, err
	}
	c := &configuration{e: e, r: r, base: base}
	c.spaces()
	c.limits()
	c.processes()
	err = errors.Join(c.mounts(), c.spec(), c.addresses())
	if !r.Process.runs(e.boot) {
		return nil, nil // what was read is of a server that has ended
	}
	return c.found, err
}

// configuration is one comparison.
type configuration struct {
	e     *Engine
	r     *record
	base  *baseline
	found []model.Finding
}

func (c *configuration) add(what, where, detail, how string) {
	c.found = append(c.found, model.Finding{
		Server: c.r.ID, Detector: model.DetectConfig, What: what, Where: where, Detail: detail, How: how,
	})
}

func (c *configuration) mounts() error {
	const how = "the mounts of its first process"
	now, err := mountsOf(c.r.Process.PID)
	if err != nil {
		return err
	}
	if slices.Equal(now, c.base.Mounts) {
		return nil
	}
	gone, come := subtract(c.base.Mounts, now), subtract(now, c.base.Mounts)
	for _, was := range gone {
		place, options, _ := strings.Cut(was, " ")
		i := slices.IndexFunc(come, func(m string) bool { return strings.HasPrefix(m, place+" ") })
		if i < 0 {
			c.add("mount removed", place, "wanted "+options, how)
			continue
		}
		_, seen, _ := strings.Cut(come[i], " ")
		c.add("mount changed", place, fmt.Sprintf("wanted %s, seen %s", options, seen), how)
		come = slices.Delete(come, i, i+1)
	}
	for _, is := range come {
		place, options, _ := strings.Cut(is, " ")
		c.add("mount added", place, "seen "+options, how)
	}
	return nil
}

// subtract returns the elements of a that b has not, as often as a has more.
func subtract(a, b []string) []string {
	have := map[string]int{}
	for _, s := range b {
		have[s]++
	}
	var rest []string
	for _, s := range a {
		if have[s]--; have[s] < 0 {
			rest = append(rest, s)
		}
	}
	return rest
}

func (c *configuration) spaces() {
	const how = "the namespaces of its first process"
	now := spacesOf(unix.AT_FDCWD, "/proc/"+strconv.Itoa(c.r.Process.PID))
	for i, kind := range spaceKinds {
		if now[i] != "" && now[i] != c.base.Spaces[i] {
			c.add("namespace changed", kind, fmt.Sprintf("wanted %s, seen %s", c.base.Spaces[i], now[i]), how)
		}
	}
}

// spec compares the runtime's configuration: the environment is taken from
// there, since programs write over the one that the kernel shows.
func (c *configuration) spec() error {
	const how = "the runtime's configuration"
	b, err := os.ReadFile(c.e.bundleFile(c.r.ID))
	if errors.Is(err, fs.ErrNotExist) {
		c.add("configuration removed", c.e.bundleFile(c.r.ID), "", how)
		return nil
	}
	if err != nil {
		return err
	}
	digest := c.e.specDigest(c.r.ID, b)
	if digest == c.base.Spec {
		return nil
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil || spec.Process == nil {
		c.add("configuration damaged", c.e.bundleFile(c.r.ID), fmt.Sprint(err), how)
		return nil
	}
	before := len(c.found)
	if len(c.r.Env) > 0 {
		was, now := slices.Sorted(slices.Values(c.e.environment(c.r))), slices.Sorted(slices.Values(spec.Process.Env))
		for _, v := range subtract(now, was) {
			name, _, _ := strings.Cut(v, "=") // not the value: it may be a secret
			c.add("environment changed", name, "it is set to something else than the template says", how)
		}
		for _, v := range subtract(was, now) {
			name, _, _ := strings.Cut(v, "=")
			if !slices.ContainsFunc(spec.Process.Env, func(have string) bool { return strings.HasPrefix(have, name+"=") }) {
				c.add("environment changed", name, "it is missing", how)
			}
		}
	}
	if len(c.found) == before {
		c.add("configuration changed", c.e.bundleFile(c.r.ID), "wanted digest "+c.base.Spec[:12]+", seen "+digest[:12], how)
	}
	return nil
}

// wantedRights returns what the server's processes may do, by the runtime's
// configuration.
func (e *Engine) wantedRights(r *record) rights {
	caps := capabilities(r.User)
	var w rights
	for _, name := range caps.Bounding {
		if bit, known := capabilityBits[name]; known {
			w.bounding |= 1 << bit
		}
	}
	// A server that another version made may have others than this one gives.
	b, err := os.ReadFile(e.bundleFile(r.ID))
	if err != nil {
		return w
	}
	var spec specs.Spec
	if json.Unmarshal(b, &spec) != nil || spec.Process == nil || spec.Process.Capabilities == nil {
		return w
	}
	w.known = slices.Equal(spec.Process.Capabilities.Bounding, caps.Bounding) && spec.Process.NoNewPrivileges && spec.Linux != nil && spec.Linux.Seccomp != nil
	return w
}

// capabilityBits are the numbers of what servers may have; capability.h.
var capabilityBits = map[string]uint{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_KILL": unix.CAP_KILL,
	"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CAP_SETGID": unix.CAP_SETGID, "CAP_SETUID": unix.CAP_SETUID,
}
