package source

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"kiln/internal/model"
)

// write makes files below a directory; a name that ends in a slash is a directory,
// a content that begins with "-> " a link.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		at, text := filepath.Join(dir, name), files[name]
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch to, link := strings.CutPrefix(text, "-> "); {
		case strings.HasSuffix(name, "/"):
			err = os.Mkdir(at, 0o755)
		case link:
			err = os.Symlink(to, at)
		default:
			err = os.WriteFile(at, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// list lists the tree of a build in dir.
func list(t *testing.T, dir, containerfile string, files ...string) (Tree, Listing) {
	t.Helper()
	tree, err := Find(dir, containerfile, files...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tree.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tree, l
}

func pack(t *testing.T, l Listing, instead map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := l.Pack(t.Context(), &b, instead); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack makes a new directory of an archive.
func unpack(t *testing.T, archive []byte) (string, Extent, error) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	x, err := Unpack(bytes.NewReader(archive), root)
	return dir, x, err
}

func paths(l Listing) []string {
	var all []string
	for _, e := range l {
		all = append(all, e.Path)
	}
	return all
}

// TestListing lists what a build gets to see, and what it needs beside.
func TestListing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"shop/app/main.go": "package main", "shop/app/a-b": "", "shop/app/a/b": "", "shop/app/notes.md": "n", "shop/app/keep.md": "k",
		"shop/app/.git/config": "x", "shop/app/sub/.git": "gitdir: elsewhere", "shop/app/" + OriginFile: "{}", "shop/app/empty/": "",
		"shop/app/.dockerignore":   "*.md\n!keep.md\nContainerfile\n.dockerignore\n",
		"shop/app/Containerfile":   "FROM scratch",
		"shop/app/etc/localtime":   "-> /usr/share/zoneinfo/UTC",
		"shop/deploy/kiln.hcl":     "service \"shop\" {}",
		"shop/deploy/unrelated":    "u",
		"unrelated/what is beside": "u",
	})
	tree, l := list(t, filepath.Join(dir, "shop/app"), "Containerfile", filepath.Join(dir, "shop/deploy/kiln.hcl"), filepath.Join(dir, "shop/deploy/kiln.lock"))
	if tree.Root != filepath.Join(dir, "shop") || tree.Context != "app" {
		t.Errorf("root %s, context %s", tree.Root, tree.Context)
	}
	want := []string{
		"app", "app/.dockerignore", "app/Containerfile", "app/a", "app/a/b", "app/a-b", "app/empty", "app/etc", "app/etc/localtime",
		"app/keep.md", "app/main.go", "app/sub", "deploy", "deploy/kiln.hcl",
	}
	if diff := cmp.Diff(want, paths(l)); diff != "" {
		t.Error(diff)
	}
	tree.Without = []string{filepath.Join(dir, "shop/app/main.go"), filepath.Join(dir, "shop/deploy/kiln.hcl")}
	l, err := tree.List(t.Context())
	if err != nil || slices.Contains(paths(l), "app/main.go") || slices.Contains(paths(l), "deploy/kiln.hcl") || len(l) != len(want)-3 {
		t.Errorf("without: %q, %v", paths(l), err)
	}
	// Whatever else such a file is called: what is declared may be a link.
	write(t, dir, map[string]string{"shop/app/secret": "correct horse", "shop/token": "-> app/secret", "shop/app/alias": "-> secret"})
	if err := os.Link(filepath.Join(dir, "shop/app/secret"), filepath.Join(dir, "shop/app/again")); err != nil {
		t.Fatal(err)
	}
	tree.Without = []string{filepath.Join(dir, "shop/token")}
	l, err = tree.List(t.Context())
	if err != nil || slices.Contains(paths(l), "app/secret") || slices.Contains(paths(l), "app/again") || !slices.Contains(paths(l), "app/alias") {
		t.Errorf("without what a link leads to: %q, %v", paths(l), err)
	}
	for _, name := range []string{"secret", "again", "alias"} {
		if err := os.Remove(filepath.Join(dir, "shop/app", name)); err != nil {
			t.Fatal(err)
		}
	}
	// A file that has its name beside the Containerfile counts before the context's.
	write(t, dir, map[string]string{"shop/deploy/Containerfile": "FROM scratch", "shop/deploy/Containerfile.dockerignore": "**\n!main.go\n"})
	_, l = list(t, filepath.Join(dir, "shop/app"), "../deploy/Containerfile")
	want = []string{"app", "app/.dockerignore", "app/main.go", "deploy", "deploy/Containerfile", "deploy/Containerfile.dockerignore"}
	if diff := cmp.Diff(want, paths(l)); diff != "" {
		t.Error(diff)
	}
}

// TestThereAndBack packs a directory and makes it again.
func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"Containerfile": "FROM scratch", "bin/run": "#!/bin/sh", "bin/read only/x": "x", "up": "-> ../..", "abs": "-> /etc/passwd", "kiln.lock": "old",
	})
	for name, mode := range map[string]fs.FileMode{"bin/run": 0o750, "bin/read only": 0o555, "bin": 0o700 | fs.ModeSetgid} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(filepath.Join(dir, "bin/read only"), 0o755) //nolint:errcheck // for the removal
	at := time.Date(2020, 1, 2, 3, 4, 5, 678000000, time.UTC)
	if err := os.Chtimes(filepath.Join(dir, "bin/run"), at, at); err != nil {
		t.Fatal(err)
	}
	_, l := list(t, dir, "Containerfile")
	instead := map[string][]byte{"kiln.lock": []byte("new"), "beside/kiln.hcl": []byte("h")}
	archive := pack(t, l, instead)
	if !bytes.Equal(archive, pack(t, l, instead)) {
		t.Error("the same listing gives other bytes")
	}
	back, x, err := unpack(t, archive)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Check(bytes.NewReader(archive)); err != nil || again != x || x.Files != 5 {
		t.Errorf("%+v, %+v: %v", x, again, err)
	}
	for name, want := range map[string]string{"kiln.lock": "new", "beside/kiln.hcl": "h", "bin/read only/x": "x"} {
		if text, err := os.ReadFile(filepath.Join(back, name)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	for _, e := range l {
		was, now := must(os.Lstat(filepath.Join(dir, e.Path))), must(os.Lstat(filepath.Join(back, e.Path)))
		if e.Path != "kiln.lock" && (was.Mode() != now.Mode() || !was.ModTime().Equal(now.ModTime())) {
			t.Errorf("%s: %s %s, and back %s %s", e.Path, was.Mode(), was.ModTime(), now.Mode(), now.ModTime())
		}
	}
	if to, err := os.Readlink(filepath.Join(back, "abs")); err != nil || to != "/etc/passwd" {
		t.Errorf("%s, %v", to, err)
	}
	_ = os.Chmod(filepath.Join(back, "bin/read only"), 0o755)
}

func must(st fs.FileInfo, err error) fs.FileInfo {
	if err != nil {
		panic(err)
	}
	return st
}

// TestChanges: what was changed since a tree was listed is found.
func TestChanges(t *testing.T) {
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, change := range map[string]func(dir string) error{
		"b": func(dir string) error { // the same length and the same time
			at := filepath.Join(dir, "b")
			if err := os.WriteFile(at, []byte("B"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(at, old, old)
		},
		"c": func(dir string) error { return os.Remove(filepath.Join(dir, "c")) },
		"d": func(dir string) error { return os.WriteFile(filepath.Join(dir, "d"), nil, 0o644) },
		"a": func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o600) },
		"e": func(dir string) error { return os.Symlink("a", filepath.Join(dir, "e")) },
	} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"a": "a", "b": "b", "c": "c", "Containerfile": "FROM scratch", "dir/x": "x"})
		if err := os.Chtimes(filepath.Join(dir, "b"), old, old); err != nil {
			t.Fatal(err)
		}
		tree, before := list(t, dir, "Containerfile")
		if _, again := list(t, dir, "Containerfile"); before.Differs(again) != "" {
			t.Errorf("nothing was changed, and %s differs", before.Differs(again))
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		after, err := tree.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := before.Differs(after); got != name {
			t.Errorf("%s was changed, and found is %q", name, got)
		}
		if name == "b" {
			if err := before.Pack(t.Context(), &bytes.Buffer{}, nil); model.CodeOf(err) != model.Conflict || !strings.Contains(err.Error(), "b was changed") {
				t.Errorf("packed: %v", err)
			}
		}
	}
}

// TestNotKept: what cannot be made again is refused.
func TestNotKept(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Containerfile": "FROM scratch", "su": "x"})
	if err := os.Chmod(filepath.Join(dir, "su"), 0o755|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	tree, err := Find(dir, "Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.List(t.Context()); model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "su") {
		t.Errorf("a setuid program: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := os.Chmod(filepath.Join(dir, "su"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, l := list(t, dir, "Containerfile")
	cancel()
	if err := l.Pack(ctx, &bytes.Buffer{}, nil); err == nil {
		t.Error("packed though it was stopped")
	}
}

// archived makes an archive of headers; a file's content is its name.
func archived(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o700
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHostile: an archive that somebody made to do harm is refused, and nothing is
// written outside of the directory.
func TestHostile(t *testing.T) {
	outside := t.TempDir()
	dir := tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o700}
	cases := map[string][]tar.Header{
		"upwards":            {{Name: "../x"}},
		"upwards inside":     {dir, {Name: "d/../../x"}},
		"absolute":           {{Name: filepath.Join(outside, "x")}},
		"dots":               {{Name: "./x"}},
		"the directory":      {{Name: "./", Typeflag: tar.TypeDir}},
		"through a link":     {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x"}},
		"instead of a link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l"}},
		"below a file":       {{Name: "f"}, {Name: "f/x"}},
		"without directory":  {{Name: "no/x"}},
		"twice":              {{Name: "x"}, {Name: "x"}},
		"hard link":          {{Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"device":             {{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"fifo":               {{Name: "f", Typeflag: tar.TypeFifo}},
		"setuid":             {{Name: "su", Mode: 0o4755}},
		"setgid":             {{Name: "su", Mode: 0o2755}},
		"setuid directory":   {{Name: "su/", Typeflag: tar.TypeDir, Mode: 0o4755}},
		"a repository":       {{Name: ".git/", Typeflag: tar.TypeDir}, {Name: ".git/config"}},
		"a repository, case": {{Name: ".GIT"}},
		"an origin":          {{Name: OriginFile}},
		"a whiteout":         {{Name: ".wh.x"}},
		"a long name":        {{Name: strings.Repeat("n", 300)}},
		"a link to nothing":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ""}},
	}
	for name, headers := range cases {
		archive := archived(t, headers...)
		if _, err := Check(bytes.NewReader(archive)); model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := unpack(t, archive); model.CodeOf(err) != model.Invalid {
			t.Errorf("%s, unpacked: %v", name, err)
		}
	}
	if left := must(os.Stat(outside)); left == nil {
		t.Fatal("it is gone")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside is %v: %v", entries, err)
	}
}

// TestLongNames: what a reader remembers is bounded, too.
func TestLongNames(t *testing.T) {
	dir := ""
	var headers []tar.Header
	for range 15 {
		dir += strings.Repeat("d", 255) + "/"
		headers = append(headers, tar.Header{Name: dir, Typeflag: tar.TypeDir})
	}
	for n := range maxNames/len(dir) + 1 {
		headers = append(headers, tar.Header{Name: dir + strconv.Itoa(n), Typeflag: tar.TypeSymlink, Linkname: "x"})
	}
	if _, err := Check(bytes.NewReader(archived(t, headers...))); model.CodeOf(err) != model.Invalid || !strings.Contains(err.Error(), "the names in it") {
		t.Errorf("got %v", err)
	}
}

// TestDamaged: what is cut off, changed, or no archive is refused.
func TestDamaged(t *testing.T) {
	whole := archived(t, tar.Header{Name: "x"}, tar.Header{Name: "y"})
	changed := bytes.Clone(whole)
	changed[len(changed)-1] ^= 1 // of the checksum
	bomb := func(size int64) []byte {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		if err := w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o600, Size: size}); err != nil {
			t.Fatal(err)
		}
		z.Close()
		return b.Bytes()
	}
	for name, archive := range map[string][]byte{
		"cut": whole[:len(whole)/2], "changed": changed, "nothing": nil, "text": []byte("this is no archive"), "too much": bomb(MaxBytes + 1), "far too much": bomb(math.MaxInt64),
	} {
		x, err := Check(bytes.NewReader(archive))
		if name == "nothing" && err == nil && x == (Extent{}) {
			continue // an empty stream has an empty archive in it
		}
		if model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		above := t.TempDir()
		if err := os.Mkdir(filepath.Join(above, "in"), 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(filepath.Join(above, "in"))
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, _ = Unpack(bytes.NewReader(archive), root)
		if entries, err := os.ReadDir(above); err != nil || len(entries) != 1 {
			t.Fatalf("%v beside it: %v", entries, err)
		}
	})
}
