package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// plan is what a template means on its image: the same for each of its servers.
type plan struct {
	parent     string   // the snapshot that servers' file systems begin with
	lowers     []string // its directories, uppermost first
	args       []string
	env        []string
	cwd        string
	user       execUser
	stopSignal string
	modes      map[string]uint32 // of the image's directories at ephemeral places
	owners     map[string]owner  // of the image's directories at volumes
}

// planCache keeps the plans of the last templates.
type planCache struct {
	mu    sync.Mutex
	plans map[string]*plan // by the template's hash
}

const maxPlans = 64

func (c *planCache) lookup(hash string) *plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plans[hash]
}

func (c *planCache) keep(hash string, p *plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans == nil || len(c.plans) >= maxPlans {
		c.plans = map[string]*plan{}
	}
	c.plans[hash] = p
}

func (c *planCache) forget(hash string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.plans, hash)
}

// plan finds out what the template means, and refuses what can never run.
func (e *Engine) plan(ctx context.Context, t model.Template) (*plan, error) {
	hash := t.Hash()
	if p := e.plans.lookup(hash); p != nil {
		if _, err := e.client.SnapshotService(snapshotter).Stat(ctx, p.parent); err == nil {
			return p, nil
		}
		e.plans.forget(hash)
	}
	image, config, chain, err := e.imageConfig(ctx, t.Image)
	if err != nil {
		return nil, err
	}
	p := &plan{args: commandOf(t, config), env: environment(t, config), cwd: path.Clean("/" + config.Config.WorkingDir), stopSignal: config.Config.StopSignal}
	if len(p.args) == 0 {
		return nil, model.Errorf(model.Invalid, "image %s declares no command", t.Image.Short()).
			WithHint("declare one: command = [\"/app\"]")
	}
	places, err := writablePlaces(t)
	if err != nil {
		return nil, err
	}
	if p.parent, err = e.mountPoints(ctx, image, chain, append(places, p.cwd), configPaths(t)); err != nil {
		return nil, err
	}
	err = e.withView(ctx, p.parent, func(root string) error { return p.resolve(t, config, root, places) })
	if err != nil {
		return nil, err
	}
	if p.lowers, err = e.lowersOf(ctx, p.parent); err != nil {
		return nil, err
	}
	e.plans.keep(hash, p)
	return p, nil
}

// resolve looks into the file system for what the template names.
func (p *plan) resolve(t model.Template, config ocispec.Image, root string, places []string) error {
	name := config.Config.User
	if t.User != "" {
		name = t.User
	}
	home, err := p.resolveUser(root, name)
	if err == nil && t.UserNamespace {
		err = p.user.checkIDs(name)
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(p.env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		p.env = append(p.env, "HOME="+home)
	}
	program, err := lookCommand(root, p.cwd, p.env, p.args[0])
	if err == nil {
		err = checkProgram(root, program)
	}
	if err != nil {
		return model.Errorf(model.Invalid, "image %s cannot run %q: %w", t.Image.Short(), p.args[0], err).
			WithHint("see what the image holds: kiln images show %s", t.Image.Short())
	}
	p.modes, p.owners = map[string]uint32{}, map[string]owner{}
	for _, place := range places {
		if resolved, err := securejoin.SecureJoin(root, place); err == nil {
			if info, err := os.Stat(resolved); err == nil {
				st := info.Sys().(*syscall.Stat_t)
				p.modes[place] = uint32(info.Mode().Perm())
				p.owners[place] = owner{st.Uid, st.Gid, info.Mode().Perm() | info.Mode()&(os.ModeSticky|os.ModeSetgid)}
			}
		}
	}
	return nil
}

// resolveUser finds whom to run as, and returns the home directory.
func (p *plan) resolveUser(root, name string) (home string, err error) {
	files := map[string]string{"/etc/passwd": "", "/etc/group": ""}
	for file := range files {
		if files[file], err = securejoin.SecureJoin(root, file); err != nil {
			return "", err
		}
	}
	u, err := user.GetExecUserPath(name, &user.ExecUser{Home: "/"}, files["/etc/passwd"], files["/etc/group"])
	if err != nil {
		return "", model.Errorf(model.Invalid, "the image has no user %q: %w", name, err).
			WithHint("add the user in the Containerfile, or give a number: user = \"1000\"")
	}
	p.user = execUser{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	for _, gid := range u.Sgids {
		p.user.Groups = append(p.user.Groups, uint32(gid))
	}
	return u.Home, nil
}

// checkIDs refuses what a server's user namespace has no id for.
func (u execUser) checkIDs(name string) error {
	for _, id := range append([]uint32{u.UID, u.GID}, u.Groups...) {
		if id >= idsPerServer {
			return model.Errorf(model.Invalid, "its user %q has the id %d, and a server's user namespace has those below %d", name, id, idsPerServer).
				WithHint("give the user a smaller id in the Containerfile; with user_namespace = false it would be that user of the host")
		}
	}
	return nil
}

// commandOf joins entry point and command as images do: whoever replaces the
// entry point replaces the image's command too.
func commandOf(t model.Template, config ocispec.Image) []string {
	if len(t.Entrypoint) > 0 {
		return slices.Concat(t.Entrypoint, t.Command)
	}
	if len(t.Command) > 0 {
		return slices.Concat(config.Config.Entrypoint, t.Command)
	}
	return slices.Concat(config.Config.Entrypoint, config.Config.Cmd)
}

// environment is the image's with the template's over it.
func environment(t model.Template, config ocispec.Image) []string {
	values := map[string]string{"PATH": defaultPath}
	for _, v := range config.Config.Env {
		name, value, _ := strings.Cut(v, "=")
		values[name] = value
	}
	maps.Copy(values, t.Env)
	env := make([]string, 0, len(values)+1)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		env = append(env, name+"="+values[name])
	}
	return env
}

func variable(env []string, name string) string {
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// writablePlaces returns the paths of the template's ephemeral places and
// volumes.
func writablePlaces(t model.Template) ([]string, error) {
	var places []string
	add := func(what, at string) error {
		p := path.Clean(at)
		if !path.IsAbs(p) || p == "/" {
			return model.Errorf(model.Invalid, "%s %q is not an absolute path below /", what, at)
		}
		for _, own := range []string{"/proc", "/sys", "/dev"} {
			if p == own || strings.HasPrefix(p, own+"/") {
				return model.Errorf(model.Invalid, "%s %q lies in %s, which is the kernel's", what, at, own)
			}
		}
		places = append(places, p)
		return nil
	}
	for _, place := range t.Ephemeral {
		if err := add("ephemeral place", place.Path); err != nil {
			return nil, err
		}
	}
	for _, m := range t.Volumes {
		if !model.ValidServiceName(m.Volume) {
			return nil, model.Errorf(model.Invalid, "%q cannot be a volume's name", m.Volume)
		}
		if err := add("volume "+m.Volume+":", m.Path); err != nil {
			return nil, err
		}
	}
	return places, nil
}

// mountPoints returns a snapshot that is the image's file system with all places
// that something is mounted on: with them below, a server's own layer begins
// empty, and the first change in it shows.
func (e *Engine) mountPoints(ctx context.Context, image imageRecord, chain string, dirs, files []string) (string, error) {
	dirs = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(ownDirs), dirs...))))
	named := append([]string{chain}, dirs...)
	for _, file := range files {
		named = append(named, "file "+file)
	}
	hash := shortHash(named...)
	key := "kiln-base/" + hash
	snapshots := e.client.SnapshotService(snapshotter)
	// The image's record keeps the snapshot from being collected, from before
	// it exists.
	label := "containerd.io/gc.ref.snapshot." + snapshotter + "/" + hash
	if image.Labels[label] == "" {
		image.Labels = map[string]string{label: key}
		if _, err := e.client.ImageService().Update(ctx, image, "labels."+label); err != nil {
			return "", containerdError(err, "keep the file system of image %s", image.Name)
		}
	}
	unlock, err := e.locks.lock(ctx, model.ServerID(key))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := snapshots.Stat(ctx, key); err == nil {
		return key, nil
	}
	draft := "kiln-draft/" + hash
	if err := snapshots.Remove(ctx, draft); err != nil && !errdefs.IsNotFound(err) {
		return "", containerdError(err, "remove an unfinished snapshot")
	}
	mounts, err := snapshots.Prepare(ctx, draft, chain, rootLabels())
	if err != nil {
		return "", containerdError(err, "make a snapshot of image %s", image.Name)
	}
	if err := e.withMount(mounts, func(root string) error {
		return errors.Join(makeMountPoints(root, dirs), makeConfigPoints(root, files))
	}); err != nil {
		return "", err
	}
	if err := snapshots.Commit(ctx, key, draft); err != nil && !errdefs.IsAlreadyExists(err) {
		return "", containerdError(err, "make a snapshot of image %s", image.Name)
	}
	return key, nil
}

// What is mounted in every server.
var (
	ownDirs  = []string{"/dev", "/proc", "/run", "/sys", "/tmp"}
	ownFiles = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
)

func makeMountPoints(root string, dirs []string) error {
	for _, dir := range dirs {
		resolved, err := securejoin.SecureJoin(root, dir)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(resolved, 0o755); err != nil {
			return model.Errorf(model.Invalid, "the image has no room for a directory at %s: %w", dir, err)
		}
	}
	for _, file := range ownFiles {
		// The directory is resolved, the name itself is not: a link, as some
		// images have it for resolv.conf, is a mount point already.
		dir, err := securejoin.SecureJoin(root, path.Dir(file))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return model.Errorf(model.Invalid, "the image has no room for a directory at %s: %w", path.Dir(file), err)
		}
		name := path.Join(dir, path.Base(file))
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("cannot make %s in the image's file system: %w", file, err)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// makeConfigPoints makes files that configuration files are mounted on, where the
// image has none.
func makeConfigPoints(root string, files []string) error {
	for _, file := range files {
		name, err := securejoin.SecureJoin(root, file)
		if err != nil {
			return err
		}
		if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
			return model.Errorf(model.Invalid, "%s is to be a configuration file, and is a directory or a device in the image", file)
		}
		if err := os.MkdirAll(path.Dir(name), 0o755); err != nil {
			return model.Errorf(model.Invalid, "the image has no room for a file at %s: %w", file, err)
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o444)
		if err != nil {
			return model.Errorf(model.Invalid, "the image has no room for a file at %s: %w", file, err)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
