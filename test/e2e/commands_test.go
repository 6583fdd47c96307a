package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/test/authority"
	"kiln/test/instance"
)

// worldKey finds a script's world.
type worldKey struct{}

// world is what one script acts on.
type world struct {
	*instance.Instance
	shops    string
	current  string                 // the binary under test
	previous func() (string, error) // the binary of the version before
	next     func() (string, error) // a later build of this tree
	loads    map[string]*underway
	held     []net.Conn // connections that a script has open
	ended    bool       // as it should: nothing is left
	screen   *screen    // that terminal acts on
	origin   *origin    // from which builds fetch; nil: there is none

	authorities []*authority.Authority
}

// tools copies programs of this machine into a directory, with the libraries
// that they need, as an image without a distribution has them.
func tools(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) > 1, "tools DIRECTORY PROGRAM…")
	dir := ts.MkAbs(args[0])
	for _, name := range args[1:] {
		path, err := exec.LookPath(name)
		check(ts, err)
		check(ts, copyInto(dir, path, "/bin/"+name))
		out, err := exec.Command("ldd", path).Output()
		check(ts, err)
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") {
				check(ts, copyInto(dir, word, word))
			}
		}
	}
}

func copyInto(dir, from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	to = filepath.Join(dir, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are what scripts can say besides testscript's own words; README.md
// describes them.
func commands() map[string]command {
	return map[string]command{
		"daemon": daemon, "end": end, "kiln": kiln, "code": code, "eventually": eventually, "split": split, "sticky": sticky,
		"http": httpCommand, "json": jsonCommand, "jsonvar": jsonvar, "signal": signal,
		"running": running, "occupy": occupy, "shop": shop, "expand": expand, "edit": edit, "flip": flip, "load": loadCommand,
		"disk": disk, "fill": fill, "free": free, "limit": limit, "hold": hold, "release": release, "logged": logged,
		"reboot": reboot, "lose": lose, "program": program,
		"terminal": terminal, "tools": tools, "pull": pull, "others": others, "attach": attach,
		"authority": authorityCommand, "origin": originCommand, "certificate": certificate,
	}
}

func of(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// check ends the script with the error.
func check(ts *testscript.TestScript, err error) {
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

func want(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// daemon starts, stops (SIGTERM) or kills (SIGKILL) the daemon; "restart" is
// kill and start.
func daemon(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) >= 1, "daemon start|stop|kill|restart [NAME=VALUE…] [FLAG…]")
	w := of(ts)
	if more := slices.Clone(args[1:]); len(more) > 0 {
		w.Variables = nil
		for len(more) > 0 && !strings.HasPrefix(more[0], "-") && strings.Contains(more[0], "=") {
			w.Variables, more = append(w.Variables, more[0]), more[1:]
		}
		w.Flags = more
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	switch args[0] {
	case "start":
		check(ts, w.Start(ctx))
	case "stop":
		check(ts, w.Stop(30*time.Second))
	case "kill":
		check(ts, w.Kill())
	case "restart":
		check(ts, w.Kill())
		check(ts, w.Start(ctx))
	default:
		ts.Fatalf("cannot %s a daemon", args[0])
	}
}

// reboot does to the instance what a reboot of the machine does; the daemon is
// not started.
func reboot(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 0 || len(args) == 1 && args[0] == "dirty", "reboot [dirty]")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(ts, of(ts).Reboot(ctx, len(args) == 1))
}

// lose ends everything of the instance and takes its data directory away, as a
// machine that is lost does.
func lose(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 0, "lose")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(ts, of(ts).Purge(ctx))
}

// end destroys every service and the instance; nothing of it may be left.
func end(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 0, "end")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	left, err := of(ts).End(ctx)
	check(ts, err)
	if len(left) > 0 {
		check(ts, fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  ")))
	}
	of(ts).ended = true
}

// kiln runs a client command that has to succeed, or with ! to fail.
func kiln(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(of(ts).Bin, args...)
	switch {
	case err != nil && !neg:
		check(ts, fmt.Errorf("kiln %s: %w", strings.Join(args, " "), err))
	case err == nil && neg:
		check(ts, fmt.Errorf("kiln %s succeeded", strings.Join(args, " ")))
	}
}

// code runs a client command that has to end with this exit code.
func code(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) > 1 && args[1] == "kiln", "code N kiln ARGUMENT…")
	expected, err := strconv.Atoi(args[0])
	check(ts, err)
	got := 0
	if err := ts.Exec(of(ts).Bin, args[2:]...); err != nil {
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			check(ts, err)
		}
		got = failed.ExitCode()
	}
	if got != expected {
		check(ts, fmt.Errorf("kiln %s ended with %d, want %d", strings.Join(args[2:], " "), got, expected))
	}
}

// eventually repeats kiln or http until what it prints matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, len(args) > 2, "eventually DURATION REGEXP kiln|http ARGUMENT…")
	within, err := time.ParseDuration(args[0])
	check(ts, err)
	pattern, err := regexp.Compile("(?m)" + args[1])
	check(ts, err)
	last := ""
	for deadline := time.Now().Add(within); ; {
		switch args[2] {
		case "kiln":
			_ = ts.Exec(of(ts).Bin, args[3:]...) // what it printed counts
			last = ts.ReadFile("stdout") + ts.ReadFile("stderr")
		case "http":
			if last, err = ask(args[3:]); err != nil {
				last = err.Error()
			}
		default:
			ts.Fatalf("cannot repeat %s", args[2])
		}
		if pattern.MatchString(last) != neg {
			return
		}
		if time.Now().After(deadline) {
			check(ts, fmt.Errorf("%s does not come to match %q within %s; last:\n%s", args[2], args[1], args[0], last))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// jsonCommand compares a value in the last standard output.
func jsonCommand(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, len(args) == 2, "json PATH VALUE")
	got := find(ts, args[0])
	if (got == args[1]) == neg {
		check(ts, fmt.Errorf("%s is %s, want %s%s", args[0], got, map[bool]string{true: "another than "}[neg], args[1]))
	}
}

// jsonvar puts a value of the last standard output into the environment.
func jsonvar(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "jsonvar NAME PATH")
	ts.Setenv(args[0], find(ts, args[1]))
}

// find walks to a value as services.0.servers.1.id; "len" is a list's length.
// What streams is a line each: its last is looked at.
func find(ts *testscript.TestScript, path string) string {
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		lines := strings.Split(text, "\n")
		check(ts, json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	}
	for step := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[step]
			if !ok {
				check(ts, fmt.Errorf("no %s in %s", path, text))
			}
			v = next
		case []any:
			if step == "len" {
				v = len(at)
				break
			}
			n, err := strconv.Atoi(step)
			if err != nil || n >= len(at) {
				check(ts, fmt.Errorf("no %s in %s", path, text))
			}
			v = at[n]
		default:
			check(ts, fmt.Errorf("no %s in %s", path, text))
		}
	}
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	check(ts, err)
	return string(b)
}

// signal sends a signal to a role's processes, or to a server's.
func signal(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "signal KILL|TERM|STOP|CONT|HUP ROLE|SERVER")
	signals := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT, "HUP": syscall.SIGHUP}
	sig, ok := signals[args[0]]
	want(ts, ok, "signal KILL|TERM|STOP|CONT|HUP ROLE|SERVER")
	check(ts, of(ts).Signal(args[1], sig))
}

// running says whether a role or server has a process, and prints the pids.
func running(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, len(args) == 1, "running ROLE|SERVER")
	pids, err := of(ts).PIDs(args[0])
	check(ts, err)
	for _, pid := range pids {
		fmt.Fprintln(ts.Stdout(), pid)
	}
	if (len(pids) > 0) == neg {
		check(ts, fmt.Errorf("%d processes of %s run", len(pids), args[0]))
	}
}

// occupy listens on a port of the loopback until the script ends.
func occupy(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 1, "occupy PORT")
	l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	check(ts, err)
	ts.Defer(func() { _ = l.Close() })
}

// shop copies a version of examples/shop, compiled, to a directory.
func shop(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "shop VERSION DIRECTORY")
	b, err := os.ReadFile(filepath.Join(of(ts).shops, args[0]))
	check(ts, err)
	check(ts, os.WriteFile(filepath.Join(ts.MkAbs(args[1]), "shop"), b, 0o755))
}

// expand replaces $NAME in files by the environment's value.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) > 0, "expand FILE…")
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		check(ts, os.WriteFile(ts.MkAbs(file), []byte(text), 0o644))
	}
}

// edit replaces a text in a file, which has to be there.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 3, "edit FILE OLD NEW")
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		check(ts, fmt.Errorf("%s does not contain %q", args[0], args[1]))
	}
	check(ts, os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o644))
}

// flip inverts one bit of a file, at an offset, or at the place of a text.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 2, "flip FILE OFFSET|TEXT")
	file := ts.MkAbs(args[0])
	b, err := os.ReadFile(file)
	check(ts, err)
	at, err := strconv.Atoi(args[1])
	if err != nil {
		at = strings.Index(string(b), args[1])
	}
	if at < 0 || at >= len(b) {
		check(ts, fmt.Errorf("%s has no place %s", args[0], args[1]))
	}
	b[at] ^= 1
	check(ts, os.WriteFile(file, b, 0o600))
}
