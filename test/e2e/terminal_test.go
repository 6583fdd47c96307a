package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// terminalWait is how long what is awaited on a terminal may take.
const terminalWait = 20 * time.Second

// screen is a client on a terminal of its own, and what it has shown.
type screen struct {
	cmd   *exec.Cmd
	own   *os.File
	ended chan struct{} // closed when it has been waited for

	mu    sync.Mutex
	shown []byte
}

// terminal runs a client on a terminal.
func terminal(ts *testscript.TestScript, _ bool, args []string) {
	const usage = "terminal start COLUMNSxROWS kiln ARGUMENT… | type TEXT | key C-c | resize COLUMNSxROWS | await REGEXP | kill | end CODE"
	want(ts, len(args) > 0, usage)
	w := of(ts)
	if args[0] == "start" {
		want(ts, len(args) > 3 && args[2] == "kiln", usage)
		s, err := startScreen(ts, args[1], args[3:])
		check(ts, err)
		w.screen = s
		return
	}
	want(ts, w.screen != nil && (len(args) == 2 || args[0] == "kill"), usage)
	s := w.screen
	switch args[0] {
	case "type":
		_, err := s.own.WriteString(args[1] + "\r")
		check(ts, err)
	case "key":
		want(ts, args[1] == "C-c", usage)
		_, err := s.own.WriteString("\x03")
		check(ts, err)
	case "resize":
		check(ts, s.resize(args[1]))
	case "await":
		check(ts, s.await(args[1]))
	case "kill":
		check(ts, s.cmd.Process.Kill())
		<-s.ended
	case "end":
		code, err := strconv.Atoi(args[1])
		check(ts, err)
		check(ts, s.end(code))
	default:
		ts.Fatalf("usage: %s", usage)
	}
}

func startScreen(ts *testscript.TestScript, size string, args []string) (*screen, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &screen{own: os.NewFile(uintptr(fd), "/dev/ptmx"), ended: make(chan struct{})}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), s.resize(size)); err != nil {
		return nil, err
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s.cmd = exec.Command(of(ts).Bin, args...)
	s.cmd.Env = append(os.Environ(), append(of(ts).Env(), "TERM=xterm", "KILN_AUTHOR=ada")...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = theirs, theirs, theirs
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	ts.Defer(func() { _ = s.cmd.Process.Kill() }) // most have ended
	go s.read()
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // its state says how it ended
	}()
	return s, nil
}

func (s *screen) read() {
	b := make([]byte, 4096)
	for {
		n, err := s.own.Read(b)
		s.mu.Lock()
		s.shown = append(s.shown, b[:n]...)
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) resize(size string) error {
	var columns, rows uint16
	if _, err := fmt.Sscanf(size, "%dx%d", &columns, &rows); err != nil {
		return fmt.Errorf("%q is no size: %w", size, err)
	}
	conn, err := s.own.SyscallConn()
	if err != nil {
		return err
	}
	var setting error
	err = conn.Control(func(fd uintptr) {
		setting = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	return errors.Join(err, setting)
}

// await waits until what is shown matches; what matched is not looked at again.
func (s *screen) await(pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(terminalWait); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		at := re.FindIndex(s.shown)
		if at != nil {
			s.shown = s.shown[at[1]:]
		}
		text := string(s.shown)
		s.mu.Unlock()
		if at != nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the terminal does not show %q:\n%s", pattern, text)
		}
	}
}

func (s *screen) end(code int) error {
	select {
	case <-s.ended:
	case <-time.After(terminalWait):
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("it does not end:\n%s", s.shown)
	}
	_ = s.own.Close()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("it ended with %d, not %d:\n%s", got, code, s.shown)
	}
	return nil
}
