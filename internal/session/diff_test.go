package session

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestUnifiedIsAppliedByPatch has patch(1) make the new text of the old one.
func TestUnifiedIsAppliedByPatch(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Fatalf("patch is needed: %v", err)
	}
	dir := t.TempDir()
	line := rapid.SampledFrom([]string{"a\n", "b\n", "c\n", "\n", "long line\n"})
	text := rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(line, 0, 40).Draw(t, "lines"), "")
		return s + rapid.SampledFrom([]string{"", "", "end"}).Draw(t, "end")
	})
	rapid.Check(t, func(t *rapid.T) {
		before, after := text.Draw(t, "before"), text.Draw(t, "after")
		d := unified("a/file", "b/file", before, after)
		if (d == "") != (before == after) {
			t.Fatalf("the difference of %q and %q is %q", before, after, d)
		}
		if d == "" {
			return
		}
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "-s", "--no-backup-if-mismatch", "-F0", file)
		cmd.Stdin = strings.NewReader(d)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("patch: %v\n%s\n%s", err, out, d)
		}
		got, err := os.ReadFile(file)
		if err != nil && !(after == "" && os.IsNotExist(err)) {
			t.Fatal(err)
		}
		if string(got) != after {
			t.Fatalf("patched to %q, want %q by\n%s", got, after, d)
		}
	})
}

func TestUnified(t *testing.T) {
	before := "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n"
	after := strings.Replace(strings.Replace(before, "2\n", "two\n", 1), "12\n", "", 1)
	want := `--- a/x
+++ b/x
@@ -1,5 +1,5 @@
 1
-2
+two
 3
 4
 5
@@ -9,5 +9,4 @@
 9
 10
 11
-12
 13
`
	if got := unified("a/x", "b/x", before, after); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := len(compare(make([]string, 5000), lines(strings.Repeat("x\n", 5000)))); got != 10000 {
		t.Errorf("texts that differ whole have %d edits", got)
	}
}
