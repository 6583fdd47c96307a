package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"kiln/internal/engine"
)

// files makes a directory with the files.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestUsage: both versions of control groups are read alike.
func TestUsage(t *testing.T) {
	unified := files(t, map[string]string{
		"memory.current": "5000\n", "memory.stat": "anon 1\ninactive_file 1000\n", "memory.max": "8192\n",
		"memory.events": "low 0\noom 3\noom_kill 2\n", "cpu.stat": "usage_usec 7000\nthrottled_usec 30\n",
		"pids.current": "4\n", "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
	})
	split := files(t, map[string]string{
		"memory.usage_in_bytes": "5000\n", "memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
		"memory.limit_in_bytes": "8192\n", "memory.oom_control": "under_oom 0\noom_kill 2\n",
		"cpuacct.usage": "7000000\n", "cpu.stat": "nr_periods 1\nthrottled_time 30000\n", "pids.current": "4\n",
		"blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\n8:16 Write 2\nTotal 33\n",
	})
	want := engine.Usage{
		CPU: 7 * time.Millisecond, Throttled: 30 * time.Microsecond, Memory: 4000, MemoryLimit: 8192, OOMKills: 2, PIDs: 4,
		ReadBytes: 11, WrittenBytes: 22,
	}
	for name, read := range map[string]func() (engine.Usage, bool){
		"v2": func() (engine.Usage, bool) { return usageUnified(unified) },
		"v1": func() (engine.Usage, bool) { return usageSplit(func(string) string { return split }) },
	} {
		got, ok := read()
		got.At = time.Time{}
		if !ok || got != want {
			t.Errorf("%s: %+v (%v), want %+v", name, got, ok, want)
		}
	}
	if _, ok := usageUnified(t.TempDir()); ok {
		t.Error("a group that is gone uses something")
	}
}

func TestUnlimited(t *testing.T) {
	for text, want := range map[string]int64{"9223372036854771712\n": 0, "4096\n": 4096} {
		dir := files(t, map[string]string{"memory.usage_in_bytes": "1\n", "memory.limit_in_bytes": text})
		if u, ok := usageSplit(func(string) string { return dir }); !ok || u.MemoryLimit != want {
			t.Errorf("a limit of %q is %d (%v)", text, u.MemoryLimit, ok)
		}
	}
}

func TestLinks(t *testing.T) {
	dir := files(t, map[string]string{"dev": "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n" +
		"    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\nkaaaaaabbbbbb:7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n"})
	links, err := readLinks(filepath.Join(dir, "dev"))
	if err != nil || links["kaaaaaabbbbbb"] != (linkBytes{7, 9}) || len(links) != 2 {
		t.Errorf("read %v (%v)", links, err)
	}
}
