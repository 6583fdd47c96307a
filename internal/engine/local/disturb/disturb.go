// Package disturb is what a lasting disturbance of a server needs a process for:
// one that is in the server's control groups, or that lets go of the server
// when the engine's process is gone. It ends, and what it did with it, as soon
// as its time is over or its standard input ends.
package disturb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The first argument of the program, and what it says when the disturbance is
// in force.
const (
	Command = "disturb"
	Ready   = "ready"
)

// Order is what the program is called with.
type Order struct {
	Kind   string // "freeze", "cpu" or "memory"
	Lasts  time.Duration
	Limit  int64    // memory: bytes that the server may have
	Usage  string   // memory: the directory of the control group that says how much it has
	Groups []string // directories of the control groups: to freeze, or to join
}

// Arguments are those of the program for the order.
func (o Order) Arguments() []string {
	return append([]string{Command, o.Kind, o.Lasts.String(), strconv.FormatInt(o.Limit, 10), o.Usage}, o.Groups...)
}

// Run carries an order out; arguments are those after Command.
func Run(arguments []string) error {
	if len(arguments) < 5 {
		return fmt.Errorf("cannot disturb by %q", arguments)
	}
	lasts, err := time.ParseDuration(arguments[1])
	if err != nil {
		return err
	}
	limit, err := strconv.ParseInt(arguments[2], 10, 64)
	if err != nil {
		return err
	}
	o := Order{Kind: arguments[0], Lasts: lasts, Limit: limit, Usage: arguments[3], Groups: arguments[4:]}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	switch o.Kind {
	case "freeze":
		return o.freeze(over)
	case "cpu":
		return o.burn(over)
	case "memory":
		return o.fill(over)
	default:
		return fmt.Errorf("there is no disturbance %q", o.Kind)
	}
}

// hold says that the disturbance is in force, and waits until it is over.
func (o Order) hold(over <-chan struct{}) {
	fmt.Println(Ready)
	select {
	case <-over:
	case <-time.After(o.Lasts):
	}
}

func (o Order) freeze(over <-chan struct{}) error {
	group := o.Groups[0]
	defer func() { _ = Thaw(group) }()
	if err := setFrozen(group, true); err != nil {
		return err
	}
	o.hold(over)
	return Thaw(group)
}

// Thaw lets the processes of a control group go on; absent is done.
func Thaw(group string) error {
	if err := setFrozen(group, false); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// setFrozen writes what control groups of version 1 or 2 have for it, and waits
// until it is so.
func setFrozen(group string, frozen bool) error {
	file, say, state, want := "cgroup.freeze", "0", "cgroup.events", "frozen 0"
	if frozen {
		say, want = "1", "frozen 1"
	}
	if _, err := os.Stat(filepath.Join(group, file)); err != nil { // version 1
		file, say, state, want = "freezer.state", "THAWED", "freezer.state", "THAWED"
		if frozen {
			say, want = "FROZEN", "FROZEN"
		}
	}
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		f, err := os.OpenFile(filepath.Join(group, file), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(say)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(group, state))
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(want)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("control group %s is not as it was told: %s", group, bytes.TrimSpace(b))
		}
	}
}

// join moves this process into the control groups.
func (o Order) join() error {
	for _, group := range o.Groups {
		f, err := os.OpenFile(filepath.Join(group, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(strconv.Itoa(os.Getpid()))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// burn keeps every processor busy that the server may use.
func (o Order) burn(over <-chan struct{}) error {
	if err := o.join(); err != nil {
		return err
	}
	for range runtime.NumCPU() {
		go func() {
			for n := uint64(1); n != 0; n = n*6364136223846793005 + 1442695040888963407 | 1 {
			}
		}()
	}
	o.hold(over)
	return nil
}

// headroom is what fill leaves: whoever takes more than that hits the limit, and
// that is the server.
const headroom = 1 << 20

// fill holds so much memory that nothing is left of what the server may have.
// Where this process may say so, the kernel takes the server's processes and not
// this one when the limit is hit.
func (o Order) fill(over <-chan struct{}) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	if err := o.join(); err != nil {
		return err
	}
	var held [][]byte
	grow := func() error {
		for {
			used, err := memoryUsed(o.Usage)
			if err != nil {
				return err
			}
			const step = 1 << 20
			if used+headroom+step > o.Limit {
				return nil
			}
			b, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
			if err != nil {
				return err
			}
			held = append(held, b)
		}
	}
	if err := grow(); err != nil {
		return err
	}
	fmt.Println(Ready)
	const again = 200 * time.Millisecond // what the server gives back is taken, too
	for end := time.After(o.Lasts); ; {
		select {
		case <-over:
			return nil
		case <-end:
			return nil
		case <-time.After(again):
			if err := grow(); err != nil {
				return err
			}
		}
	}
}

// memoryUsed is what a control group holds that the kernel cannot drop.
func memoryUsed(group string) (int64, error) {
	usage, files := "memory.current", []string{"inactive_file ", "active_file "}
	if _, err := os.Stat(filepath.Join(group, usage)); err != nil { // version 1
		usage, files = "memory.usage_in_bytes", []string{"total_inactive_file ", "total_active_file "}
	}
	b, err := os.ReadFile(filepath.Join(group, usage))
	if err != nil {
		return 0, err
	}
	used, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(filepath.Join(group, "memory.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(stat)) {
		for _, name := range files {
			if v, ok := strings.CutPrefix(line, name); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
				used -= n
			}
		}
	}
	return used, nil
}
