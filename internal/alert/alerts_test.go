package alert

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

const drifted, validated = model.Kind("server.drifted"), model.Kind("server.validated")

// TestMain is a daemon that can be killed, when it is told so.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KILN_TEST_ALERTS"); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// TestChosen: a receiver is told what it has chosen, in order, from when it was
// declared on, of its services; the next daemon goes on after that.
func TestChosen(t *testing.T) {
	all, some := newHook(t), newHook(t)
	w := newWorld(t, fmt.Sprintf(`
webhook "all" {
  url    = %q
  events = ["*"]
}
webhook "some" {
  url      = %q
  services = ["shop"]
}`, all.URL, some.URL+"/secret?token=1"))
	w.j.add(drifted, "shop") // before anybody was declared
	w.start()
	w.receivers(2)
	w.j.add(drifted, "shop")
	w.j.add(validated, "shop")
	w.j.add(drifted, "other")
	eventually(t, "all are told", func() bool {
		return slices.Equal(all.told(), []uint64{2, 3, 4}) && slices.Equal(some.told(), []uint64{2})
	})
	eventually(t, "their answers have come", func() bool { // what was not answered for is told again
		s, _ := w.a.Standing()
		return s[0].Seq == 4 && s[1].Seq == 4
	})
	w.stop()
	w.j.add(drifted, "shop") // while no daemon runs
	w.start()
	eventually(t, "the next daemon goes on", func() bool {
		return slices.Equal(all.told(), []uint64{2, 3, 4, 5}) && slices.Equal(some.told(), []uint64{2, 5})
	})
	var standing []Status
	eventually(t, "they stand at the end", func() (ok bool) {
		var err error
		standing, err = w.a.Standing()
		return err == nil && len(standing) == 2 && standing[1].Seq == 5 && standing[1].Behind == 0 && standing[1].Delivered == 1
	})
	if got := standing[1].Target; got != some.URL {
		t.Errorf("the target is told as %q", got)
	}
	if keys := all.keys; keys[3] != "abcdef-5" {
		t.Errorf("the keys are %q", keys)
	}
}

// TestRetries: a receiver that fails, refuses, is slow, or is not there is tried
// again; nothing overtakes what it was not told.
func TestRetries(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.answer = func(try int, w http.ResponseWriter) bool {
		switch try {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
			return false
		case 2:
			time.Sleep(3 * time.Second) // longer than it may take
			return false
		}
		return true
	}
	w := newWorld(t, fmt.Sprintf("webhook \"ops\" {\n  url = %q\n  events = [\"server.*\"]\n  timeout = \"2s\"\n}", h.URL))
	w.start()
	w.receivers(1)
	w.j.add(drifted, "shop")
	w.j.add(validated, "shop")
	var said []string
	eventually(t, "both are told", func() bool {
		standing, _ := w.a.Standing()
		if e := standing[0].Error; e != "" && !slices.Contains(said, e) {
			said = append(said, e)
		}
		return slices.Equal(h.told(), []uint64{1, 2})
	})
	if len(said) != 2 || !strings.Contains(said[0], "it answered 500") || !strings.Contains(said[1], "longer than 2s") {
		t.Errorf("meanwhile it was said that %q", said)
	}
	if f := w.j.failures(); len(f) != 0 {
		t.Errorf("what was told in the end was given up: %v", f)
	}
}

// TestVanishes: a receiver that goes away, also in the middle of an answer, is told
// when it is back at the same address.
func TestVanishes(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	w := newWorld(t, fmt.Sprintf("webhook \"ops\" {\n  url = \"http://%s\"\n}", address))
	w.start()
	w.receivers(1)
	w.j.add(drifted, "shop")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil { // it takes the request, and is gone
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = l.Close()
	eventually(t, "the loss is seen", func() bool {
		s, _ := w.a.Standing()
		return s[0].Tries >= 2 && strings.Contains(s[0].Error, "refused")
	})
	h := newHook(t)
	back, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h.Config.Handler, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(back) }()
	t.Cleanup(func() { _ = server.Close() })
	eventually(t, "it is told", func() bool { return slices.Equal(h.told(), []uint64{1}) })
}

// TestGivesUp: what is too old and cannot be told is written down, and the next is
// tried. Who cannot be told is not told of that.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.answer = func(try int, w http.ResponseWriter) bool {
		if try <= fewestTries {
			w.WriteHeader(http.StatusTeapot)
			_, _ = fmt.Fprintln(w, "no coffee\nhere")
		}
		return try > fewestTries
	}
	w := newWorld(t, fmt.Sprintf("webhook \"ops\" {\n  url = %q\n  give_up = \"1ms\"\n  events = [\"server.drifted\", \"alert.failed\"]\n}", h.URL))
	w.start()
	w.receivers(1)
	w.j.add(drifted, "shop")
	w.j.mu.Lock()
	w.j.events = append(w.j.events, Event{Seq: 2, Kind: "alert.failed", About: "ops"}, Event{Seq: 3, Kind: "alert.failed", About: "other"})
	w.j.mu.Unlock()
	eventually(t, "the next is told", func() bool { return slices.Equal(h.told(), []uint64{3}) })
	want := model.AlertFailed{Name: "ops", Seq: 1, Reason: "it answered 418 I'm a teapot: no coffee"}
	if f := w.j.failures(); len(f) != 1 || f[0] != want {
		t.Errorf("written down is %v, want %v", f, want)
	}
}

// TestCommand: a command has the event on its standard input and in its environment;
// one that fails or hangs is tried again, and leaves nothing behind.
func TestCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := filepath.Join(dir, "page")
	text := `#!/bin/sh
echo try >>` + dir + `/tries
case $(wc -l <` + dir + `/tries) in
1) echo "no line" >&2; exit 3;;
2) sleep 100 & echo $! >` + dir + `/sleeper; wait;;
*) cat >` + dir + `/event; echo "$KILN_KIND $KILN_SERVICE $KILN_SEQ $KILN_TEXT" >` + dir + `/env;;
esac
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, fmt.Sprintf("command \"page\" {\n  command = [%q]\n  timeout = \"3s\"\n}", script))
	w.start()
	w.receivers(1)
	w.j.add(drifted, "shop")
	var said []string
	eventually(t, "it is told", func() bool {
		s, _ := w.a.Standing()
		if e := s[0].Error; e != "" && !slices.Contains(said, e) {
			said = append(said, e)
		}
		return s[0].Delivered == 1
	})
	if len(said) != 2 || said[0] != "it ended with exit status 3: no line" || said[1] != "it took longer than 3s" {
		t.Errorf("meanwhile it was said that %q", said)
	}
	env, _ := os.ReadFile(filepath.Join(dir, "env"))
	event, _ := os.ReadFile(filepath.Join(dir, "event"))
	if string(env) != "server.drifted shop 1 it happened\n" || !strings.Contains(string(event), `"kind":"server.drifted"`) {
		t.Errorf("it had %s and %s", env, event)
	}
	pid, _ := os.ReadFile(filepath.Join(dir, "sleeper"))
	eventually(t, "what the command started has ended", func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)) + "/exe")
		return err != nil
	})
}

// TestFile: changes of the file are taken up; what is wrong is said, and what was
// right before holds.
func TestFile(t *testing.T) {
	h := newHook(t)
	one := fmt.Sprintf("webhook \"ops\" {\n  url = %q\n}\n", h.URL)
	w := newWorld(t, "")
	w.start()
	w.receivers(0)
	w.declare(one)
	w.receivers(1)
	w.declare(one + "webhook \"ops\" {\n")
	eventually(t, "the mistake is said", func() bool {
		all, err := w.a.Standing()
		return len(all) == 1 && err != nil && strings.HasPrefix(err.Error(), "alerts.hcl:4:")
	})
	w.j.add(drifted, "shop")
	eventually(t, "it is told still", func() bool { return slices.Equal(h.told(), []uint64{1}) })
	w.declare("")
	w.receivers(0)
	if _, err := os.Stat(filepath.Join(w.dir, "alerts", "ops.json")); err == nil {
		t.Error("the cursor of a receiver that is gone is kept")
	}
}

// TestMistakes: what is wrong with a file is said with what would be right.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"webhook \"a\" {\n}\n":                                                                 `alerts.hcl:1:13: The argument "url" is required`,
		"webhook \"a\" {\n  url = \"ftp://x\"\n}\n":                                            "not one like https://",
		"webhook \"a\" {\n  url = \"http://x\"\n  event = []\n}\n":                             "alerts.hcl:3:3:",
		"webhook \"a\" {\n  url = \"http://x\"\n  events = [\"drift\"]\n}\n":                   `"drift" is no kind of event`,
		"webhook \"a\" {\n  url = \"http://x\"\n  timeout = \"10\"\n}\n":                       "not a duration like 10s",
		"webhook \"a\" {\n  url = \"http://x\"\n  timeout = \"1h\"\n}\n":                       "at most 5m",
		"webhook \"A b\" {\n  url = \"http://x\"\n}\n":                                         "a name has at most",
		"command \"a\" {\n  command = [\"page\"]\n}\n":                                         "absolute path",
		"webhook \"a\" {\n  url = \"http://x\"\n}\ncommand \"a\" {\n  command = [\"/x\"]\n}\n": "two receivers",
	} {
		if _, err := parseConfig("alerts.hcl", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || model.CodeOf(err) != model.Invalid {
			t.Errorf("%s\nis answered %v, want %q", text, err, want)
		}
	}
	path := filepath.Join(t.TempDir(), "alerts.hcl")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig(path); model.CodeOf(err) != model.Denied {
		t.Errorf("a file that others may write is answered %v", err)
	}
}

// TestStandard: without a choice a receiver hears what somebody should know.
func TestStandard(t *testing.T) {
	for _, p := range standard() {
		if !known(p) {
			t.Errorf("%s selects nothing", p)
		}
	}
	ended := model.DeploymentEnded{}.Kind()
	for verdict, want := range map[model.Verdict]bool{model.Succeeded: false, model.Failed: true, model.Aborted: true, model.Unknown: true} {
		if got := matches(standard(), Event{Kind: ended, Verdict: verdict}); got != want {
			t.Errorf("a deployment that ended as %s is told: %v", verdict, got)
		}
	}
}

// TestTestCall: a test call asks each once, and says how it went.
func TestTestCall(t *testing.T) {
	good, bad := newHook(t), newHook(t)
	bad.answer = func(_ int, w http.ResponseWriter) bool {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
		return false
	}
	w := newWorld(t, fmt.Sprintf("webhook \"good\" {\n  url = %q\n}\nwebhook \"bad\" {\n  url = %q\n}\n", good.URL, bad.URL))
	w.start()
	w.receivers(2)
	out, err := w.a.Test(t.Context(), "", "jane")
	if err != nil || len(out) != 2 || out[1].Error != "" || !strings.Contains(out[0].Error, "302") {
		t.Errorf("it says %+v (%v)", out, err)
	}
	if good.kinds[0] != TestKind || bad.tries != 1 {
		t.Errorf("told was %v, the other was tried %d times", good.kinds, bad.tries)
	}
	if _, err := w.a.Test(t.Context(), "nobody", ""); model.CodeOf(err) != model.NotFound || !strings.Contains(model.HintOf(err), "bad, good") {
		t.Errorf("a receiver that does not exist is answered %v (%s)", err, model.HintOf(err))
	}
}

// manyEvents is how many the child tells.
const manyEvents = 300

// child tells many events until it is killed or has told them.
func child(dir string) int {
	j := newJournal()
	for range manyEvents {
		j.add(drifted, "shop")
	}
	a := New(Config{File: filepath.Join(dir, "alerts.hcl"), Dir: filepath.Join(dir, "alerts"), Journal: j, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			if s, _ := a.Standing(); len(s) == 1 && s[0].Seq == manyEvents {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := a.Run(ctx); err != nil {
		return 1
	}
	return 0
}

// TestKilled: killed again and again, a daemon tells every event in order, and none
// more than once more for each kill.
func TestKilled(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	w := newWorld(t, fmt.Sprintf("webhook \"ops\" {\n  url = %q\n}\n", h.URL))
	dir := filepath.Join(w.dir, "alerts")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := cursorOf(dir, "ops").store(0); err != nil { // it is not new
		t.Fatal(err)
	}
	kills := 0
	for ; ; kills++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KILN_TEST_ALERTS="+w.dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(h.told())
		if kills == 4 {
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			break
		}
		eventually(t, "some are told", func() bool { return len(h.told()) > before+20+7*kills })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	told := h.told()
	again := 0
	for i, seq := range told {
		switch {
		case i == 0 && seq == 1, i > 0 && seq == told[i-1]+1:
		case i > 0 && seq == told[i-1]:
			again++
		default:
			t.Fatalf("after %d comes %d: %s", told[max(0, i-1)], seq, strconv.Itoa(i))
		}
	}
	if told[len(told)-1] != manyEvents || again > kills {
		t.Errorf("told up to %d, %d of them again after %d kills", told[len(told)-1], again, kills)
	}
}

// What docs/alerts.md shows of its receivers is what kiln shows of them: nothing
// that is secret.
func TestSampleShowsNoSecret(t *testing.T) {
	b, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, declared, _ := strings.Cut(string(b), "\n    webhook ")
	declared, shown, _ := strings.Cut(declared, "\nTry it:\n")
	all, err := parseConfig("alerts.hcl", []byte("webhook "+declared))
	if err != nil || len(all) != 3 {
		t.Fatalf("%d receivers are declared, want 3 (%v)", len(all), err)
	}
	for _, r := range all {
		line := regexp.MustCompile(`(?m)^ +` + r.name + ` .*$`).FindString(shown)
		if got := strings.Fields(line); len(got) < 3 || got[1] != r.kind() || got[2] != r.target() {
			t.Errorf("%s is shown as %q; it is a %s to %s", r.name, line, r.kind(), r.target())
		}
	}
}

// While it cannot be written down how far a receiver was told, it is told all the
// same, and that is known until it can be.
func TestPlaceThatCannotBeWritten(t *testing.T) {
	h := newHook(t)
	w := newWorld(t, fmt.Sprintf("webhook \"a\" {\n  url = %q\n}\n", h.URL))
	w.start()
	w.receivers(1)
	inTheWay := filepath.Join(w.dir, "alerts", "a.json.new")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	w.j.add(drifted, "shop")
	w.j.add(drifted, "shop")
	eventually(t, "both are told, and the trouble is known", func() bool {
		all := w.a.Troubles()
		return len(h.told()) == 2 && len(all) == 1 && strings.Contains(all[0], "receiver a of alerts")
	})
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the trouble is over, though nothing new has happened", func() bool { return len(w.a.Troubles()) == 0 })
}
