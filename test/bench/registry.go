package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The image that is pushed and pulled: layers of bytes that no compression makes
// smaller.
const (
	pushedLayers = 5
	layerBytes   = 100 << 20
)

// Where the registries are for Docker, which has a network namespace of its own.
const (
	registryHost = "198.51.100.1" // TEST-NET-2: nobody's
	dockerEnd    = "198.51.100.2"
	registryNet  = "198.51.100.0/24"
)

// registries measures pushing and pulling an image of 500 MB.
func registries(ctx context.Context, b *bench) (*section, error) {
	d, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	unlink, err := d.reachHost(ctx, b.kiln.ID())
	if err != nil {
		return nil, err
	}
	defer unlink()
	kilns := fmt.Sprintf("%s:%d", registryHost, b.port+2)
	debians := fmt.Sprintf("%s:%d", registryHost, b.port+3)
	if err := b.serveOwn(ctx, kilns); err != nil {
		return nil, err
	}
	stop, err := b.serveDebians(ctx, b.port+3)
	if err != nil {
		return nil, err
	}
	defer stop()
	var push, pull, own [2]series
	rounds := min(b.rounds, 3) // each moves some gigabytes
	for n := range rounds {
		image := fmt.Sprintf("pushed:%d", n)
		if err := b.large(ctx, d, image); err != nil {
			return nil, err
		}
		for i := range 2 {
			at := (n + i) % 2
			ref := []string{kilns, debians}[at] + "/bench/" + image
			took, err := d.moved(ctx, image, ref)
			if err != nil {
				return nil, err
			}
			push[at], pull[at] = append(push[at], took[0]), append(pull[at], took[1])
		}
		for i := range 2 {
			at := (n + i) % 2
			took, err := b.pulls(ctx, d, at == 0, fmt.Sprintf("127.0.0.1:%d/bench/%s", b.port+3, image), debians+"/bench/"+image)
			if err != nil {
				return nil, err
			}
			own[at] = append(own[at], took)
		}
	}
	return &section{
		title: "Pushing and pulling 500 MB",
		how: fmt.Sprintf("An image of %d layers of %d MiB that cannot be compressed. The same Docker pushes it to kiln's registry and to Debian's docker-registry "+
			"(both over HTTP, on the same disk), and pulls it again after it was removed; then `kiln images pull` and `docker pull` get it from docker-registry, "+
			"until it is unpacked. kiln compares every blob with its digest on its way in and out.", pushedLayers, layerBytes>>20),
		rows: []row{
			compare("docker push to", "s", push[0], "docker-registry", push[1], 1.2, 0),
			compare("docker pull from", "s", pull[0], "docker-registry", pull[1], 1.2, 0),
			compare("kiln images pull", "s", own[0], "docker pull", own[1], 1, 0),
		},
	}, nil
}

// reachHost links Docker's network namespace with the machine's.
func (d *docker) reachHost(ctx context.Context, id string) (unlink func(), err error) {
	link := "kb" + id
	unlink = func() { _ = sh(context.WithoutCancel(ctx), "ip", "link", "del", link) }
	for _, args := range [][]string{
		{"link", "add", link, "type", "veth", "peer", "name", "registry", "netns", d.netns},
		{"address", "add", registryHost + "/24", "dev", link},
		{"link", "set", link, "up"},
		{"-n", d.netns, "address", "add", dockerEnd + "/24", "dev", "registry"},
		{"-n", d.netns, "link", "set", "registry", "up"},
	} {
		if err := sh(ctx, "ip", args...); err != nil {
			unlink()
			return nil, err
		}
	}
	return unlink, nil
}

// serveOwn has kiln's registry serve others, who may push.
func (b *bench) serveOwn(ctx context.Context, address string) error {
	file := filepath.Join(b.dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\n  maintenance:\n    readonly:\n      enabled: false\nhttp:\n  addr: %s\n",
		filepath.Join(b.dir, "pushed"), address)
	if err := writeFile(file, text, 0o600); err != nil {
		return err
	}
	if err := b.kiln.Kill(); err != nil {
		return err
	}
	b.kiln.Flags = append(b.kiln.Flags, "--registry", file)
	if err := b.kiln.Start(ctx); err != nil {
		return err
	}
	return answersHTTP(ctx, "http://"+address+"/v2/")
}

// serveDebians starts Debian's docker-registry.
func (b *bench) serveDebians(ctx context.Context, port int) (stop func(), err error) {
	file := filepath.Join(b.dir, "docker-registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: 0.0.0.0:%d\n",
		filepath.Join(b.dir, "docker-registry"), port)
	if err := writeFile(file, text, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("docker-registry", "serve", file)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start Debian's docker-registry: %w", err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if err := answersHTTP(ctx, fmt.Sprintf("http://127.0.0.1:%d/v2/", port)); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

func answersHTTP(ctx context.Context, url string) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			return res.Body.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w", url, err)
		}
	}
}

// large builds an image of new bytes with Docker.
func (b *bench) large(ctx context.Context, d *docker, image string) error {
	dir := filepath.Join(b.dir, "large")
	var text strings.Builder
	text.WriteString("FROM scratch\n")
	for n := range pushedLayers {
		name := fmt.Sprintf("layer%d", n)
		fmt.Fprintf(&text, "COPY %s /\n", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, rand.Reader, layerBytes)
		if closing := f.Close(); err == nil {
			err = closing
		}
		if err != nil {
			return err
		}
	}
	if err := writeFile(filepath.Join(dir, "Containerfile"), text.String()+"CMD [\"/none\"]\n", 0o644); err != nil {
		return err
	}
	if _, err := d.run(ctx, "build", "-q", "-t", image, "-f", filepath.Join(dir, "Containerfile"), dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// moved pushes an image and pulls it, and returns what each took, in seconds.
func (d *docker) moved(ctx context.Context, image, ref string) (took [2]float64, err error) {
	archive := filepath.Join(d.dir, "image.tar") // the image itself has to be gone before it is pulled
	for _, args := range [][]string{{"tag", image, ref}, {"save", "-o", archive, image}} {
		if _, err := d.run(ctx, args...); err != nil {
			return took, err
		}
	}
	began := time.Now()
	if _, err := d.run(ctx, "push", "-q", ref); err != nil {
		return took, err
	}
	took[0] = time.Since(began).Seconds()
	if _, err := d.run(ctx, "rmi", image, ref); err != nil {
		return took, err
	}
	began = time.Now()
	if _, err := d.run(ctx, "pull", "-q", ref); err != nil {
		return took, err
	}
	took[1] = time.Since(began).Seconds()
	if _, err := d.run(ctx, "rmi", ref); err != nil {
		return took, err
	}
	if _, err := d.run(ctx, "load", "-q", "-i", archive); err != nil {
		return took, err
	}
	return took, os.Remove(archive)
}

// pulls has kiln or Docker pull an image that it does not have.
func (b *bench) pulls(ctx context.Context, d *docker, own bool, forKiln, forDocker string) (float64, error) {
	began := time.Now()
	if own {
		_, err := b.kiln.Run(ctx, "images", "pull", forKiln)
		return time.Since(began).Seconds(), err
	}
	local := forDocker[strings.LastIndex(forDocker, "/")+1:]
	_, _ = d.run(ctx, "rmi", local) // it was loaded again
	began = time.Now()
	if _, err := d.run(ctx, "pull", "-q", forDocker); err != nil {
		return 0, err
	}
	took := time.Since(began).Seconds()
	_, err := d.run(ctx, "rmi", forDocker)
	return took, err
}
