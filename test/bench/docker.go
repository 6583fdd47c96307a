package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// docker is a Docker Engine of the benchmark's own, in a network namespace of
// its own: its bridge and its firewall rules never touch the machine's.
type docker struct {
	dir    string
	netns  string // name, as ip netns has it
	daemon *exec.Cmd
	log    *os.File
}

// engine starts Docker the first time it is asked for.
func (b *bench) engine(ctx context.Context) (*docker, error) {
	if b.docker != nil {
		return b.docker, nil
	}
	d := &docker{dir: filepath.Join(b.dir, "docker"), netns: "kbench" + b.kiln.ID()}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	if err := sh(ctx, "ip", "netns", "add", d.netns); err != nil {
		return nil, err
	}
	b.docker = d
	if err := sh(ctx, "ip", "-n", d.netns, "link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(d.dir, "daemon.json"), `{"insecure-registries": ["`+registryNet+`"]}`+"\n", 0o644); err != nil {
		return nil, err
	}
	var err error
	if d.log, err = os.Create(filepath.Join(d.dir, "log")); err != nil {
		return nil, err
	}
	// nsenter, not ip netns exec: that one hides the machine's control groups.
	d.daemon = exec.Command("nsenter", "--net=/run/netns/"+d.netns, "dockerd",
		"--config-file", filepath.Join(d.dir, "daemon.json"),
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "run"),
		"--pidfile", filepath.Join(d.dir, "pid"), "--host", d.host())
	d.daemon.Stdout, d.daemon.Stderr = d.log, d.log
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.daemon.Start(); err != nil {
		return nil, err
	}
	for range 300 {
		if _, err := d.run(ctx, "version"); err == nil {
			return d, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(d.log.Name())
	return nil, fmt.Errorf("dockerd does not answer:\n%s", text)
}

func (d *docker) host() string { return "unix://" + filepath.Join(d.dir, "sock") }

// run runs a docker command and returns what it printed.
func (d *docker) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", d.host()}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0", "HOME="+d.dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// stop ends Docker and removes its network namespace.
func (d *docker) stop(ctx context.Context) error {
	if d.daemon != nil && d.daemon.Process != nil {
		if out, err := d.run(ctx, "ps", "-aq"); err == nil && out != "" {
			_, _ = d.run(ctx, append([]string{"rm", "-f"}, strings.Fields(out)...)...)
		}
		_ = d.daemon.Process.Signal(syscall.SIGTERM)
		_ = d.daemon.Wait()
		_ = d.log.Close()
	}
	return sh(ctx, "ip", "netns", "del", d.netns)
}

// dial connects to an address inside Docker's network namespace.
func (d *docker) dial(address string) (net.Conn, error) {
	ns, err := os.Open("/run/netns/" + d.netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return dialIn(int(ns.Fd()), address)
}

// dialIn connects from inside a network namespace: a socket belongs to the one
// that its thread is in when it is made.
func dialIn(ns int, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := net.DialTimeout("tcp", address, time.Second)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// sh runs a program that should say nothing.
func sh(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// hardened are the flags that give a container what every kiln server has.
func hardened() []string {
	return []string{
		"--read-only", "--tmpfs", "/tmp", "--tmpfs", "/run", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", "--memory", "128m",
	}
}

// start runs a container of the image, hardened, and returns its id.
func (d *docker) start(ctx context.Context, image string) (string, error) {
	return d.run(ctx, append(append([]string{"run", "-d"}, hardened()...), image)...)
}

// address returns where a container's shop listens.
func (d *docker) address(ctx context.Context, id string) (string, error) {
	ip, err := d.run(ctx, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", id)
	return ip + ":8080", err
}
