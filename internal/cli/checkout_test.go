package cli

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/source"
	"kiln/internal/spec"
)

// TestChangedDuringBuild: of a context that was changed while it was built from,
// nobody knows what is in the image.
func TestChangedDuringBuild(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("Containerfile", "FROM scratch")
	put("kiln.hcl", "service \"shop\" {\n  image {\n    context = \".\"\n  }\n  secret \"TOKEN\" {\n    from = { file = \"token\" }\n  }\n}\n")
	put("token", "correct horse battery staple")
	put("main.go", "package main")
	a := &app{Program: Program{Stderr: io.Discard}}
	a.opts.file = filepath.Join(dir, "kiln.hcl")
	s := &spec.Service{Build: &spec.Build{Context: ".", Containerfile: "Containerfile"}}
	x := a.see(t.Context(), s, dir)
	if x.err != nil {
		t.Fatal(x.err)
	}
	if want := []string{filepath.Join(dir, "token")}; !slices.Equal(x.tree.Without, want) {
		t.Errorf("left out is %q, want %q", x.tree.Without, want)
	}
	put("main.go", "package other")
	last := &api.BuildEvent{Result: &api.ImageResult{Image: model.Digest("sha256:" + strings.Repeat("a", 64))}}
	err := a.sendSource(t.Context(), s, x, api.BuildRequest{}, last)
	if model.CodeOf(err) != model.Conflict || !strings.Contains(err.Error(), "main.go was changed during the build") {
		t.Errorf("%v", err)
	}
}

// TestOrigin: what is built in a checkout goes on from what was built there last.
func TestOrigin(t *testing.T) {
	dir := t.TempDir()
	var said strings.Builder
	a := &app{Program: Program{Stderr: &said}}
	one, two := model.Digest("sha256:"+strings.Repeat("1", 64)), model.Digest("sha256:"+strings.Repeat("2", 64))
	a.goesOn(dir, a.originOf(dir), one)
	if o := a.originOf(dir); o.Image != "" {
		t.Errorf("no checkout, and it goes on from %s", o.Image)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := writeOrigin(root, origin{Image: one, Service: "shop", Commit: "c0ffee"}); err != nil {
		t.Fatal(err)
	}
	a.goesOn(dir, a.originOf(dir), one)
	if o := a.originOf(dir); o.Image != one || o.Commit != "c0ffee" {
		t.Errorf("%+v", o)
	}
	a.goesOn(dir, a.originOf(dir), two)
	if o := a.originOf(dir); o.Image != two || o.Service != "shop" || o.Commit != "" {
		t.Errorf("%+v", o)
	}
	if said.Len() > 0 {
		t.Error(said.String())
	}
	for _, text := range []string{"", "{", `{"kiln_origin":2,"image":"` + string(one) + `"}`, `{"kiln_origin":1,"image":"../x"}`} {
		if err := os.WriteFile(filepath.Join(dir, source.OriginFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		said.Reset()
		if o := a.originOf(dir); o.Image != "" || !strings.Contains(said.String(), "cannot read") {
			t.Errorf("%q: %+v, %s", text, o, said.String())
		}
	}
}

// TestCheckoutStaysInside: nothing is written outside of the directory, whatever the
// source says.
func TestCheckoutStaysInside(t *testing.T) {
	outside, from := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(from, "app")); err != nil {
		t.Fatal(err)
	}
	tree := source.Tree{Root: from, Context: "."}
	list, err := tree.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := list.Pack(t.Context(), &archive, nil); err != nil {
		t.Fatal(err)
	}
	a := &app{Program: Program{Stderr: io.Discard}}
	for _, where := range []string{"app", "..", outside} {
		into := filepath.Join(t.TempDir(), "into")
		src := &api.Source{Archive: model.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(archive.Bytes()))), Config: api.SourceConfig{Service: "shop", Context: where}}
		if err := a.checkout(src, bytes.NewReader(archive.Bytes()), into); model.CodeOf(err) != model.Denied || exitCode(err) != exitFailed {
			t.Errorf("%s: %v", where, err)
		}
		for _, dir := range []string{outside, filepath.Dir(into)} {
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s: left in %s: %v", where, dir, left)
			}
		}
	}
}
