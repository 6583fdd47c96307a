package evidence

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// logs gives lines as an engine does.
type logs struct {
	lines int
	text  func() string
	fail  error
	lost  string // what kiln remarks at the beginning
}

func (l *logs) Logs(_ context.Context, _ model.ServerID, _ engine.LogOptions, sink func(engine.LogLine) error) error {
	if l.lost != "" {
		if err := sink(engine.LogLine{Stream: engine.StreamKiln, Text: l.lost}); err != nil {
			return err
		}
	}
	for i := range l.lines {
		if err := sink(engine.LogLine{At: time.Unix(int64(i), 5).UTC(), Stream: "stdout", Text: l.text()}); err != nil {
			return err
		}
	}
	return l.fail
}

// noise returns lines that do not compress.
func noise(length int) func() string {
	random := rand.New(rand.NewPCG(1, 2))
	return func() string {
		b := make([]byte, length)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[random.IntN(36)]
		}
		return string(b)
	}
}

func TestPutAndOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // spooled: it does not say how long it is
	onDisk := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(onDisk, []byte("from disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, err := s.Put(t.Context(), "s-abcdef", time.Now(), func(w *Writer) error {
		f, err := os.Open(onDisk)
		if err != nil {
			return err
		}
		defer f.Close()
		for _, x := range []struct {
			name string
			r    io.Reader
		}{
			{"session.cast", strings.NewReader("cast")},
			{"changes/etc/app.conf", f},
			{"changes/big", io.MultiReader(bytes.NewReader(big))},
			{"empty", io.MultiReader()},
		} {
			if err := w.File(x.name, x.r); err != nil {
				return err
			}
		}
		for _, bad := range []string{"", ".", "/x", "../x", "empty"} {
			if err := w.File(bad, strings.NewReader("")); model.CodeOf(err) != model.Invalid {
				t.Errorf("a file named %q: %v", bad, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, again := range []*Store{s, open(t, dir, Options{})} {
		if a, ok := again.Find("s-abcdef"); !ok || a.Digest != digest || a.Size == 0 {
			t.Errorf("found %+v, %v", a, ok)
		}
		files, err := again.Open(digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(files, "session.cast", "changes/etc/app.conf", "changes/big", "empty"); err != nil {
			t.Error(err)
		}
		if b, err := fs.ReadFile(files, "changes/big"); err != nil || !bytes.Equal(b, big) {
			t.Errorf("big: %d bytes, %v", len(b), err)
		}
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+unfinished)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPutThatFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Quota: 1 << 20})
	for name, c := range map[string]struct {
		name  string
		write func(*Writer) error
		code  model.Code
	}{
		"its own error": {"shop-aaaaaa", func(*Writer) error { return model.Errorf(model.Denied, "no") }, model.Denied},
		"too large":     {"shop-aaaaaa", func(w *Writer) error { return w.File("x", strings.NewReader(noise(4<<20)())) }, model.Precondition},
		"no name":       {"../x", func(*Writer) error { return nil }, model.Invalid},
	} {
		if _, err := s.Put(t.Context(), c.name, time.Now(), c.write); model.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 || entries[0].Name() != reserveName {
		t.Errorf("left behind: %v", entries)
	}
}

// TestFirstArchives reads what the first kilns wrote.
func TestFirstArchives(t *testing.T) {
	dir := t.TempDir()
	plain := `{"version":1,"record":{"server":"shop-aaaaaa"},"taken":["dead"],"observed":{"id":"shop-aaaaaa"},"log":[{"at":"2026-01-02T03:04:05Z","stream":"stdout","text":"old"}]}`
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	out := seal(&packed, 1<<20)
	if _, err := out.Write(encoder.EncodeAll([]byte(plain), nil)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(out.digest(), "sha256:")+oldSuffix), packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Options{})
	if raw, err := s.Read(t.Context(), out.digest()); err != nil || string(raw) != plain {
		t.Fatalf("%s, %v", raw, err)
	}
	files, err := s.Open(out.digest())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if err := fstest.TestFS(files, contentFile); err != nil {
		t.Error(err)
	}
	var got []string
	if err := files.Log(t.Context(), engine.LogOptions{}, func(l engine.LogLine) error { got = append(got, l.Text); return nil }); err != nil || len(got) != 1 || got[0] != "old" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTheWholeLog(t *testing.T) {
	n := 0
	s := open(t, t.TempDir(), Options{Logs: &logs{lines: 30_000, text: func() string { n++; return fmt.Sprintf("line %d %s", n, strings.Repeat("x", 80)) }}})
	files, err := s.Open(write(t, s, record("shop-aaaaaa"), nil, evidenceOf("last")).Evidence)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	names, err := fs.Glob(files, logDir+"/*.log")
	if err != nil || len(names) < 3 {
		t.Errorf("the log is in %v, %v", names, err)
	}
	for _, c := range []struct {
		opts  engine.LogOptions
		count int
		first string
	}{
		{engine.LogOptions{}, 30_000, "line 1 "},
		{engine.LogOptions{Tail: 3}, 3, "line 29998 "},
		{engine.LogOptions{Since: time.Unix(29_000, 0)}, 1000, "line 29001 "},
	} {
		var got []engine.LogLine
		if err := files.Log(t.Context(), c.opts, func(l engine.LogLine) error { got = append(got, l); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) != c.count || !strings.HasPrefix(got[0].Text, c.first) || got[0].Stream != "stdout" || got[0].At.Nanosecond() != 5 {
			t.Errorf("%+v gives %d lines, the first %+v", c.opts, len(got), got[0])
		}
	}
	if c := read(t, s, write(t, s, record("shop-bbbbbb"), nil, evidenceOf("last")).Evidence); len(c.Log) != 1000 {
		t.Errorf("%d lines are shown", len(c.Log))
	}
	// What cannot be had whole is had as far as it was collected.
	s.opts.Logs = &logs{fail: model.Errorf(model.Unavailable, "gone")}
	third := write(t, s, record("shop-cccccc"), nil, evidenceOf("last"))
	if c := read(t, s, third.Evidence); len(c.Log) != 1 || c.Log[0].Text != "last" || !strings.Contains(third.Missing[0], "gone") {
		t.Errorf("%+v, missing %q", c.Log, third.Missing)
	}
}

// TestTheRestOfALog checks that a record says how much of a log was not kept.
func TestTheRestOfALog(t *testing.T) {
	s := open(t, t.TempDir(), Options{Logs: &logs{lines: 3, text: noise(60), lost: "kiln: 8388700 bytes were written before this line and are not kept"}})
	written := write(t, s, record("shop-aaaaaa"), nil, evidenceOf("last"))
	want := "the beginning of its log: 8388700 bytes were written before this line and are not kept"
	if !slices.Contains(written.Missing, want) {
		t.Errorf("missing is %q, want %q in it", written.Missing, want)
	}
	if c := read(t, s, written.Evidence); len(c.Log) != 4 || c.Log[0].Stream != engine.StreamKiln {
		t.Errorf("the log is %+v", c.Log)
	}
}

func TestTrim(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	now := time.Now()
	for i, id := range []string{"shop-aaaaaa", "shop-bbbbbb"} {
		at := now.Add(-time.Duration(2-i) * time.Hour)
		if err := os.Chtimes(pathOf(t, s, write(t, s, record(id), nil, evidenceOf("x")).Evidence), at, at); err != nil {
			t.Fatal(err)
		}
	}
	var said []model.ObjectsRemoved
	s = open(t, dir, Options{Announce: func(_ context.Context, r model.ObjectsRemoved) error { said = append(said, r); return nil }})
	s.Trim(t.Context(), now, 90*time.Minute)
	left, _ := s.Objects(t.Context())
	if len(left) != 1 || left[0].Server != "shop-bbbbbb" || len(said) != 1 || said[0].Count != 1 {
		t.Fatalf("left %+v, announced %+v", left, said)
	}
	if err := s.Remove(t.Context(), left[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), left[0]); err != nil {
		t.Fatalf("absent is done: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Fatalf("left behind: %v", entries)
	}
}

// TestAmongThousands finds and reads the log of one server among thousands of
// archives: it takes far less than the second that people may wait.
func TestAmongThousands(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Logs: &logs{lines: 20_000, text: noise(60)}})
	wanted := write(t, s, record("shop-aaaaaa"), nil, evidenceOf("last")).Evidence
	for i := range 3000 {
		a := Archive{Name: "shop-" + model.Sixes("bbbbbb", uint64(i)), Digest: fmt.Sprintf("sha256:%064x", i)}
		if err := os.WriteFile(filepath.Join(dir, a.fileName()), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, Options{})
	began := time.Now()
	a, ok := s.Find("shop-aaaaaa")
	if !ok || a.Digest != wanted {
		t.Fatalf("found %+v, %v", a, ok)
	}
	files, err := s.Open(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	n := 0
	if err := files.Log(t.Context(), engine.LogOptions{Tail: 10}, func(engine.LogLine) error { n++; return nil }); err != nil || n != 10 {
		t.Fatalf("%d lines, %v", n, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}
