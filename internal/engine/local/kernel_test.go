package local

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/engine"
)

// sample is what a kernel wrote when a server had used up its memory.
const sample = `
veth3616ce4: renamed from eth0
other[4712]: segfault at 0 ip 000 sp 000 error 4 in app
app invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
CPU: 1 PID: 4711 Comm: app Not tainted 6.1.0 #1
memory: usage 65536kB, limit 65536kB, failcnt 14
Tasks state (memory values in pages):
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/kiln/abcdef/shop-ab2c3d,task_memcg=/kiln/abcdef/shop-ab2c3d,task=app,pid=4711,uid=100000
Memory cgroup out of memory: Killed process 4711 (app) total-vm:70000kB, anon-rss:65000kB
app invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/kiln/abcdef/shop-ab2c3e,task=app,pid=47110,uid=0
Memory cgroup out of memory: Killed process 47110 (app) total-vm:70000kB
kabcdefab2c3d: entered promiscuous mode
kabcdefab2c3dx: entered promiscuous mode
app[4711]: segfault at 0 ip 000 sp 000 error 4 in app
traps: app[47111] general protection fault
`

func TestKernelLines(t *testing.T) {
	var lines []kernelLine
	for i, text := range strings.Split(strings.Trim(sample, "\n"), "\n") {
		raw := fmt.Appendf(nil, "6,%d,%d,-;%s\n SUBSYSTEM=net\n", i, (i+1)*1_500_000, text)
		l, ok := parseKernelLine(raw)
		if !ok {
			t.Fatalf("cannot read %q", raw)
		}
		lines = append(lines, l)
	}
	pick := func(texts []string) (numbers []int) {
		for _, text := range texts {
			_, said, _ := strings.Cut(text, "] ")
			for i, l := range lines {
				if fmt.Sprintf("[%5d.%06d] %s", l.at/time.Second, l.at%time.Second/time.Microsecond, said) == text {
					numbers = append(numbers, i)
				}
			}
		}
		return numbers
	}
	for name, c := range map[string]struct {
		n     naming
		since time.Duration
		want  []int
	}{
		"its pid, its group, its link": {naming{id: "shop-ab2c3d", link: "kabcdefab2c3d", pids: []int{4711, 1, 0}}, 0, []int{2, 3, 4, 5, 6, 7, 11, 13}},
		"its group alone":              {naming{id: "shop-ab2c3d"}, 0, []int{2, 3, 4, 5, 6, 7}},
		"another":                      {naming{id: "shop-ab2c3e"}, 0, []int{8, 9, 10}},
		"the pid was another's before": {naming{id: "shop-zzzzzz", pids: []int{4711}}, 13 * time.Second, []int{13}},
		"none":                         {naming{id: "shop-zzzzzz"}, 0, nil},
	} {
		if diff := cmp.Diff(c.want, pick(c.n.among(lines, c.since))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, bad := range []string{"", "6,1;x", "6,1,x,-;x", "no head"} {
		if _, ok := parseKernelLine([]byte(bad)); ok {
			t.Errorf("%q is read", bad)
		}
	}
}

// TestKernelLog writes to the kernel's log and finds what it wrote.
func TestKernelLog(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	id := fmt.Sprintf("logtest-%06d", time.Now().UnixNano()%1_000_000)
	if err := os.WriteFile("/dev/kmsg", []byte("kiln: a test of kiln's own names "+id+"\n"), 0); err != nil {
		t.Fatal(err)
	}
	found, err := kernelLines(naming{id: id, since: time.Now()})
	if err != nil || len(found) != 1 || !strings.HasSuffix(found[0], "names "+id) {
		t.Fatalf("%q, %v", found, err)
	}
}

func TestSockets(t *testing.T) {
	words := func(s string) []string { return strings.Fields(s) }
	for line, want := range map[string]engine.Socket{
		"0: 0100007F:1F90 00000000:0000 0A 0:0": {Network: "tcp", Address: "127.0.0.1:8080", State: "listening"},
		"1: 0100007F:1F90 0200007F:C350 01 0:0": {Network: "tcp", Address: "127.0.0.1:8080", Remote: "127.0.0.2:50000", State: "established"},
	} {
		if got, ok := ipSocket("tcp", words(line)); !ok || got != want {
			t.Errorf("%s: %+v", line, got)
		}
	}
	if got, _ := ipSocket("udp", words("0: 00000000:0035 00000000:0000 07 0:0")); got.State != stateListening {
		t.Errorf("udp: %+v", got)
	}
	if _, ok := ipSocket("tcp", words("sl local_address rem_address st tx_queue")); ok {
		t.Error("the head of the table is read")
	}
	if got, ok := unixSocket(words("ffff: 00000002 00000000 00010000 0001 01 9999 /run/app.sock")); !ok || got != (engine.Socket{Network: "unix", Address: "/run/app.sock", State: "listening"}) {
		t.Errorf("unix: %+v", got)
	}
	if _, ok := unixSocket(words("ffff: 00000003 00000000 00000000 0001 03 9999")); ok {
		t.Error("a socket without a path is listed")
	}
	all := []engine.Socket{{Network: "tcp", Address: "a", State: stateListening}, {Network: "tcp", Address: "b", State: "established"}, {Network: "unix", Address: "/c", State: stateListening}}
	if diff := cmp.Diff([]engine.Socket{{Network: "tcp", Address: "a"}}, listeningAmong(all)); diff != "" {
		t.Error(diff)
	}
}

func TestProcess(t *testing.T) {
	var p engine.Process
	parent := describe(&p, "Name:\tapp\nState:\tS (sleeping)\nPPid:\t42\nUid:\t100000\t100000\t100000\t100000\nNSpid:\t4711\t7\nVmRSS:\t    2048 kB\nThreads:\t3\n")
	want := engine.Process{PID: 7, Command: "[app]", User: 100000, State: "S (sleeping)", Memory: 2 << 20, Threads: 3}
	if diff := cmp.Diff(want, p); diff != "" || parent != 42 {
		t.Errorf("parent %d, %s", parent, diff)
	}
	if boot := bootTime(); boot.IsZero() || boot.After(time.Now()) {
		t.Errorf("the machine was started at %s", boot)
	}
}
