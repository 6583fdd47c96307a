// Command testprogram is what servers run in this engine's own tests: it looks
// at what a server may do, from inside.
//
//	serve PORT            accept connections; a signal n ends it with status 10+n
//	dial ADDRESS          connect and print what is said; status 1 if that is
//	                      refused or takes a second
//	status                print this process's /proc/self/status
//	read PATH             print a file
//	stat PATH             print mode, owner, group and file system size
//	fill PATH MIB         write that many MiB; status 1 if it is refused
//	eat MIB               use memory, then wait
//	flood                 write numbered lines without end, and serve port 8080
//	children N            start N children that wait, then wait
//	wait                  wait for ever
//	orphan                leave a process that waits, and end
//	replicate FROM        run this program from a place outside the image
//	                      (memfd, tmpfs, deleted) and wait
//	escape                try to get out; see escape.go
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	arguments := append(os.Args[1:], "", "")
	if err := run(arguments[0], arguments[1], arguments[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what, argument, second string) error {
	switch what {
	case "serve":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
		go serve(argument) // whoever is answered may signal at once
		s := <-signals
		os.Exit(10 + int(s.(syscall.Signal)))
	case "dial":
		conn, err := net.DialTimeout("tcp", argument, time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.Copy(os.Stdout, conn)
		return err
	case "status":
		return show("/proc/self/status")
	case "read":
		return show(argument)
	case "stat":
		return stat(argument)
	case "fill":
		return os.WriteFile(argument, make([]byte, number(second)<<20), 0o600)
	case "eat":
		eaten := bytes.Repeat([]byte("x"), number(argument)<<20)
		fmt.Println(len(eaten))
		time.Sleep(time.Hour)
	case "flood":
		go serve("8080")
		for i := 1; ; i++ {
			fmt.Printf("line %d of a flood that does not end\n", i)
		}
	case "children":
		for range number(argument) {
			if err := exec.Command("/proc/self/exe", "wait").Start(); err != nil {
				return err
			}
		}
		time.Sleep(time.Hour)
	case "wait":
		time.Sleep(time.Hour)
	case "orphan":
		return exec.Command("/proc/self/exe", "wait").Start()
	case "escape":
		return escape(os.Args[2:])
	case "replicate":
		return replicate(argument)
	default:
		return fmt.Errorf("cannot %q", what)
	}
	return nil
}

func serve(port string) {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			continue
		}
		fmt.Fprintln(conn, conn.RemoteAddr())
		_ = conn.Close()
	}
}

func show(path string) error {
	b, err := os.ReadFile(path)
	if err == nil {
		_, err = os.Stdout.Write(b)
	}
	return err
}

func stat(path string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return err
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return err
	}
	fmt.Printf("%o %d:%d %d\n", st.Mode&0o7777, st.Uid, st.Gid, int64(fs.Blocks)*fs.Bsize)
	return nil
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return n
}

// replicate has this very program run from elsewhere.
func replicate(from string) error {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	path := "/dev/shm/copy"
	if from == "memfd" {
		fd, err := unix.MemfdCreate("copy", 0)
		if err != nil {
			return err
		}
		path = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	if err := os.WriteFile(path, own, 0o755); err != nil {
		return err
	}
	cmd := exec.Command(path, "wait")
	if from == "memfd" {
		cmd.Path = fmt.Sprintf("/proc/%d/fd/%s", os.Getpid(), filepath.Base(path))
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if from == "deleted" {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	time.Sleep(time.Hour)
	return nil
}
