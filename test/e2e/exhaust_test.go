package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// filler is the file that takes the room of a disk.
const filler = "filler-of-a-test"

// disk mounts a file system of a size in MiB at a directory.
func disk(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "disk DIRECTORY MEBIBYTES")
	dir := ts.MkAbs(args[0])
	check(ts, os.MkdirAll(dir, 0o700))
	check(ts, syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+args[1]+"m"))
	w := of(ts)
	w.Disks = append(w.Disks, dir)
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill takes every byte that is free where a directory lies.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 1, "fill DIRECTORY")
	f, err := os.OpenFile(filepath.Join(ts.MkAbs(args[0]), filler), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(ts, err)
	defer f.Close()
	block := make([]byte, 64<<10)
	for size := len(block); size > 0; {
		switch _, err := f.Write(block[:size]); {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		default:
			check(ts, err)
		}
	}
}

// free gives back what fill took.
func free(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 1, "free DIRECTORY")
	check(ts, os.Remove(filepath.Join(ts.MkAbs(args[0]), filler)))
}

// limit bounds how many files a role's processes may have open.
func limit(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "limit ROLE FILES")
	n, err := strconv.ParseUint(args[1], 10, 64)
	check(ts, err)
	pids, err := of(ts).PIDs(args[0])
	check(ts, err)
	want(ts, len(pids) > 0, "limit ROLE FILES, of a role that runs")
	for _, pid := range pids {
		var now unix.Rlimit
		check(ts, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now))
		now.Cur = n
		check(ts, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil))
	}
}

// hold opens connections and says nothing on them, until release.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "hold CONNECTIONS NETWORK:ADDRESS")
	n, err := strconv.Atoi(args[0])
	check(ts, err)
	network, address, _ := strings.Cut(args[1], ":")
	for range n {
		c, err := net.Dial(network, address)
		check(ts, err)
		of(ts).held = append(of(ts).held, c)
	}
}

// release closes what hold has opened.
func release(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 0, "release")
	of(ts).letGo()
}

func (w *world) letGo() {
	for _, c := range w.held {
		_ = c.Close() // the other end may have been first
	}
	w.held = nil
}

// logged waits until a log has a line that matches: the daemon's, or a file.
func logged(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2 || len(args) == 3, "logged DURATION REGEXP [FILE]")
	within, err := time.ParseDuration(args[0])
	check(ts, err)
	pattern, err := regexp.Compile(args[1])
	check(ts, err)
	file := of(ts).Log
	if len(args) == 3 {
		file = ts.MkAbs(args[2])
	}
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err == nil && pattern.Match(text) {
			return
		}
		if time.Now().After(deadline) {
			check(ts, fmt.Errorf("%s has no %q within %s", file, args[1], within))
		}
	}
}
