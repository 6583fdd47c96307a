package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"kiln/internal/engine"
	"kiln/internal/engine/local"
	"kiln/internal/model"
)

// provision measures how long a server takes until it accepts a connection:
// kiln's engine against docker run and against a bare runc run of the spec that
// kiln made.
func provision(ctx context.Context, b *bench) (*section, error) {
	image, err := b.shopImage(ctx)
	if err != nil {
		return nil, err
	}
	d, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "shop")
	if _, err := d.run(ctx, "build", "-q", "-t", "shop:1", "-f", filepath.Join(dir, "Containerfile"), dir); err != nil {
		return nil, err
	}
	var s *section
	err = b.withEngine(ctx, image, func(p *provisioner) (err error) {
		s, err = p.measure(ctx, d)
		return err
	})
	return s, err
}

// withEngine calls do with the instance's engine, without a daemon: one beside it
// would take servers that it did not order for remains.
func (b *bench) withEngine(ctx context.Context, image model.Digest, do func(*provisioner) error) error {
	v, err := b.api.Version(ctx)
	if err != nil {
		return err
	}
	if err := b.kiln.Kill(); err != nil {
		return err
	}
	eng, err := local.New(ctx, local.Config{Instance: v.Instance, DataDir: b.kiln.Data, RunDir: runDir(v.Instance)})
	if err != nil {
		return err
	}
	err = do(&provisioner{bench: b, engine: eng, epoch: v.Epoch, template: model.Template{
		Service: "bench", Image: image, Port: 8080, Protocol: model.HTTP, Resources: model.Resources{Memory: 128 << 20},
	}})
	if closing := eng.Close(); err == nil {
		err = closing
	}
	if starting := b.kiln.Start(ctx); err == nil {
		err = starting
	}
	return err
}

// runDir returns where an instance has its sockets and its state.
func runDir(id model.InstanceID) string { return filepath.Join("/run/kiln", string(id)) }

// shopImage builds version 1 of the shop and returns its digest.
func (b *bench) shopImage(ctx context.Context) (model.Digest, error) {
	dir, err := b.context("1")
	if err != nil {
		return "", err
	}
	file, err := b.declare(dir, "shop", 1, "")
	if err != nil {
		return "", err
	}
	r, err := b.result(ctx, "deploy", "-f", file)
	if err != nil {
		return "", err
	}
	return r.Image, b.clear(ctx)
}

// provisioner starts servers through the engine, without a daemon.
type provisioner struct {
	*bench
	engine   *local.Engine
	epoch    uint64
	template model.Template
	count    uint64
}

func (p *provisioner) measure(ctx context.Context, d *docker) (*section, error) {
	if err := p.engine.Prepare(ctx, p.template.Image); err != nil {
		return nil, err
	}
	// One server stays: its spec is what runc gets.
	kept := p.next()
	if _, err := p.server(ctx, kept); err != nil {
		return nil, err
	}
	r, err := p.bare(ctx, kept)
	if err != nil {
		return nil, err
	}
	defer r.close()
	var ours, plain, theirs, bare series
	for range 3 * p.rounds {
		took, err := p.once(ctx, true)
		if err != nil {
			return nil, err
		}
		ours = append(ours, took)
		if took, err = p.once(ctx, false); err != nil {
			return nil, err
		}
		plain = append(plain, took)
		if took, err = containerStart(ctx, d); err != nil {
			return nil, err
		}
		theirs = append(theirs, took)
		if took, err = r.start(ctx); err != nil {
			return nil, err
		}
		bare = append(bare, took)
	}
	return &section{
		title: "Provisioning a server until it accepts a connection",
		how: "The same image (examples/shop, FROM scratch) with the same limits, read-only, without capabilities. kiln: a call of " +
			"its engine until the address accepts, user and network namespace, link, address and firewall included. Docker: `docker run -d` on a " +
			"bridge until it accepts. runc: `runc run -d` of the OCI spec that kiln had made, with the root file system and an empty " +
			"network namespace prepared beforehand.",
		rows: []row{
			compare("a server", "ms", ours, "docker run", theirs, 0.3, 0),
			compare("a server", "ms", ours, "bare runc run", bare, 3, 0),
			compare("a server in a user namespace", "ms", ours, "`user_namespace = false`", plain, 1.15, 0),
		},
	}, p.destroy(ctx, kept)
}

// once measures a server and removes it.
func (p *provisioner) once(ctx context.Context, userNamespace bool) (float64, error) {
	p.template.UserNamespace = userNamespace
	id := p.next()
	took, err := p.server(ctx, id)
	if err != nil {
		return 0, err
	}
	return took, p.destroy(ctx, id)
}

// next returns a fresh server id.
func (p *provisioner) next() model.ServerID {
	p.count++
	return model.ServerID("bench-" + model.Sixes("bench2", p.count))
}

// server starts a server and returns how long it took until it accepted.
func (p *provisioner) server(ctx context.Context, id model.ServerID) (float64, error) {
	began := time.Now()
	if err := p.engine.Provision(ctx, engine.Ref{Epoch: p.epoch, ID: id}, p.template); err != nil {
		return 0, err
	}
	address := ""
	for address == "" {
		snapshot, err := p.engine.Observe(ctx)
		if err != nil {
			return 0, err
		}
		if o := snapshot.Server(id); o != nil {
			address = o.Address
		}
	}
	err := accepts(ctx, func() (net.Conn, error) { return net.DialTimeout("tcp", address+":8080", time.Second) })
	return ms(time.Since(began)), err
}

func (p *provisioner) destroy(ctx context.Context, id model.ServerID) error {
	ref := engine.Ref{Epoch: p.epoch, ID: id}
	if err := p.engine.Stop(ctx, ref, "", time.Second); err != nil {
		return err
	}
	return p.engine.Destroy(ctx, ref)
}

// containerStart measures docker run.
func containerStart(ctx context.Context, d *docker) (float64, error) {
	began := time.Now()
	id, err := d.start(ctx, "shop:1")
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	address, err := d.address(ctx, id) // asking for it is no part of starting
	if err != nil {
		return 0, err
	}
	began = time.Now()
	if err := accepts(ctx, func() (net.Conn, error) { return d.dial(address) }); err != nil {
		return 0, err
	}
	took += time.Since(began)
	_, err = d.run(ctx, "rm", "-f", id)
	return ms(took), err
}

// bare runs a kiln server's spec with runc alone.
type bare struct {
	bundle, root, netns string
}

// bare copies the spec and root file system of a running server into a bundle
// with a network namespace of its own.
func (p *provisioner) bare(ctx context.Context, id model.ServerID) (*bare, error) {
	r := &bare{bundle: filepath.Join(p.dir, "bundle"), root: filepath.Join(p.dir, "runc"), netns: "kbare" + p.kiln.ID()}
	from := filepath.Join(runDir(model.InstanceID(p.kiln.ID())), "containerd",
		"io.containerd.runtime.v2.task", "kiln-"+p.kiln.ID(), string(id))
	if err := os.MkdirAll(r.bundle, 0o755); err != nil {
		return nil, err
	}
	if err := sh(ctx, "cp", "-a", filepath.Join(from, "rootfs"), r.bundle); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	if err := r.adapt(spec); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(r.bundle, "config.json"), string(text), 0o644); err != nil {
		return nil, err
	}
	if err := sh(ctx, "ip", "netns", "add", r.netns); err != nil {
		return nil, err
	}
	return r, sh(ctx, "ip", "-n", r.netns, "link", "set", "lo", "up")
}

// adapt changes what names the server that the spec was made for.
func (r *bare) adapt(spec map[string]any) error {
	root, _ := spec["root"].(map[string]any)
	linux, _ := spec["linux"].(map[string]any)
	if root == nil || linux == nil {
		return fmt.Errorf("the spec has no root or no linux part")
	}
	root["path"] = "rootfs"
	delete(linux, "cgroupsPath")
	delete(spec, "hooks")
	namespaces, _ := linux["namespaces"].([]any)
	for _, n := range namespaces {
		if ns, _ := n.(map[string]any); ns["type"] == "network" {
			ns["path"] = "/run/netns/" + r.netns
		}
	}
	return nil
}

// start measures runc run until the shop accepts, then removes the container.
func (r *bare) start(ctx context.Context) (float64, error) {
	ns, err := os.Open("/run/netns/" + r.netns)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	began := time.Now()
	cmd := exec.CommandContext(ctx, "runc", "--root", r.root, "run", "-d", "--bundle", r.bundle, "kbare")
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("runc run: %w", err)
	}
	err = accepts(ctx, func() (net.Conn, error) { return dialIn(int(ns.Fd()), "127.0.0.1:8080") })
	took := ms(time.Since(began))
	if deleting := sh(ctx, "runc", "--root", r.root, "delete", "-f", "kbare"); err == nil {
		err = deleting
	}
	return took, err
}

func (r *bare) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = sh(ctx, "ip", "netns", "del", r.netns) // the next run would say so
}
