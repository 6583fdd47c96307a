package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

func record(id string) model.DeathRecord {
	return model.DeathRecord{
		Server: model.ServerID(id), Service: "shop", Release: 2, Image: "sha256:0", Reason: "it ended",
		Exit: &model.Exit{Known: true, Code: 3}, EndedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func evidenceOf(text string) *engine.Evidence {
	return &engine.Evidence{
		Observed: model.Observed{ID: "shop-aaaaaa", State: model.Exited},
		Log:      []engine.LogLine{{At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Stream: "stderr", Text: text}},
		Changes:  []engine.Change{{Path: "/tmp/x", Kind: "added", Size: 3}},
	}
}

func open(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, s *Store, r model.DeathRecord, alive, dead *engine.Evidence) model.DeathRecord {
	t.Helper()
	written, err := s.Write(t.Context(), r, alive, dead)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

func read(t testing.TB, s *Store, digest string) Content {
	t.Helper()
	raw, err := s.Read(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	var c Content
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	dir := t.TempDir()
	alive, dead := evidenceOf("before"), evidenceOf("after")
	alive.Processes = []engine.Process{{PID: 1, Command: "/app"}}
	alive.Listening = []engine.Socket{{Network: "tcp", Address: "127.0.0.1:80"}}
	alive.Missing, dead.Missing = []string{"a sample"}, []string{"its memory"}
	r := record("shop-aaaaaa")
	r.Missing = []string{"something else"}
	written := write(t, open(t, dir, Options{}), r, alive, dead)
	if !model.ValidDigest(written.Evidence) {
		t.Fatalf("the archive has the digest %q", written.Evidence)
	}
	missing := []string{"before its end: a sample", "after its end: its memory"}
	if diff := cmp.Diff(append([]string{"something else"}, missing...), written.Missing); diff != "" {
		t.Fatal(diff)
	}
	want := Content{Version: 2, Record: r, Taken: []string{"alive", "dead"}, Evidence: *dead}
	want.Processes, want.Listening, want.Missing = alive.Processes, alive.Listening, missing
	if diff := cmp.Diff(want, read(t, open(t, dir, Options{}), written.Evidence)); diff != "" {
		t.Fatal(diff)
	}
}

func TestOneSideOnly(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for name, c := range map[string]struct{ alive, dead *engine.Evidence }{
		"alive": {alive: evidenceOf("x")},
		"dead":  {dead: evidenceOf("x")},
	} {
		written := write(t, s, record("shop-aaaaaa"), c.alive, c.dead)
		got := read(t, s, written.Evidence)
		if len(got.Log) != 1 || got.Log[0].Text != "x" || len(got.Taken) != 1 || got.Taken[0] != name {
			t.Errorf("%s: %+v", name, got)
		}
	}
	written := write(t, s, record("shop-aaaaaa"), nil, nil)
	if written.Evidence != "" || len(written.Missing) != 1 {
		t.Errorf("without any evidence: %+v", written)
	}
}

func TestManyChangesAreCut(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	dead := evidenceOf("x")
	dead.Changes = make([]engine.Change, maxChanges+5)
	written := write(t, s, record("shop-aaaaaa"), nil, dead)
	if got := read(t, s, written.Evidence); len(got.Changes) != maxChanges {
		t.Fatalf("%d changes are kept", len(got.Changes))
	}
	if !strings.Contains(strings.Join(written.Missing, "\n"), "5 of 20005 changed paths") {
		t.Fatalf("nothing says so: %v", written.Missing)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for _, digest := range []string{"", "sha256:../../etc/passwd", "sha256:12"} {
		if _, err := s.Read(t.Context(), digest); model.CodeOf(err) != model.Invalid {
			t.Errorf("%q: %v", digest, err)
		}
	}
	absent := "sha256:" + strings.Repeat("0", 64)
	if _, err := s.Read(t.Context(), absent); model.CodeOf(err) != model.NotFound {
		t.Errorf("absent: %v", err)
	}
	digest := write(t, s, record("shop-aaaaaa"), nil, evidenceOf("x")).Evidence
	path := pathOf(t, s, digest)
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	packed[len(packed)/2] ^= 1
	if err := os.WriteFile(path, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context(), digest); err == nil || !strings.Contains(err.Error(), "it was changed since it was written") {
		t.Errorf("a changed archive: %v", err)
	}
}

func TestOldestMakesRoom(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	noise := strings.Repeat("all work and no play ", 50)
	probe := open(t, t.TempDir(), Options{})
	write(t, probe, record("shop-aaaaaa"), nil, evidenceOf(noise))
	kept, _ := probe.List(t.Context())
	size := kept[0].Size
	var said []model.ObjectsRemoved
	opts := Options{Quota: 3*size + size/2, Log: slog.New(slog.NewTextHandler(&log, nil)), Announce: func(_ context.Context, r model.ObjectsRemoved) error {
		for _, digest := range r.IDs {
			if found, _ := filepath.Glob(filepath.Join(dir, "*."+strings.TrimPrefix(digest, "sha256:")+suffix)); len(found) != 1 {
				t.Errorf("%s is gone before it is announced", digest)
			}
		}
		said = append(said, r)
		return errors.New("nobody listens") // which holds nothing up
	}}
	var digests []string
	for i, id := range []string{"shop-aaaaaa", "shop-bbbbbb", "shop-cccccc", "shop-dddddd", "shop-eeeeee"} {
		s := open(t, dir, opts)
		digest := write(t, s, record(id), nil, evidenceOf(noise)).Evidence
		at := time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC)
		if err := os.Chtimes(pathOf(t, s, digest), at, at); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
	}
	archives, err := open(t, dir, opts).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, a := range archives {
		left = append(left, a.Digest)
	}
	if len(said) != 2 || said[1].Count != 1 || said[1].Bytes == 0 || said[1].Object != model.ObjectEvidence {
		t.Errorf("announced: %+v", said)
	}
	if diff := cmp.Diff(digests[2:], left); diff != "" {
		t.Fatalf("not the three newest are kept:\n%s", diff)
	}
	for _, digest := range digests[:2] {
		if !strings.Contains(log.String(), digest) {
			t.Errorf("the log does not say that %s was removed", digest)
		}
	}
	tiny := open(t, t.TempDir(), Options{Quota: 10})
	if written := write(t, tiny, record("shop-aaaaaa"), nil, evidenceOf("x")); written.Evidence != "" || !strings.Contains(written.Missing[0], "quota of 10") {
		t.Fatalf("an archive beyond the quota: %+v", written)
	}
}

func pathOf(t *testing.T, s *Store, digest string) string {
	t.Helper()
	for _, a := range s.list() {
		if a.Digest == digest {
			return filepath.Join(s.dir, a.fileName())
		}
	}
	t.Fatalf("there is no archive %s", digest)
	return ""
}

func TestUnfinishedArchivesAreSwept(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, strings.Repeat("a", 64)+suffix+unfinished)
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Options{})
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Fatalf("it is still there: %v", err)
	}
	if archives, err := s.List(t.Context()); err != nil || len(archives) != 0 {
		t.Fatalf("%v, %v", archives, err)
	}
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, t.TempDir(), Options{}).Write(ctx, record("shop-aaaaaa"), nil, nil); model.CodeOf(err) != model.Unavailable {
		t.Fatal(err)
	}
}

func TestConcurrentWrites(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			id := "shop-" + model.Sixes("aaaaaa", uint64(i%10))
			if written, err := s.Write(t.Context(), record(id), nil, evidenceOf("x")); err != nil || written.Evidence == "" {
				t.Errorf("%+v, %v", written, err)
			}
		})
	}
	all.Wait()
	if archives, err := s.List(t.Context()); err != nil || len(archives) != 10 {
		t.Fatalf("ten different archives were written twice, %d are kept (%v)", len(archives), err)
	}
}

// TestFullDisk runs itself in a mount namespace of its own, on a small tmpfs.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv("KILN_TEST_FULL_DISK"); dir != "" {
		onFullDisk(t, dir)
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), "KILN_TEST_FULL_DISK="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFullDisk")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onFullDisk(t *testing.T, dir string) {
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	noisy := &logs{lines: 2000, text: noise(100)}
	s := open(t, dir, Options{Reserve: 64 << 10})
	first := write(t, s, record("shop-aaaaaa"), nil, evidenceOf("first"))
	fillUp(t, dir)
	second := write(t, s, record("shop-bbbbbb"), nil, evidenceOf("second"))
	if second.Evidence == "" || read(t, s, second.Evidence).Log[0].Text != "second" {
		t.Fatalf("the reserve was no use: %+v", second)
	}
	fillUp(t, dir)
	s.opts.Logs = noisy
	third := write(t, s, record("shop-cccccc"), nil, evidenceOf("third"))
	if third.Evidence == "" || read(t, s, third.Evidence).Log[0].Text != "third" {
		t.Fatalf("the newest did not take the place of the oldest: %+v", third)
	}
	if want := "the whole log (these are its last lines): the disk is full"; strings.Join(third.Missing, "") != want {
		t.Fatalf("missing %q, want %q", third.Missing, want)
	}
	if _, err := s.Open(first.Evidence); model.CodeOf(err) != model.NotFound {
		t.Fatalf("the oldest is still there: %v", err)
	}
	for _, a := range s.list() {
		if err := s.remove(a); err != nil {
			t.Fatal(err)
		}
	}
	fillUp(t, dir)
	fourth := write(t, s, record("shop-dddddd"), nil, evidenceOf("fourth"))
	if fourth.Evidence != "" || !strings.HasSuffix(strings.Join(fourth.Missing, "\n"), "the disk is full") {
		t.Fatalf("on a full disk without reserve: %+v", fourth)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+unfinished)); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	fifth := write(t, s, record("shop-eeeeee"), nil, evidenceOf("fifth"))
	info, err := os.Stat(filepath.Join(dir, reserveName))
	if fifth.Evidence == "" || err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 != 64<<10 {
		t.Fatalf("with room again: %+v, the reserve %v, %v", fifth, info, err)
	}
}

func fillUp(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}
