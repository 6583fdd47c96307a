package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/model"
)

func TestInstanceIsMadeOnceAndNeverGuessed(t *testing.T) {
	dir := t.TempDir()
	first, err := instanceOf(dir, "")
	if err != nil || !model.ValidInstanceID(string(first)) {
		t.Fatalf("the first start made instance %q: %v", first, err)
	}
	if again, err := instanceOf(dir, ""); err != nil || again != first {
		t.Fatalf("the second start found instance %q (%v), not %q", again, err, first)
	}
	if err := os.WriteFile(filepath.Join(dir, "instance"), []byte("NOPE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := instanceOf(dir, ""); model.CodeOf(err) != model.Invalid || model.HintOf(err) == "" {
		t.Errorf("a damaged instance id was answered with %v", err)
	}
}

// On the same boot the elapsed time goes on by itself; after another it goes on
// where the journal stopped, so that no deadline comes early or is lost.
func TestClockGoesOnOverReboots(t *testing.T) {
	id, err := readBootID(kernelBootID)
	if err != nil {
		t.Fatal(err)
	}
	const offset = model.Instant(5e12)
	same, err := newClock(&model.State{BootID: id, BootOffset: offset, Elapsed: 1}, kernelBootID)
	if err != nil || same.offset != offset {
		t.Errorf("on the same boot the offset is %v (%v), not %v", same.offset, err, offset)
	}
	const stopped = model.Instant(9e15)
	other, err := newClock(&model.State{BootID: "another boot", BootOffset: offset, Elapsed: stopped}, kernelBootID)
	if err != nil {
		t.Fatal(err)
	}
	if now := other.Now(); now.Elapsed < stopped || now.Elapsed.Sub(stopped) > 60e9 {
		t.Errorf("after a reboot the elapsed time is %d, and the journal stopped at %d", now.Elapsed, stopped)
	}
}

func TestListenReplacesADeadDaemonsSocketAndRefusesLongPaths(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kiln.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := listen(path)
	if err != nil {
		t.Fatalf("cannot listen over what a dead daemon left: %v", err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode is %v (%v), not 0660", info.Mode(), err)
	}
	if _, err := listen("/" + strings.Repeat("x", 120)); model.CodeOf(err) != model.Invalid || model.HintOf(err) == "" {
		t.Errorf("a path that is too long was answered with %v", err)
	}
}
