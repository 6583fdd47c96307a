// Package holder keeps a mount namespace for one session in a server: a copy
// of the server's own, in which the root may be writable. It runs inside the
// server, from a file that the engine hands it open, since the server's image
// does not have it.
//
// The holder is also what ends the session when nobody else can: as soon as its
// standard input ends, which it does when the engine's process is gone, it kills
// every process in its mount namespace, and ends.
package holder

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The first argument of the holder, and what it says when the namespace is
// there.
const (
	Command = "hold"
	Ready   = "ready"
)

// The second argument.
const (
	readOnly = "ro"
	writable = "rw"
	holding  = "wait" // in the namespace, which was made
)

// Arguments are what the program is called with to be the holder.
func Arguments(write bool) []string {
	if write {
		return []string{Command, writable}
	}
	return []string{Command, readOnly}
}

// Run is the holder; arguments are those after Command.
func Run(arguments []string) error {
	if len(arguments) != 1 {
		return fmt.Errorf("a holder has one argument, not %q", arguments)
	}
	if arguments[0] == holding {
		return hold(os.Stdin, os.Stdout)
	}
	if err := separate(arguments[0] == writable); err != nil {
		return err
	}
	// Only this thread is in the namespace. What it executes is there whole.
	err := unix.Exec("/proc/self/exe", []string{"kiln-holder", Command, holding}, nil)
	return fmt.Errorf("cannot execute itself: %w", err)
}

// separate moves this thread into a mount namespace of its own. What is mounted
// there and here from now on is nobody else's.
func separate(write bool) error {
	runtime.LockOSThread() // and never unlocked: it is another thread from here on
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot keep mounts apart: %w", err)
	}
	if !write {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot make the root writable: %w", err)
	}
	return nil
}

// hold says that the namespace is there, and waits for the end.
func hold(stdin io.Reader, stdout io.Writer) error {
	if _, err := fmt.Fprintln(stdout, Ready); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, stdin)
	return killOthers()
}

// patience is how long processes may take to end.
const patience = 10 * time.Second

// killOthers kills every other process in this mount namespace, until there is
// none: one that is being started while it looks is found the next time.
func killOthers() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		others, err := processesIn(own)
		if err != nil {
			return err
		}
		if len(others) == 0 {
			return nil
		}
		for _, pid := range others {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not end", len(others))
		}
	}
}

// processesIn returns the processes in the mount namespace, without this one.
// One that has ended and was not waited for has none.
func processesIn(namespace string) ([]int, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if is, err := os.Readlink(entry + "/ns/mnt"); err == nil && is == namespace {
			found = append(found, pid)
		}
	}
	return found, nil
}

// IsReady reports whether what the holder has said so far is that it is ready.
func IsReady(said []byte) bool { return bytes.HasPrefix(said, []byte(Ready+"\n")) }
