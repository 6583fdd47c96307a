package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/test/instance"
)

// bench is what all measurements share: a kiln of its own, and a Docker beside
// it when one is asked for.
type bench struct {
	options
	dir    string
	kiln   *instance.Instance
	api    *api.Client
	docker *docker
	port   int
}

// open builds what is measured with and starts a kiln.
func open(ctx context.Context, o options) (*bench, error) {
	dir, err := os.MkdirTemp("/tmp", "k-")
	if err != nil {
		return nil, err
	}
	// A copy: one run measures one binary, whatever is built meanwhile.
	bin := filepath.Join(dir, "kiln")
	if err := sh(ctx, "cp", "bin/kiln", bin); err != nil {
		return nil, err
	}
	b := &bench{options: o, dir: dir, kiln: instance.New(bin, dir), port: 20_000 + os.Getpid()%5_000}
	b.api = api.NewClient(b.kiln.Socket())
	for _, version := range []string{"1", "2"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -X main.version="+version, "-o", filepath.Join(dir, "shop"+version), "./examples/shop")
		cmd.Env, cmd.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("cannot build examples/shop: %w", err)
		}
	}
	if err := b.kiln.Start(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// close removes everything that was made.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b.api.Close()
	if b.docker != nil {
		if err := b.docker.stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	if err := b.kiln.Purge(ctx); err != nil {
		return err
	}
	if b.keep {
		fmt.Fprintln(os.Stderr, "kept", b.dir)
		return nil
	}
	return os.RemoveAll(b.dir)
}

// context writes a build context with that version of the shop and a Containerfile
// that kiln and Docker read alike.
func (b *bench) context(version string) (string, error) {
	dir := filepath.Join(b.dir, "shop")
	binary, err := os.ReadFile(filepath.Join(b.dir, "shop"+version))
	if err != nil {
		return "", err
	}
	const text = "FROM scratch\nCOPY app /app\nUSER 65534:65534\nENTRYPOINT [\"/app\"]\n"
	if err := writeFile(filepath.Join(dir, "Containerfile"), text, 0o644); err != nil {
		return "", err
	}
	return dir, writeFile(filepath.Join(dir, "app"), string(binary), 0o755)
}

// declare writes a declaration of the shop beside its context.
func (b *bench) declare(dir, service string, servers int, more string) (string, error) {
	file := filepath.Join(dir, "kiln.hcl")
	return file, writeFile(file, fmt.Sprintf(`service %q {
  image {
    context = "."
  }
  servers = %d
  port    = 8080
  route {
    listen = "127.0.0.1:%d"
  }
  health "http" {
    path     = "/healthz"
    interval = "100ms"
    passes   = 1
  }
%s
}
`, service, servers, b.port, more), 0o644)
}

// result is the last line of deploy and rollback.
func (b *bench) result(ctx context.Context, args ...string) (*api.Result, error) {
	out, err := b.kiln.Run(ctx, append(args, "--json")...)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var r api.Result
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return nil, fmt.Errorf("cannot read what kiln %s printed: %w", args[0], err)
	}
	if r.Verdict != model.Succeeded && r.Verdict != "unchanged" {
		return nil, fmt.Errorf("kiln %s: %s: %s", args[0], r.Verdict, r.Reason)
	}
	return &r, nil
}

// service returns the status of the only service.
func (b *bench) service(ctx context.Context) (*api.ServiceStatus, error) {
	st, err := b.api.Status(ctx)
	if err != nil {
		return nil, err
	}
	if len(st.Services) != 1 {
		return nil, fmt.Errorf("%d services, not one", len(st.Services))
	}
	return &st.Services[0], nil
}

// rest waits until a service has exactly so many servers, all healthy and in
// service.
func (b *bench) rest(ctx context.Context, servers int) error {
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s, err := b.service(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, one := range s.Servers {
			if one.InService && one.Healthy {
				ready++
			}
		}
		if ready == servers && len(s.Servers) == servers && s.Deployment == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d servers are ready, %d in all", ready, servers, len(s.Servers))
		}
	}
}

// clear destroys every service.
func (b *bench) clear(ctx context.Context) error {
	names, err := b.kiln.Services(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := b.kiln.Run(ctx, "destroy", name, "-y"); err != nil {
			return err
		}
	}
	return nil
}

// url is where the service's route listens.
func (b *bench) url() string { return "http://127.0.0.1:" + strconv.Itoa(b.port) }

// accepts waits until an address accepts a connection, through dial.
func accepts(ctx context.Context, dial func() (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := dial()
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no connection is accepted: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
}

// ms returns a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
