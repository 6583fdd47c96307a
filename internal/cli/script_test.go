package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/internal/api"
	"kiln/internal/audit"
	"kiln/internal/model"
)

// TestMain makes the test binary the program too.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kiln": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		code := Program{
			Version: "1.2.3",
			Stdin:   os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			Env: os.Getenv,
			Now: func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) },
			Roles: Roles{
				Daemon: func(_ context.Context, o DaemonOptions) error {
					fmt.Printf("daemon %s %s %s debug=%t\n", o.DataDir, o.Socket, o.ServerNet, o.Debug)
					return nil
				},
				VerifyJournal: func(_ context.Context, dir string) (*api.AuditReport, error) {
					return nil, model.Errorf(model.NotFound, "there is no journal in %s", dir)
				},
				Account: func(_ context.Context, dir, _ string, _, _ time.Time) (audit.Account, error) {
					return audit.Account{}, model.Errorf(model.NotFound, "there is no journal in %s", dir)
				},
				ServeContext: func(_ context.Context, conn net.Conn, dir, containerfile string) error {
					defer conn.Close()
					fmt.Fprintf(conn, "context %s %s\n", filepath.Base(dir), containerfile)
					_, err := io.Copy(io.Discard, conn)
					return err
				},
			},
		}.Run(ctx, os.Args[1:])
		stop()
		os.Exit(code)
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			// A unix socket's path is short, so it does not lie in the work directory.
			env.Setenv("KILN_SOCKET", filepath.Join(t.TempDir(), "s"))
			env.Setenv("KILN_AUTHOR", "ada")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GIT_CONFIG_NOSYSTEM", "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": startFake,
			"exits":  exits,
			"signal": interruptBackground,
		},
	})
}

// exits runs kiln and checks its exit code: exits 3 kiln deploy shop.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// interruptBackground sends SIGINT to what runs in the background once its
// marker file exists in the requests: signal MARKER.
func interruptBackground(ts *testscript.TestScript, _ bool, args []string) {
	for range 500 {
		raw, _ := os.ReadFile(ts.MkAbs("requests"))
		if strings.Contains(string(raw), args[0]) {
			for _, cmd := range ts.BackgroundCmds() {
				ts.Check(cmd.Process.Signal(os.Interrupt))
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s was never asked for", args[0])
}

// answer is one answer of the fake daemon.
type answer struct {
	status int
	drop   bool // the connection is cut after the body
	hang   bool // the connection stays open after the body
	body   string
}

// fake is a daemon that answers from a file. Its answers to one request are
// given one after the other, the last one again and again.
type fake struct {
	mu       sync.Mutex
	answers  map[string][]answer
	requests *os.File
	session  chan string
}

// startFake: daemon FILE. The file has sections "## METHOD PATH STATUS [drop|hang]"
// with the body below; the requests are written to the file "requests".
func startFake(ts *testscript.TestScript, _ bool, args []string) {
	log, err := os.OpenFile(ts.MkAbs("requests"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ts.Check(err)
	f := &fake{answers: map[string][]answer{}, requests: log, session: make(chan string, 1)}
	key := ""
	for line := range strings.SplitSeq(ts.ReadFile(args[0]), "\n") {
		if rest, ok := strings.CutPrefix(line, "## "); ok {
			fields := strings.Fields(rest)
			status, err := strconv.Atoi(fields[2])
			ts.Check(err)
			key = fields[0] + " " + fields[1]
			a := answer{status: status}
			for _, how := range fields[3:] {
				a.drop, a.hang = a.drop || how == "drop", a.hang || how == "hang"
			}
			f.answers[key] = append(f.answers[key], a)
			continue
		}
		if key != "" && line != "" {
			last := &f.answers[key][len(f.answers[key])-1]
			last.body += line + "\n"
		}
	}
	socket := ts.Getenv("KILN_SOCKET")
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	ts.Check(err)
	server := &http.Server{Handler: f}
	done := make(chan struct{})
	go func() { _ = server.Serve(l); close(done) }()
	ts.Defer(func() { _ = server.Close(); <-done; log.Close() })
}

func (f *fake) next(key string) (answer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.answers[key]
	if len(all) == 0 {
		return answer{}, false
	}
	if len(all) > 1 {
		f.answers[key] = all[1:]
	}
	return all[0], true
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Method + " " + r.URL.EscapedPath()
	if r.Header.Get("Upgrade") == api.SessionProtocol {
		f.serveSession(w)
		return
	}
	body, _ := io.ReadAll(r.Body)
	f.note("%s %s%s %s\n", r.Method, r.URL.EscapedPath(), query(r), oneLine(r, body))
	a, ok := f.next(key)
	if !ok {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"status":404,"code":"not_found","detail":"the fake knows no %s","hint":"teach it"}`, key)
		return
	}
	w.WriteHeader(a.status)
	for i, line := range strings.SplitAfter(a.body, "\n") {
		fmt.Fprint(w, line)
		w.(http.Flusher).Flush()
		if i == 0 && r.URL.Path == api.PathBuild {
			f.note("session: %s\n", <-f.session)
		}
	}
	if a.hang {
		<-r.Context().Done()
	}
	if a.drop {
		panic(http.ErrAbortHandler)
	}
}

func query(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return "?" + r.URL.RawQuery
}

func oneLine(r *http.Request, body []byte) string {
	if r.URL.Path == api.PathImport {
		return fmt.Sprintf("%d bytes", len(body))
	}
	return string(body)
}

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(f.requests, format, args...)
}

// serveSession takes the build's session and reads what the client brings.
func (f *fake) serveSession(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.SessionProtocol+"\r\n\r\n")
	line, _ := bufio.NewReader(conn).ReadString('\n')
	f.session <- strings.TrimSpace(line)
	conn.Close()
}
