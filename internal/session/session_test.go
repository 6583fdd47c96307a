package session

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/engine"
	"kiln/internal/evidence"
	"kiln/internal/model"
)

func TestRecording(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "a.cast")
	c, err := newCast(path, castHeader{Width: 80, Height: 24, Title: "t"}, 1<<20, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	out := c.stream("stdout", &seen)
	write := func(s string) {
		now = now.Add(250 * time.Millisecond)
		if _, err := io.WriteString(out, s); err != nil {
			t.Fatal(err)
		}
	}
	write("grüße"[:3]) // in the middle of a character
	write("grüße"[3:] + "\r\n")
	c.resize(132, 43)
	write("\xff\xc3") // no character, and the beginning of one
	if missing := c.close(); missing != "" {
		t.Errorf("missing: %s", missing)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":2,"width":80,"height":24,"timestamp":1767323045,"title":"t"}
[0.250000,"o","gr"]
[0.500000,"o","üße\r\n"]
[0.500000,"r","132x43"]
[0.750000,"o","\ufffd"]
[0.750000,"o","\ufffd"]
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if seen.String() != "grüße\r\n\xff\xc3" {
		t.Errorf("what passed on is %q", seen.String())
	}
}

func TestRecordingIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.cast")
	c, err := newCast(path, castHeader{}, 200, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	out := c.stream("stdout", io.Discard)
	for range 100 {
		if n, err := io.WriteString(out, "0123456789"); n != 10 || err != nil {
			t.Fatalf("a full recording stands in the way: %d, %v", n, err)
		}
	}
	if missing := c.close(); !strings.Contains(missing, "longer than") {
		t.Errorf("nothing says that it is cut: %q", missing)
	}
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) > 200 {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	for line := range bytes.Lines(whole) {
		if !json.Valid(line) {
			t.Errorf("half a line: %q", line)
		}
	}
}

// content is a file's.
func content(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func difference(path, kind string, mode fs.FileMode) engine.Difference {
	return engine.Difference{Change: engine.Change{Path: path, Kind: kind}, Mode: mode, Stamp: "1"}
}

func TestWhatASessionLeaves(t *testing.T) {
	changed := difference("/etc/shop.conf", "changed", 0o640)
	changed.Before, changed.Open, changed.Size, changed.GID = content("a\nb\n"), content("a\nc\n"), 4, 7
	binary := difference("/bin/app", "changed", fs.ModeSetuid|0o755)
	binary.Before, binary.Open, binary.Size = content("\x7fELF\x00"), content("\x7fELF\x00\x01"), 6
	gone := difference("/etc/$old", "removed", 0)
	gone.Before = content("old\n")
	link := difference("/etc/link", "added", fs.ModeSymlink|0o777)
	link.Target = "shop.conf"
	huge := difference("/var/huge", "added", 0o600)
	huge.Open, huge.Size = content("never read"), maxFile+1
	odd := difference(`/etc/a "$x" *[1] b`, "added", 0o644)
	odd.Open, odd.Size = content("x"), 1
	store, err := evidence.Open(t.TempDir(), evidence.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &collection{differences: []engine.Difference{odd, binary, link, gone, changed, difference("/opt/new", "added", fs.ModeDir|0o750), difference("/run/sock", "added", fs.ModeSocket|0o755), huge}}
	digest, err := store.Put(t.Context(), "s-abcdef", time.Now(), func(w *evidence.Writer) error { return c.write(w) })
	if err != nil {
		t.Fatal(err)
	}
	files, err := store.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if got, err := fs.ReadFile(files, "files/bin/app"); err != nil || string(got) != "\x7fELF\x00\x01" {
		t.Errorf("the binary is %q, %v", got, err)
	}
	patch, err := fs.ReadFile(files, FilePatch)
	if err != nil {
		t.Fatal(err)
	}
	wantPatch := `--- /dev/null
+++ b/etc/a "$x" *[1] b
@@ -0,0 +1 @@
+x
\ No newline at end of file
--- a/etc/$old
+++ /dev/null
@@ -1 +0,0 @@
-old
--- a/etc/shop.conf
+++ b/etc/shop.conf
@@ -1,2 +1,2 @@
 a
-b
+c
`
	if diff := cmp.Diff(wantPatch, string(patch)); diff != "" {
		t.Error(diff)
	}
	wantLines := `# hotfix of ada
# These lines make what it changed part of an image: add those after FROM to the
# Containerfile of the service, and the directory "files" to its context.
FROM kiln/sha256:00
RUN ["rm","-rf","--","/etc/$old"]
COPY --chown=0:0 --chmod=0644 ["files/etc/a \"\\$x\" [*][[]1] b","/etc/a \"\\$x\" *[1] b"]
COPY --chown=0:0 --chmod=4755 ["files/bin/app","/bin/app"]
RUN ["ln","-sfn","--","shop.conf","/etc/link"]
RUN ["chown","-h","0:0","--","/etc/link"]
COPY --chown=0:7 --chmod=0640 ["files/etc/shop.conf","/etc/shop.conf"]
RUN ["mkdir","-p","--","/opt/new"]
RUN ["chown","0:0","--","/opt/new"]
RUN ["chmod","0750","--","/opt/new"]
# /run/sock is neither a file, nor a directory, nor a link
# /var/huge: its content was not kept; see what the session says is missing
`
	if diff := cmp.Diff(wantLines, containerfile("kiln/sha256:00", "hotfix\nof ada", c.changes)); diff != "" {
		t.Error(diff)
	}
	var end model.SessionEnd
	if c.count(&end); end.Added != 5 || end.Changed != 2 || end.Removed != 1 {
		t.Errorf("counted %+v", end)
	}
	if len(c.missing) != 1 || !strings.Contains(c.missing[0], "/var/huge") {
		t.Errorf("missing: %q", c.missing)
	}
}

func TestOnlyItsOwnChanges(t *testing.T) {
	before := []engine.Difference{difference("/a", "added", 0), difference("/b", "added", 0)}
	now := []engine.Difference{difference("/a", "added", 0), difference("/b", "added", 0), difference("/c", "added", 0)}
	now[1].Stamp = "2"
	var paths []string
	for _, d := range taken(stamps(before), now) {
		paths = append(paths, d.Path)
	}
	if diff := cmp.Diff([]string{"/b", "/c"}, paths); diff != "" {
		t.Error(diff)
	}
}
