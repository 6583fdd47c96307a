// Package instance runs a kiln of its own for a test: its daemon, its data
// directory and everything of it that the machine sees. It can kill each of its
// processes, and says what is left of it when it should be gone.
package instance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Instance is one kiln.
type Instance struct {
	Bin  string // the kiln binary
	Data string // its data directory; short, as sockets live below it
	Log  string // what its daemons write to standard error
	Boot string // a file that names the boot of the machine, as the instance's daemons see it

	Flags     []string // of the daemon, beside its data directory
	Variables []string // of the daemon's environment, NAME=VALUE, beside the test's own
	Disks     []string // mount points of a test's own, which count as no leftovers

	mu     sync.Mutex
	id     string // as it was last read
	daemon *exec.Cmd
	ended  chan struct{} // closed when daemon has been waited for
}

// New returns an instance that does not run yet, with a data directory below
// dir.
func New(bin, dir string) *Instance {
	return &Instance{Bin: bin, Data: filepath.Join(dir, "data"), Log: filepath.Join(dir, "daemon.log"), Boot: filepath.Join(dir, "boot")}
}

// Socket is where its API listens.
func (i *Instance) Socket() string { return filepath.Join(i.Data, "kiln.sock") }

// Env is what a client needs to find it.
func (i *Instance) Env() []string {
	return []string{"KILN_SOCKET=" + i.Socket(), "KILN_DATA_DIR=" + i.Data}
}

// ID is the instance's id; "" before its first start. It stays known when the
// data directory's disk is taken away.
func (i *Instance) ID() string {
	b, err := os.ReadFile(filepath.Join(i.Data, "instance"))
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		i.id = strings.TrimSpace(string(b))
	}
	return i.id
}

// Start starts the daemon and returns when it answers. A daemon that ends
// before is an error with its last words.
func (i *Instance) Start(ctx context.Context) error {
	out, err := os.OpenFile(i.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	// Not CommandContext: the daemon outlives whoever starts it.
	cmd := exec.Command(i.Bin, append([]string{"daemon", "--data-dir", i.Data}, i.Flags...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), i.Variables...)
	if _, err := os.Stat(i.Boot); err == nil {
		cmd.Env = append(cmd.Env, "KILN_BOOT_ID_FILE="+i.Boot)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	i.mu.Lock()
	i.daemon, i.ended = cmd, ended
	i.mu.Unlock()
	for {
		if i.answers(ctx, cmd.Process.Pid) {
			i.ID() // while its disk is there
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the daemon ended with %s:\n%s", cmd.ProcessState, i.Tail(30))
		case <-ctx.Done():
			return fmt.Errorf("the daemon does not answer: %w\n%s", ctx.Err(), i.Tail(30))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers reports whether the daemon with the pid is the one that answers.
func (i *Instance) answers(ctx context.Context, pid int) bool {
	if _, err := os.Stat(i.Socket()); err != nil {
		return false
	}
	out, err := i.Run(ctx, "version", "--json")
	var v struct {
		Daemon struct {
			PID int `json:"pid"`
		} `json:"daemon"`
		PID int `json:"pid"`
	}
	return err == nil && json.Unmarshal(out, &v) == nil && (v.PID == pid || v.Daemon.PID == pid)
}

// Run runs a kiln command as a client of the instance and returns its standard
// output. The error carries what it wrote to standard error.
func (i *Instance) Run(ctx context.Context, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, i.Bin, args...)
	cmd.Env = append(os.Environ(), i.Env()...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("kiln %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// Kill ends the daemon with SIGKILL and waits until it is gone.
func (i *Instance) Kill() error { return i.signal(syscall.SIGKILL, 10*time.Second) }

// Stop ends the daemon with SIGTERM and waits until it is gone.
func (i *Instance) Stop(within time.Duration) error { return i.signal(syscall.SIGTERM, within) }

func (i *Instance) signal(sig syscall.Signal, within time.Duration) error {
	i.mu.Lock()
	cmd, ended := i.daemon, i.ended
	i.mu.Unlock()
	if cmd == nil {
		return errors.New("no daemon was started")
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-time.After(within):
		return fmt.Errorf("the daemon does not end within %s of %s", within, sig)
	}
}

// Tail returns the last lines of what the daemons wrote.
func (i *Instance) Tail(lines int) string {
	b, _ := os.ReadFile(i.Log) // nothing was written, nothing is shown
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Services returns the names of the services that its daemon knows.
func (i *Instance) Services(ctx context.Context) ([]string, error) {
	out, err := i.Run(ctx, "status", "--json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Services []struct {
			Name string `json:"name"`
		} `json:"services"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return nil, fmt.Errorf("cannot read the status: %w", err)
	}
	var names []string
	for _, s := range status.Services {
		names = append(names, s.Name)
	}
	return names, nil
}

// End destroys every service, stops the daemon, and returns what is left,
// which should be nothing.
func (i *Instance) End(ctx context.Context) ([]string, error) {
	names, err := i.Services(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := i.Run(ctx, "destroy", name, "-y"); err != nil {
			return nil, err
		}
	}
	if err := i.Stop(30 * time.Second); err != nil {
		return nil, err
	}
	return i.gone(ctx)
}

// gone waits a moment for what ends by itself and returns what is left then.
func (i *Instance) gone(ctx context.Context) ([]string, error) {
	deadline := time.Now().Add(15 * time.Second)
	for {
		left, err := i.Leftovers(ctx)
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
