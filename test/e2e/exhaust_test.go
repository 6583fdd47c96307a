package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
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

// files bounds how many files the daemon, when it is started next, and what it
// starts may have open.
func files(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 1, "files N")
	n, err := strconv.Atoi(args[0])
	check(ts, err)
	of(ts).Limit = n
}

// logged waits until the daemon has written a line that matches.
func logged(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "logged DURATION REGEXP")
	within, err := time.ParseDuration(args[0])
	check(ts, err)
	pattern, err := regexp.Compile(args[1])
	check(ts, err)
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		text := of(ts).Tail(2000)
		if pattern.MatchString(text) {
			return
		}
		if time.Now().After(deadline) {
			check(ts, fmt.Errorf("the daemon does not write %q within %s", args[1], within))
		}
	}
}
