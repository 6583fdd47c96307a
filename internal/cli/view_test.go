package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
)

func testApp(stderr *bytes.Buffer) *app {
	return &app{Program: Program{
		Stderr: stderr,
		Env:    func(string) string { return "" },
		Now:    func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) },
	}}
}

// The live view draws over what it drew, keeps the servers over a message, and
// leaves the last table.
func TestLiveView(t *testing.T) {
	var out bytes.Buffer
	v := testApp(&out).view("shop", "d-abcdef")
	v.live = true
	two := []api.ServerStatus{{ID: "shop-aaaaaa", Phase: model.PhaseRunning}, {ID: "shop-bbbbbb", Phase: model.PhaseServing, InService: true}}
	v.show(api.Progress{Phase: model.DeployChecking, WaitingFor: "x", Servers: two})
	v.show(api.Progress{Phase: model.DeployChecking, WaitingFor: "x", Message: "shop-aaaaaa is healthy"})
	v.end()
	got := out.String()
	if n := strings.Count(got, "\x1b[3A\x1b[J"); n != 1 {
		t.Errorf("drawn over %d times, want once over three lines:\n%q", n, got)
	}
	if n := strings.Count(got, "shop-bbbbbb"); n != 2 {
		t.Errorf("the servers were drawn %d times, want 2:\n%q", n, got)
	}
	if strings.Contains(got, "is healthy") {
		t.Errorf("the message was printed into the table:\n%q", got)
	}
}

// Plain lines say each state once, and do not repeat it as a message.
func TestPlainView(t *testing.T) {
	var out bytes.Buffer
	v := testApp(&out).view("shop", "d-abcdef")
	for range 2 {
		v.show(api.Progress{Phase: model.DeployChecking, WaitingFor: "x"})
		v.show(api.Progress{Phase: model.DeployChecking, WaitingFor: "x", Message: "deployment d-abcdef is checking, waiting for x"})
	}
	v.show(api.Progress{Phase: model.DeployEnded, Message: "release 2 is in service"})
	if want := "shop: checking: x\nshop: release 2 is in service\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestClipDoesNotCountColours(t *testing.T) {
	if got := clip("\x1b[32mgreen\x1b[0m and long", 7); got != "\x1b[32mgreen\x1b[0m a" {
		t.Errorf("got %q", got)
	}
}

func TestPrintableHoldsTheTerminal(t *testing.T) {
	if got := printable("a\x1b[2J\tb\r\xff\u009bc"); strings.ContainsAny(got, "\x1b\r\u009b") || !strings.Contains(got, "\tb") {
		t.Errorf("got %q", got)
	}
}
