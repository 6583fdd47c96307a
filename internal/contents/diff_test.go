package contents

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// told writes the changes of files as lines.
func told(changes []FileChange) []string {
	lines := []string{}
	for _, c := range changes {
		line := fmt.Sprintf("%s %s", c.Change, c.Path)
		for _, a := range c.Aspects {
			line += " " + string(a)
		}
		if c.Before != nil {
			line += fmt.Sprintf(" -%d", c.Before.Layer.Index)
		}
		if c.After != nil {
			line += fmt.Sprintf(" +%d", c.After.Layer.Index)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestDiffOfFiles(t *testing.T) {
	file := func(name, body string) layertest.File { return layertest.File{Name: name, Text: body} }
	symlink := func(name, to string) layertest.File {
		return layertest.File{Name: name, Kind: tar.TypeSymlink, Link: to}
	}
	hard := func(name, to string) layertest.File { return layertest.File{Name: name, Kind: tar.TypeLink, Link: to} }
	for name, c := range map[string]struct {
		a, b [][]layertest.File
		want []string
	}{
		"nothing":             {[][]layertest.File{{file("a", "1")}}, [][]layertest.File{{file("a", "1")}}, nil},
		"added in a layer":    {[][]layertest.File{{file("a", "1")}}, [][]layertest.File{{file("a", "1")}, {layertest.Dir("d"), file("d/b", "2")}}, []string{"added d +1", "added d/b +1"}},
		"removed by whiteout": {[][]layertest.File{{file("d/a", "1")}}, [][]layertest.File{{file("d/a", "1")}, {file("d/.wh.a", "")}}, []string{"removed d/a -0"}},
		"directory removed":   {[][]layertest.File{{file("d/e/a", "1"), file("d/b", "")}}, [][]layertest.File{{file("d/e/a", "1"), file("d/b", "")}, {file(".wh.d", "")}}, []string{"removed d -0", "removed d/b -0", "removed d/e -0", "removed d/e/a -0"}},
		"opaque":              {[][]layertest.File{{file("d/a", "1"), file("d/b", "1")}}, [][]layertest.File{{file("d/a", "1"), file("d/b", "1")}, {layertest.Dir("d"), file("d/c", "2"), file("d/.wh..wh..opq", ""), file("d/b", "2")}}, []string{"removed d/a -0", "changed d/b content -0 +1", "added d/c +1"}},
		"opaque spares its own layer, whatever the order": {[][]layertest.File{{file("d/x/a", "1")}}, [][]layertest.File{{file("d/x/a", "1")}, {file("d/x/b", "2"), file("d/.wh..wh..opq", "")}}, []string{"removed d/x/a -0", "added d/x/b +1"}},
		"everything removed":                              {[][]layertest.File{{file("d/a", "1"), file("b", "1")}}, [][]layertest.File{{file("d/a", "1"), file("b", "1")}, {file(".wh..wh..opq", ""), file("c", "")}}, []string{"removed b -0", "added c +1", "removed d -0", "removed d/a -0"}},
		"whiteout and file in one layer":                  {[][]layertest.File{{file("a", "1")}}, [][]layertest.File{{file("a", "1")}, {file("a", "2"), file(".wh.a", "")}}, []string{"changed a content -0 +1"}},
		"whiteout of nothing":                             {[][]layertest.File{{file("a", "1")}}, [][]layertest.File{{file("a", "1"), file("x/.wh.y", ""), file(".wh.z", "")}}, nil},
		"kinds of change": {
			[][]layertest.File{{file("mode", "1"), file("owner", "1"), file("size", "1"), file("content", "1"), symlink("link", "a"), file("kind", "a"), {Name: "dev", Kind: tar.TypeChar}, file("attr", "")}},
			[][]layertest.File{{{Name: "mode", Text: "1", Mode: 0o4755}, {Name: "owner", Text: "1", UID: 7}, file("size", "12"), file("content", "2"), symlink("link", "b"), symlink("kind", "a"), {Name: "dev", Kind: tar.TypeBlock}, {Name: "attr", Records: map[string]string{"SCHILY.xattr.security.capability": "x"}}}},
			[]string{"changed attr attributes -0 +0", "changed content content -0 +0", "changed dev kind -0 +0", "changed kind kind -0 +0", "changed link link -0 +0", "changed mode mode -0 +0", "changed owner owner -0 +0", "changed size size content -0 +0"},
		},
		"rewritten the same":  {[][]layertest.File{{file("a", "1")}}, [][]layertest.File{{file("a", "0")}, {file("a", "1")}}, nil},
		"directory over file": {[][]layertest.File{{file("a", "1")}}, [][]layertest.File{{file("a", "1")}, {layertest.Dir("a"), file("a/b", "")}}, []string{"changed a kind mode -0 +1", "added a/b +1"}},
		"file over directory": {[][]layertest.File{{file("a/b", "1")}}, [][]layertest.File{{file("a/b", "1")}, {file("a", "")}}, []string{"changed a kind mode -0 +1", "removed a/b -0"}},
		"directory again":     {[][]layertest.File{{layertest.Dir("d"), file("d/a", "1")}}, [][]layertest.File{{layertest.Dir("d"), file("d/a", "1")}, {{Name: "d", Kind: tar.TypeDir, Mode: 0o700}}}, []string{"changed d mode -0 +1"}},
		"hard link keeps what its target loses": {
			[][]layertest.File{{file("a", "1")}},
			[][]layertest.File{{file("a", "1"), hard("b", "a")}, {file("a", "2")}},
			[]string{"changed a content -0 +1", "added b +0"},
		},
		"a file in a linked directory is where that leads": {
			[][]layertest.File{{layertest.Dir("usr"), layertest.Dir("usr/lib"), symlink("lib", "usr/lib")}},
			[][]layertest.File{{layertest.Dir("usr"), layertest.Dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/x", "1")}, {file("lib/.wh.x", ""), file("lib/y", "")}},
			[]string{"added usr/lib/y +2"},
		},
		"links do not lead out": {
			[][]layertest.File{{symlink("up", "../../../../d")}},
			[][]layertest.File{{symlink("up", "../../../../d")}, {file("up/x", "1")}},
			[]string{"added d +1", "added d/x +1"},
		},
		"root": {[][]layertest.File{{layertest.Dir("./")}}, [][]layertest.File{{{Name: "./", Kind: tar.TypeDir, Mode: 0o700}}}, []string{"changed . mode -0 +0"}},
	} {
		t.Run(name, func(t *testing.T) {
			build := func(all [][]layertest.File) v1.Image {
				var layers []v1.Layer
				for _, entries := range all {
					layers = append(layers, layertest.Files(t, entries...))
				}
				return layertest.Image(t, layers...)
			}
			a, b := build(c.a), build(c.b)
			d, err := Diff(t.Context(), a, b)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				c.want = []string{}
			}
			if diff := cmp.Diff(c.want, told(d.Files)); diff != "" {
				t.Errorf("the files (-want +got):\n%s", diff)
			}
			back, err := Diff(t.Context(), b, a)
			if err != nil || len(back.Files) != len(d.Files) {
				t.Errorf("the other way there are %d changes (%v), want as many: %d", len(back.Files), err, len(d.Files))
			}
			same, err := Diff(t.Context(), b, b)
			if err != nil || len(same.Files)+len(same.Packages)+len(same.Config) != 0 {
				t.Errorf("an image differs from itself: %v %v", same, err)
			}
		})
	}
}

func TestDiffRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		entries []layertest.File
		words   []string
	}{
		"hard link to nothing":     {[]layertest.File{{Name: "l", Kind: tar.TypeLink, Link: "nowhere"}}, []string{`entry "l"`, "hard link to nowhere"}},
		"hard link to a directory": {[]layertest.File{layertest.Dir("d"), {Name: "l", Kind: tar.TypeLink, Link: "d"}}, []string{`entry "l"`, "no file"}},
		"in a file":                {[]layertest.File{{Name: "f"}, {Name: "f/x"}}, []string{`entry "f/x"`, "no directory"}},
		"a loop":                   {[]layertest.File{{Name: "a", Kind: tar.TypeSymlink, Link: "b"}, {Name: "b", Kind: tar.TypeSymlink, Link: "a"}, {Name: "a/x"}}, []string{`entry "a/x"`, "too many symbolic links"}},
		"too deep": {[]layertest.File{
			layertest.Dir(strings.Repeat("d/", 1500)), {Name: "s", Kind: tar.TypeSymlink, Link: strings.Repeat("d/", 1500)}, layertest.Dir("s/" + strings.Repeat("e/", 1500)),
		}, []string{"longer than Linux"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Diff(t.Context(), layertest.Image(t), layertest.Image(t, layertest.Files(t, c.entries...)))
			layertest.Says(t, err, append(c.words, "the second image", "layer 1 (")...)
			if model.CodeOf(err) != model.Invalid {
				t.Errorf("the error is %s, want invalid", model.CodeOf(err))
			}
		})
	}
	// Few entries, each with a long path, make many directories.
	var many []layertest.File
	for i := range 100 {
		many = append(many, layertest.Dir(fmt.Sprintf("%d/%s", i, strings.Repeat("d/", 1000))))
	}
	_, err := Reader{Limits: layers.Limits{Entries: 10_000}}.Diff(t.Context(), layertest.Image(t), layertest.Image(t, layertest.Files(t, many...)))
	layertest.Says(t, err, "the image has more than 10000 files")
}

func TestDiffOfSettings(t *testing.T) {
	a := layertest.Configured(t, layertest.Image(t), func(c *v1.ConfigFile) {
		c.OS, c.Architecture = "linux", "amd64"
		c.Config = v1.Config{
			User: "app", Env: []string{"PATH=/bin", "OLD=1", "SAME=x"}, Entrypoint: []string{"/app"}, Cmd: []string{"serve"},
			Labels: map[string]string{"a": "1"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, WorkingDir: "/srv",
		}
	})
	b := layertest.Configured(t, layertest.Image(t), func(c *v1.ConfigFile) {
		c.OS, c.Architecture = "linux", "arm64"
		c.Config = v1.Config{
			Env: []string{"PATH=/usr/bin", "SAME=x", "NEW="}, Entrypoint: []string{"/app"}, Cmd: []string{"serve", "--all"},
			Labels: map[string]string{"a": "2"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}, Volumes: map[string]struct{}{"/data": {}},
			WorkingDir: "/srv", StopSignal: "SIGQUIT",
		}
	})
	d, err := Diff(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := []ConfigChange{
		{Field: FieldPlatform, Change: Changed, Before: []string{"linux/amd64"}, After: []string{"linux/arm64"}},
		{Field: FieldUser, Change: Removed, Before: []string{"app"}},
		{Field: FieldCommand, Change: Changed, Before: []string{"serve"}, After: []string{"serve", "--all"}},
		{Field: FieldStopSignal, Change: Added, After: []string{"SIGQUIT"}},
		{Field: FieldEnv, Key: "NEW", Change: Added, After: []string{""}},
		{Field: FieldEnv, Key: "OLD", Change: Removed, Before: []string{"1"}},
		{Field: FieldEnv, Key: "PATH", Change: Changed, Before: []string{"/bin"}, After: []string{"/usr/bin"}},
		{Field: FieldLabel, Key: "a", Change: Changed, Before: []string{"1"}, After: []string{"2"}},
		{Field: FieldPort, Key: "80/tcp", Change: Removed},
		{Field: FieldPort, Key: "8080/tcp", Change: Added},
		{Field: FieldVolume, Key: "/data", Change: Added},
	}
	if diff := cmp.Diff(want, d.Config); diff != "" {
		t.Errorf("the configuration (-want +got):\n%s", diff)
	}
}

func TestDiffOfSizes(t *testing.T) {
	base := layertest.Files(t, layertest.File{Name: "a", Text: strings.Repeat("1", 100_000)}, layertest.File{Name: "b", Kind: tar.TypeLink, Link: "a"})
	more := layertest.Files(t, layertest.File{Name: "c", Text: "12345"})
	d, err := Diff(t.Context(), layertest.Image(t, base), layertest.Image(t, base, more))
	if err != nil {
		t.Fatal(err)
	}
	if d.SharedLayers != 1 || d.Before.Files != 2 || d.After.Files != 3 || d.Before.FileBytes != 100_000 || d.After.FileBytes != 100_005 {
		t.Errorf("the sizes are %+v and %+v with %d layers shared", d.Before, d.After, d.SharedLayers)
	}
	if d.After.Uncompressed-d.Before.Uncompressed != 2048 || d.After.Compressed <= d.Before.Compressed || d.Before.Compressed > 2000 {
		t.Errorf("the sizes are %+v and %+v", d.Before, d.After)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{`"shared_layers":1`, `"packages":[]`, `"config":[]`, `"path":"c","change":"added","after":{"kind":"file","mode":"0644","uid":0,"gid":0,"size":5,"digest":"sha256:`} {
		if !strings.Contains(string(text), w) {
			t.Errorf("the JSON has no %s: %s", w, text)
		}
	}
}
