package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A logger holds at most maxPending bytes that wait for the disk. When they
// have not become less for patience, lines are dropped rather than the server
// held up.
const (
	maxPending = 1 << 20
	patience   = 500 * time.Millisecond
)

// Args returns the arguments of the logger that keeps in dir what a server
// writes whose processes run as uid and gid. The shim hands over one argument
// in a fixed order only.
func Args(dir string, uid, gid uint32) string {
	return fmt.Sprintf("%d:%d:%s", uid, gid, dir)
}

// RunLogger is the logger process: the shim starts it with the server's
// standard output as descriptor 3, its standard error as 4, and waits until 5 is
// closed. It ends when both have ended.
func RunLogger(args []string) error {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(50)
	// The shim sends SIGTERM when the server has ended; what is still in the
	// pipes is read to the end nevertheless.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)

	if len(args) == 0 {
		return errors.New("usage: kiln-logger UID:GID:DIRECTORY")
	}
	uid, rest, _ := strings.Cut(args[0], ":")
	gid, dir, ok := strings.Cut(rest, ":")
	owner, err := strconv.Atoi(uid)
	group, err2 := strconv.Atoi(gid)
	if !ok || err != nil || err2 != nil {
		return fmt.Errorf("cannot understand %q: want UID:GID:DIRECTORY", args[0])
	}
	for _, fd := range []int{3, 4} {
		// A program that is not root opens /dev/stdout anew, and may only when
		// the pipe is its own.
		if err := syscall.Fchown(fd, owner, group); err != nil {
			return fmt.Errorf("cannot give the server its pipe: %w", err)
		}
		if err := syscall.SetNonblock(fd, true); err != nil {
			return err
		}
	}
	stdout, stderr := os.NewFile(3, "stdout"), os.NewFile(4, "stderr")
	if err := os.NewFile(5, "ready").Close(); err != nil {
		return err
	}
	keep(dir, stdout, stderr)
	return nil
}

// keep writes what it reads from both streams into dir until both have ended.
func keep(dir string, stdout, stderr io.Reader) {
	q := newQueue()
	var readers sync.WaitGroup
	readers.Go(func() { split(stdout, Stdout, q.add) })
	readers.Go(func() { split(stderr, Stderr, q.add) })
	go func() {
		readers.Wait()
		q.close()
	}()
	w := &writer{dir: dir}
	var lines []byte
	for more := true; more; {
		var lost missed
		lines, lost, more = q.take(lines)
		w.lose(lost.lines, lost.bytes, errSlow)
		if len(lines) > 0 {
			w.write(lines)
		}
	}
}

var errSlow = errors.New("the disk was too slow")

// split stamps the lines of r and passes them on, those of one read together.
func split(r io.Reader, s Stream, add func(lines []byte)) {
	buf := make([]byte, 0, 2*MaxLine)
	var out []byte
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		now := time.Now()
		buf = buf[:len(buf)+n]
		out = out[:0]
		rest := buf
		for {
			i := bytes.IndexByte(rest, '\n')
			switch {
			case i >= 0 && i <= MaxLine:
				out = appendLine(out, now, s, rest[:i])
				rest = rest[i+1:]
				continue
			case len(rest) > MaxLine:
				out = appendLine(out, now, s, rest[:MaxLine])
				rest = rest[MaxLine:]
				continue
			}
			break
		}
		if err != nil && len(rest) > 0 {
			out = appendLine(out, now, s, rest)
			rest = nil
		}
		if len(out) > 0 {
			add(out)
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
		if err != nil {
			return
		}
	}
}
