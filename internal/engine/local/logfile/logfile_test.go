package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// kept reads everything that is kept in dir.
func kept(t *testing.T, dir string, o Options) []Line {
	t.Helper()
	var lines []Line
	if err := Read(t.Context(), dir, o, func(l Line) error { lines = append(lines, l); return nil }); err != nil {
		t.Fatalf("Read: %v", err)
	}
	return lines
}

func texts(lines []Line) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Stream.String()+":"+l.Text)
	}
	return strings.Join(all, "|")
}

func TestKeep(t *testing.T) {
	for name, c := range map[string]struct{ stdout, stderr, want string }{
		"nothing":           {"", "", ""},
		"lines":             {"one\ntwo\n", "", "stdout:one|stdout:two"},
		"no newline at end": {"one\ntwo", "", "stdout:one|stdout:two"},
		"empty lines":       {"\n\n", "", "stdout:|stdout:"},
		"other bytes":       {"a b\x00\xff\r\n", "", "stdout:a b\x00\xff\r"},
		"standard error":    {"", "bad\n", "stderr:bad"},
		"a long line":       {strings.Repeat("x", MaxLine+3) + "\nend\n", "", "stdout:" + strings.Repeat("x", MaxLine) + "|stdout:xxx|stdout:end"},
		"a full line":       {strings.Repeat("x", MaxLine) + "\nend\n", "", "stdout:" + strings.Repeat("x", MaxLine) + "|stdout:end"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			before := time.Now()
			keep(dir, strings.NewReader(c.stdout), strings.NewReader(c.stderr))
			lines := kept(t, dir, Options{})
			if got := texts(lines); got != c.want {
				t.Errorf("kept %.200q, want %.200q", got, c.want)
			}
			for _, l := range lines {
				if l.At.Before(before) || l.At.After(time.Now()) {
					t.Errorf("a line is stamped %s, it is %s", l.At, time.Now())
				}
			}
		})
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	w := &writer{dir: dir}
	start := time.Unix(1000, 0)
	for i := range 10 {
		w.write(appendLine(nil, start.Add(time.Duration(i)*time.Second), Stdout, fmt.Append(nil, i)))
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Tail: 2}, "stdout:8|stdout:9"},
		{Options{Tail: 20, Since: start.Add(7 * time.Second)}, "stdout:7|stdout:8|stdout:9"},
		{Options{Since: start.Add(time.Hour)}, ""},
	} {
		if got := texts(kept(t, dir, c.o)); got != c.want {
			t.Errorf("%+v gives %q, want %q", c.o, got, c.want)
		}
	}
	enough := errors.New("enough")
	if err := Read(t.Context(), dir, Options{}, func(Line) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Read says %v", err)
	}
}

// TestRotation writes more than is kept: the last lines are there, without a
// gap, and the bound holds.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	w := &writer{dir: dir}
	text := bytes.Repeat([]byte("x"), 4000)
	const lines = 3 * maxFile / 4000
	for i := range lines {
		w.write(appendLine(nil, time.Unix(int64(i), 0), Stdout, text))
	}
	got := kept(t, dir, Options{})
	lost, err := fmt.Sscanf(got[0].Text, "kiln: %d bytes were written before this line and are not kept", new(int))
	if got[0].Stream != Kiln || lost != 1 {
		t.Errorf("the log begins with %q (%s, %v), want how much is not kept", got[0].Text, got[0].Stream, err)
	}
	got = got[1:]
	if len(got) < maxFile/4100 || len(got) > 2*maxFile/4000+2 {
		t.Errorf("%d of %d lines are kept", len(got), lines)
	}
	for i, l := range got {
		if want := int64(lines - len(got) + i); l.At.Unix() != want {
			t.Fatalf("line %d is the %dth, want the %dth", i, l.At.Unix(), want)
		}
	}
}

// TestFollow reads while it is written, through rotations, until the directory
// is gone.
func TestFollow(t *testing.T) {
	dir := t.TempDir() + "/log"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	got := make(chan int)
	go func() {
		n := 0
		err := Read(context.WithoutCancel(t.Context()), dir, Options{Follow: true}, func(l Line) error {
			if l.At.Unix() != int64(n) {
				t.Errorf("line %d follows line %d", l.At.Unix(), n-1)
			}
			n++
			return nil
		})
		if err != nil {
			t.Errorf("Read: %v", err)
		}
		got <- n
	}()
	w := &writer{dir: dir}
	text := bytes.Repeat([]byte("x"), 4000)
	const lines = 3 * maxFile / 4000
	for i := range lines {
		w.write(appendLine(nil, time.Unix(int64(i), 0), Stdout, text))
		if i%(maxFile/4000/4) == 0 { // slower than the reader: it is not to miss a file
			time.Sleep(followInterval)
		}
	}
	time.Sleep(3 * followInterval)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != lines {
		t.Errorf("followed %d lines of %d", n, lines)
	}
}

// TestDropped makes writing fail: what is lost is counted and said.
func TestDropped(t *testing.T) {
	dir := t.TempDir() + "/log"
	w := &writer{dir: dir} // there is no such directory
	line := appendLine(nil, time.Unix(1, 0), Stdout, []byte("lost"))
	w.write(bytes.Repeat(line, 3))
	w.write(line)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.write(appendLine(nil, time.Unix(2, 0), Stdout, []byte("kept")))
	w.write(appendLine(nil, time.Unix(3, 0), Stdout, []byte("kept too")))
	lines := kept(t, dir, Options{})
	want := fmt.Sprintf("kiln:kiln: 4 lines (%d bytes) could not be kept: ", 4*len(line))
	if got := texts(lines); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "|stdout:kept|stdout:kept too") {
		t.Errorf("the log is %q, want %q…", got, want)
	}
}

// TestQueueDoesNotBlock fills the queue while nobody takes: adding waits once,
// for a bounded time, and then not at all.
func TestQueueDoesNotBlock(t *testing.T) {
	q := newQueue()
	line := appendLine(nil, time.Now(), Stdout, bytes.Repeat([]byte("x"), 1000))
	began := time.Now()
	const lines = 3 * maxPending / 1000
	for range lines {
		q.add(line)
	}
	if took := time.Since(began); took < patience || took > 3*patience {
		t.Errorf("adding took %s, want about %s", took, patience)
	}
	got, lost, more := q.take(nil)
	if n := bytes.Count(got, []byte("\n")); !more || n+lost.lines != lines || lost.bytes != lost.lines*len(line) || n == 0 {
		t.Errorf("%d lines, lost %+v, more %v: want %d together", n, lost, more, lines)
	}
	q.add(line)
	q.close()
	if got, lost, more = q.take(got); more || lost.lines != 0 || !bytes.Equal(got, line) {
		t.Errorf("at the end there is %q, lost %+v, more %v", got, lost, more)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("12 o text"))
	f.Add([]byte("12 k "))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := parseLine(b)
		if !ok {
			return
		}
		again, ok := parseLine(bytes.TrimSuffix(appendLine(nil, l.At, l.Stream, []byte(l.Text)), []byte("\n")))
		if !ok || again != l {
			t.Errorf("%q is read as %+v, and that as %+v", b, l, again)
		}
	})
}
