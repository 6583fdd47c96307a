package journal_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiln/internal/journal"
	"kiln/internal/journal/journaltest"
	"kiln/internal/model"
)

// files are the contents of a journal's directory.
type files map[string][]byte

// inMemory returns a directory in memory where there is one: these tests write
// what a disk would hold after a crash themselves.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kiln-journal-") //nolint:usetesting // in memory: thousands of fsyncs
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// capture reads the directory of a journal that nobody writes to just now, as
// a crash would leave it.
func capture(t testing.TB, dir string) files {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := files{}
	for _, e := range entries {
		if e.Name() == "reserve" { // holds nothing
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = b
	}
	return all
}

// with returns the files with one of them changed.
func (f files) with(name string, content []byte) files {
	all := files{}
	maps.Copy(all, f)
	all[name] = content
	return all
}

func (f files) restore(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range f {
		if b == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func appendTo(t testing.TB, j *journal.Journal, seq uint64, n int) {
	t.Helper()
	if err := j.Append(t.Context(), 1, seq, journaltest.Script(1, seq, n)); err != nil {
		t.Fatal(err)
	}
}

// whole opens the journal, wants its state to be that after n events for an n
// within the bounds, appends to it, and opens it once more.
func whole(t *testing.T, dir string, atLeast, atMost uint64) {
	t.Helper()
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatalf("a crash made the journal unusable: %v", err)
	}
	n := j.Head().Seq
	if n < atLeast || n > atMost {
		t.Fatalf("the journal ends at event %d, want between %d and %d", n, atLeast, atMost)
	}
	wantState(t, j, n)
	appendTo(t, j, n, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openIn(t, dir, journal.Options{})
	wantState(t, j, n+2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantState(t *testing.T, j *journal.Journal, n uint64) {
	t.Helper()
	s, err := j.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	journaltest.SameState(t, s, journaltest.Fold(t, 1, int(n)))
}

func refused(t *testing.T, dir, says string) {
	t.Helper()
	before := capture(t, dir)
	j, err := journal.Open(dir, journal.Options{})
	if err == nil {
		_ = j.Close()
		t.Fatalf("the damage is accepted; it should be refused with %q", says)
	}
	if model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), says) || !strings.Contains(model.HintOf(err), "backup") {
		t.Fatalf("the refusal does not say %q: %v (%s; hint: %s)", says, err, model.CodeOf(err), model.HintOf(err))
	}
	for name, b := range before {
		if name == "lock" {
			continue
		}
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(now, b) {
			t.Fatalf("the refused journal's %s was changed (%v)", name, err)
		}
	}
}

// TestPowerCutInAnAppend cuts each write of an append at many places: what was
// acknowledged before is there, and the journal goes on.
func TestPowerCutInAnAppend(t *testing.T) {
	live, dir := inMemory(t), inMemory(t)
	j := openIn(t, live, journal.Options{SnapshotEvery: 7})
	seq := uint64(0)
	for _, n := range []int{1, 6, 2, 30, 3} {
		before := capture(t, live)
		appendTo(t, j, seq, n)
		after := capture(t, live)
		oldLog, newLog := before["journal.db-wal"], after["journal.db-wal"]
		if len(newLog) <= len(oldLog) {
			t.Fatalf("the log did not grow: %d, %d", len(oldLog), len(newLog))
		}
		for cut := len(oldLog); cut <= len(newLog); cut += 1 + (len(newLog)-len(oldLog))/23 {
			before.with("journal.db-wal", newLog[:cut]).restore(t, dir)
			whole(t, dir, seq, seq+uint64(n))
			// Sectors may reach the disk in any order: the last one did, some did not.
			holes := bytes.Clone(newLog)
			clear(holes[len(oldLog)+(cut-len(oldLog))/2 : cut])
			before.with("journal.db-wal", holes).restore(t, dir)
			whole(t, dir, seq, seq+uint64(n))
		}
		oldHead, newHead := before["journal.head"], after["journal.head"]
		for cut := 0; cut < len(newHead); cut += 64 {
			after.with("journal.head", append(bytes.Clone(newHead[:cut]), oldHead[cut:]...)).restore(t, dir)
			whole(t, dir, seq+uint64(n), seq+uint64(n))
		}
		seq += uint64(n)
	}
}

// TestAcknowledgedIsNeverLost cuts and changes the log behind an
// acknowledgement.
func TestAcknowledgedIsNeverLost(t *testing.T) {
	live, dir := inMemory(t), inMemory(t)
	j := openIn(t, live, journal.Options{})
	appendTo(t, j, 0, 10)
	early := capture(t, live)
	appendTo(t, j, 10, 10)
	before := capture(t, live)
	appendTo(t, j, 20, 5)
	after := capture(t, live)
	after.with("journal.db-wal", before["journal.db-wal"]).restore(t, dir)
	refused(t, dir, "events 21 to 25 are missing: acknowledged, but the journal ends before")
	after.with("journal.db-wal", nil).restore(t, dir)
	refused(t, dir, "events 1 to 25 are missing")
	flipped := bytes.Clone(after["journal.db-wal"])
	flipped[len(before["journal.db-wal"])+100] ^= 4
	after.with("journal.db-wal", flipped).restore(t, dir)
	refused(t, dir, "events 21 to 25 are missing")
	after.with("journal.db", nil).with("journal.db-wal", nil).restore(t, dir)
	refused(t, dir, "journal.db is missing")
	after.with("journal.head", nil).restore(t, dir)
	refused(t, dir, "journal.head is missing")
	after.with("journal.head", before["journal.head"]).restore(t, dir)
	whole(t, dir, 25, 25) // as after a crash before the acknowledgement

	// The head of event 25 is torn, the one before is not.
	torn := bytes.Clone(after["journal.head"])
	clear(torn[bytes.Index(torn, []byte(`{"seq":25`)):][:40])
	after.with("journal.head", torn).with("journal.db-wal", early["journal.db-wal"]).restore(t, dir)
	refused(t, dir, "events 11 to 20 are missing: acknowledged")

	// What opening the journal has shown is acknowledged from then on.
	after.with("journal.head", before["journal.head"]).restore(t, dir)
	j = openIn(t, dir, journal.Options{})
	if err := errors.Join(j.SQL(t.Context(), `DELETE FROM events WHERE seq > 20`), j.Close()); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "events 21 to 25 are missing: acknowledged")
}

// TestPowerCutInACheckpoint mixes pages of the database file from before and
// after a checkpoint.
func TestPowerCutInACheckpoint(t *testing.T) {
	live, dir := inMemory(t), inMemory(t)
	j := openIn(t, live, journal.Options{})
	for seq := uint64(0); seq < 200; seq += 20 {
		appendTo(t, j, seq, 20)
		if seq == 100 {
			if err := j.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := capture(t, live)
	if err := j.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := capture(t, live)
	const page = 4096
	old, now := before["journal.db"], after["journal.db"]
	if len(now) <= len(old) || len(old) < 2*page {
		t.Fatalf("the checkpoints do not work as this test expects: %d, %d bytes", len(old), len(now))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		mixed := append(bytes.Clone(old), make([]byte, len(now)-len(old))...)
		for at := 0; at < len(now); at += page {
			if random.IntN(2) == 0 {
				copy(mixed[at:], now[at:at+random.IntN(page+1)])
			}
		}
		before.with("journal.db", mixed).restore(t, dir)
		whole(t, dir, 200, 200)
	}
}

// TestFlippedBits flips single bits all over a journal: it is refused, or the
// bit meant nothing and the state is the true one.
func TestFlippedBits(t *testing.T) {
	live, dir := inMemory(t), inMemory(t)
	j := openIn(t, live, journal.Options{SnapshotEvery: 40})
	appendTo(t, j, 0, 30)
	if err := j.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendTo(t, j, 30, 40)
	frozen := capture(t, live)
	random := rand.New(rand.NewPCG(3, 4))
	wanted := journaltest.Fold(t, 1, 70)
	for _, name := range []string{"journal.db", "journal.db-wal", "journal.head", "key"} {
		refusals := 0
		const flips = 250
		for range flips {
			changed := bytes.Clone(frozen[name])
			at, bit := random.IntN(len(changed)), random.IntN(8)
			changed[at] ^= 1 << bit
			frozen.with(name, changed).restore(t, dir)
			j, err := journal.Open(dir, journal.Options{})
			if err != nil {
				refusals++
				if model.CodeOf(err) != model.Precondition {
					t.Fatalf("bit %d of byte %d of %s: refused with %v (%s)", bit, at, name, err, model.CodeOf(err))
				}
				continue
			}
			s, err := j.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s.Seq != 70 || !sameJSON(t, s, wanted) {
				t.Fatalf("bit %d of byte %d of %s: accepted, and the state is another", bit, at, name)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if refusals == 0 && name != "key" {
			t.Errorf("not one of %d changes of %s was noticed", flips, name)
		}
		t.Logf("%s: %d of %d flips refused, the others meant nothing", name, refusals, flips)
	}
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return bytes.Equal(x, y)
}

// TestKilled kills a writing process at each step, and at random, again and
// again on one journal.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	acknowledged := uint64(0)
	round := func(name string, env ...string) {
		t.Helper()
		atLeast, killed := writeUntilKilled(t, dir, env...)
		if !killed {
			t.Fatalf("%s: the writer was not killed", name)
		}
		acknowledged = max(acknowledged, atLeast)
		report, err := journal.VerifyFile(t.Context(), dir)
		switch {
		case model.CodeOf(err) == model.NotFound && acknowledged == 0:
			return
		case err != nil || !report.Whole():
			t.Fatalf("%s: %+v, %v", name, report, err)
		case report.Events < acknowledged:
			t.Fatalf("%s: %d events were acknowledged, %d are there", name, acknowledged, report.Events)
		}
		acknowledged = report.Events
		j := openIn(t, dir, journal.Options{})
		wantState(t, j, acknowledged)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range journal.OpeningSteps {
		round(string(step), "KILN_TEST_STEP="+string(step))
	}
	for _, step := range journal.AppendSteps {
		for _, after := range []int{1, 2, 5} {
			round(fmt.Sprint(step, after), "KILN_TEST_STEP="+string(step), "KILN_TEST_AFTER="+strconv.Itoa(after))
		}
	}
	random := rand.New(rand.NewPCG(5, 6))
	for range 12 {
		round("random", "KILN_TEST_AFTER_MS="+strconv.Itoa(5+random.IntN(120)))
	}
	if acknowledged < 100 {
		t.Fatalf("only %d events were written: this test tests nothing", acknowledged)
	}
}

// writeUntilKilled runs a writer in a process of its own and returns the last
// sequence number that it was told is durable.
func writeUntilKilled(t *testing.T, dir string, env ...string) (acknowledged uint64, killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestWriterProcess$")
	cmd.Env = append(append(os.Environ(), "KILN_TEST_DIR="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
			acknowledged = n
		}
	}
	_ = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return acknowledged, ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// TestWriterProcess is the process that is killed.
func TestWriterProcess(t *testing.T) {
	dir := os.Getenv("KILN_TEST_DIR")
	if dir == "" {
		return // it is a test only when TestKilled starts it
	}
	die := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	if ms, err := strconv.Atoi(os.Getenv("KILN_TEST_AFTER_MS")); err == nil {
		time.AfterFunc(time.Duration(ms)*time.Millisecond, die)
	}
	after, _ := strconv.Atoi(os.Getenv("KILN_TEST_AFTER"))
	options := journal.Options{SnapshotEvery: 4}.Reaching(func(step journal.Step) error {
		if string(step) == os.Getenv("KILN_TEST_STEP") {
			if after--; after <= 0 {
				die()
			}
		}
		return nil
	})
	j := openIn(t, dir, options)
	for seq := j.Head().Seq; ; {
		n := 1 + int(seq%5)
		appendTo(t, j, seq, n)
		seq += uint64(n)
		fmt.Println(seq)
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

func onFullDisk(t *testing.T, mount string) {
	if err := syscall.Mount("none", mount, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	dir, reserve := filepath.Join(mount, "j"), filepath.Join(mount, "j", "reserve")
	j := openIn(t, dir, journal.Options{})
	fillDisk(t, mount)
	seq := uint64(0)
	for have := true; have; seq += 10 {
		if seq > 100_000 {
			t.Fatal("the disk does not get full: this test tests nothing")
		}
		appendTo(t, j, seq, 10)
		_, err := os.Stat(reserve)
		have = err == nil
	}
	fillDisk(t, mount)
	var err error
	for ; err == nil; seq += 10 {
		if seq > 200_000 {
			t.Fatal("the disk does not get full: this test tests nothing")
		}
		err = j.Append(t.Context(), 1, seq, journaltest.Script(1, seq, 10))
	}
	seq -= 10
	if model.CodeOf(err) != model.Unavailable || !strings.Contains(model.HintOf(err), "is it full") {
		t.Fatalf("on a full disk: %v (%s)", err, model.CodeOf(err))
	}
	wantState(t, j, seq)
	if err := os.Remove(filepath.Join(mount, "filler")); err != nil {
		t.Fatal(err)
	}
	appendTo(t, j, seq, 10) // it goes on by itself
	if _, err := os.Stat(reserve); err != nil {
		t.Errorf("with room again the next full disk is met without a reserve: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole(t, dir, seq+10, seq+10)
	if _, err := os.Stat(reserve); err != nil {
		t.Fatalf("with room again there is no reserve: %v", err)
	}
}

func fillDisk(t *testing.T, mount string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(mount, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
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
