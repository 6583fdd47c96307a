package contents

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

const debianRelease = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\nID=debian\n"

// stanza is a package in dpkg's status (deb-control(5)).
func stanza(name, version, more string) string {
	return fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n%sDescription: words\n of %s\n\n", name, version, more, name)
}

// moduleFile is the path of a file in the sources of a module that kiln is built from.
func moduleFile(t testing.TB, module, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("the sources of %s are not to be had: %v", module, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(name))
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPackagesOfDebian(t *testing.T) {
	old := stanza("bash", "5.2.15-2", "") + stanza("gone", "1", "")
	status := stanza("bash", "5.2.37-2", "") + stanza("libc6", "2.41-12", "Source: glibc\n") + stanza("zlib1g", "1:1.3", "Source: zlib (1.3.1)\n") +
		"Package: purged\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
	img := layertest.Image(t,
		layertest.Files(t, layertest.File{Name: "usr/lib/os-release", Text: debianRelease}, layertest.File{Name: "etc/os-release", Kind: tar.TypeSymlink, Link: "../usr/lib/os-release"},
			layertest.File{Name: "var/lib/dpkg/status", Text: old}, layertest.File{Name: "srv/app/package.json", Text: `{"name":"hidden","version":"1"}`}),
		layertest.Files(t, layertest.File{Name: "var/lib/dpkg/status", Text: status}, layertest.File{Name: "srv/.wh.app"},
			layertest.File{Name: "usr/lib/node_modules/left-pad/package.json", Text: `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`},
			layertest.File{Name: "usr/lib/python3/dist-packages/Flask-3.0.dist-info/METADATA", Text: "Metadata-Version: 2.4\nName: Flask\nVersion: 3.0\nLicense-Expression: BSD-3-Clause\n\nText\n"},
			layertest.File{Name: "usr/share/rubygems/specifications/rake-13.2.1.gemspec", Text: "Gem::Specification.new do |s|\n  s.name = \"rake\".freeze\n  s.version = \"13.2.1\"\n  s.licenses = [\"MIT\".freeze]\nend\n"},
			layertest.File{Name: "usr/share/doc/bash/copyright", Text: "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-3+\n Text of it.\n\nFiles: x\nLicense: Expat\n"},
			layertest.File{Name: "usr/share/doc/zlib1g", Kind: tar.TypeSymlink, Link: "bash"},
			layertest.File{Name: "usr/share/doc/libc6/copyright", Text: "This is free software, under many licences.\n"},
			layertest.File{Name: "broken/package.json", Text: "{"}),
	)
	got, err := Packages(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	const db = "var/lib/dpkg/status"
	want := Inventory{
		System: "Debian GNU/Linux 13 (trixie)", Databases: []string{db},
		Packages: []Package{
			{Name: "bash", Version: "5.2.37-2", Type: "deb", Architecture: "amd64", Licenses: []string{"GPL-3.0-or-later", "MIT"}, Path: db, Ecosystem: "Debian:13", PURL: "pkg:deb/debian/bash@5.2.37-2?arch=amd64&distro=trixie"},
			{Name: "libc6", Version: "2.41-12", Type: "deb", Architecture: "amd64", Path: db, Source: "glibc", Ecosystem: "Debian:13", PURL: "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=trixie&source=glibc"},
			{Name: "zlib1g", Version: "1:1.3", Type: "deb", Architecture: "amd64", Licenses: []string{"GPL-3.0-or-later", "MIT"}, Path: db, Source: "zlib", SourceVersion: "1.3.1", Ecosystem: "Debian:13", PURL: "pkg:deb/debian/zlib1g@1%3A1.3?arch=amd64&distro=trixie&source=zlib&sourceversion=1.3.1"},
			{Name: "rake", Version: "13.2.1", Type: "gem", Licenses: []string{"MIT"}, Path: "usr/share/rubygems/specifications/rake-13.2.1.gemspec", Ecosystem: "RubyGems", PURL: "pkg:gem/rake@13.2.1"},
			{Name: "left-pad", Version: "1.3.0", Type: "npm", Licenses: []string{"WTFPL"}, Path: "usr/lib/node_modules/left-pad/package.json", Ecosystem: "npm", PURL: "pkg:npm/left-pad@1.3.0"},
			{Name: "Flask", Version: "3.0", Type: "pypi", Licenses: []string{"BSD-3-Clause"}, Path: "usr/lib/python3/dist-packages/Flask-3.0.dist-info/METADATA", Ecosystem: "PyPI", PURL: "pkg:pypi/flask@3.0"},
		},
	}
	unread := got.Unread
	got.Unread = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the packages (-want +got):\n%s", diff)
	}
	if len(unread) != 1 || unread[0].Path != "broken/package.json" {
		t.Errorf("unread is %v, want the broken manifest", unread)
	}
}

func TestPackagesOfAlpine(t *testing.T) {
	db := "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\n\nP:libcrypto3\nV:3.3.2-r1\nA:x86_64\nL:Apache-2.0\no:openssl\n\n"
	release := "ID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME=\"Alpine Linux v3.20\"\n"
	got, err := Packages(t.Context(), layertest.Image(t, layertest.Files(t, layertest.File{Name: "lib/apk/db/installed", Text: db}, layertest.File{Name: "etc/os-release", Text: release})))
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{Name: "libcrypto3", Version: "3.3.2-r1", Type: "apk", Architecture: "x86_64", Licenses: []string{"Apache-2.0"}, Path: "lib/apk/db/installed", Source: "openssl", Ecosystem: "Alpine:v3.20", PURL: "pkg:apk/alpine/libcrypto3@3.3.2-r1?arch=x86_64&distro=3.20.3&origin=openssl"},
		{Name: "musl", Version: "1.2.5-r0", Type: "apk", Architecture: "x86_64", Licenses: []string{"MIT"}, Path: "lib/apk/db/installed", Ecosystem: "Alpine:v3.20", PURL: "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=3.20.3&origin=musl"},
	}
	if diff := cmp.Diff(want, got.Packages); diff != "" {
		t.Errorf("the packages (-want +got):\n%s", diff)
	}
}

func TestPackagesOfRPM(t *testing.T) {
	for _, name := range []string{"rpmdb.sqlite", "Packages.db", "Packages"} {
		db := read(t, moduleFile(t, "github.com/google/osv-scalibr", "extractor/filesystem/os/rpm/testdata/"+name+map[string]string{"Packages": "_epoch"}[name]))
		got, err := Packages(t.Context(), layertest.Image(t, layertest.Files(t, layertest.File{Name: "var/lib/rpm/" + name, Text: db}, layertest.File{Name: "etc/os-release", Text: "ID=rocky\nVERSION_ID=9.4\n"})))
		if err != nil || len(got.Unread) > 0 || len(got.Packages) == 0 {
			t.Fatalf("%s: %v %v, %d packages", name, err, got.Unread, len(got.Packages))
		}
		p := got.Packages[0]
		if p.Type != "rpm" || p.Ecosystem != "Rocky Linux:9" || p.Architecture == "" || p.Source == "" || len(p.Licenses) == 0 {
			t.Errorf("%s: the first package is %+v", name, p)
		}
	}
}

func TestPackagesWithoutDatabase(t *testing.T) {
	program := read(t, moduleFile(t, "github.com/google/osv-scalibr", "extractor/filesystem/language/golang/gobinary/testdata/binary_with_modules-linux-amd64"))
	got, err := Packages(t.Context(), layertest.Image(t, layertest.Files(t, layertest.File{Name: "app", Text: program, Mode: 0o755}, layertest.File{Name: "again", Kind: tar.TypeLink, Link: "app"}, layertest.File{Name: "run.sh", Text: "#!", Mode: 0o755})))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Databases) != 0 || !strings.HasPrefix(got.Statement(), "No package database was found") {
		t.Errorf("the databases are %v, and the statement %q", got.Databases, got.Statement())
	}
	for _, name := range []string{"stdlib", "github.com/ulikunitz/xz"} {
		for _, where := range []string{"app", "again"} {
			i := slices.IndexFunc(got.Packages, func(p Package) bool { return p.Name == name && p.Path == where })
			if i < 0 || got.Packages[i].Version == "" || got.Packages[i].Ecosystem != "Go" || !strings.HasPrefix(got.Packages[i].PURL, "pkg:golang/"+name+"@") {
				t.Errorf("%s in %s is not among the packages: %v", name, where, got.Packages)
			}
		}
	}
	none, err := Packages(t.Context(), layertest.Image(t))
	if err != nil || none.Packages == nil || len(none.Packages) != 0 {
		t.Errorf("an empty image has %+v (%v)", none, err)
	}
}

func TestPackagesOfDamagedFiles(t *testing.T) {
	db := read(t, moduleFile(t, "github.com/google/osv-scalibr", "extractor/filesystem/os/rpm/testdata/rpmdb.sqlite"))
	got, err := Packages(t.Context(), layertest.Image(t, layertest.Files(t,
		layertest.File{Name: "var/lib/rpm/rpmdb.sqlite", Text: db[:len(db)/2]},
		layertest.File{Name: "var/lib/rpm/Packages", Text: strings.Repeat("\x00\xff", 5000)},
		layertest.File{Name: "var/lib/dpkg/status", Text: "no status at all"},
		layertest.File{Name: "app", Text: "\x7fELF\x02\x01\x01 and no more", Mode: 0o755},
		layertest.File{Name: "short", Text: "\x7fE", Mode: 0o755},
		layertest.File{Name: "lib.jar", Text: "PK\x03\x04 no jar at all, however long it may be"},
		layertest.File{Name: "x.whl", Text: "PK\x03\x04"},
	)))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, u := range got.Unread {
		paths = append(paths, u.Path)
	}
	if !slices.Contains(paths, "var/lib/dpkg/status") || !slices.Contains(paths, "var/lib/rpm/Packages") || len(got.Packages) != 0 {
		t.Errorf("unread are %v, and %d packages were found", got.Unread, len(got.Packages))
	}
}

func TestPackagesOfJava(t *testing.T) {
	jar := read(t, moduleFile(t, "github.com/google/osv-scalibr", "extractor/filesystem/language/java/archive/testdata/guava-31.1-jre.jar"))
	wheel := read(t, moduleFile(t, "github.com/google/osv-scalibr", "extractor/filesystem/language/python/wheelegg/testdata/monotonic-1.6-py2.py3-none-any.whl"))
	got, err := Packages(t.Context(), layertest.Image(t, layertest.Files(t, layertest.File{Name: "app/guava.jar", Text: jar}, layertest.File{Name: "app/m.whl", Text: wheel})))
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{Name: "com.google.guava:guava", Version: "31.1-jre", Type: "maven", Path: "app/guava.jar", Ecosystem: "Maven", PURL: "pkg:maven/com.google.guava/guava@31.1-jre"},
		{Name: "monotonic", Version: "1.6", Type: "pypi", Path: "app/m.whl", Ecosystem: "PyPI", PURL: "pkg:pypi/monotonic@1.6"},
	}
	if diff := cmp.Diff(want, got.Packages); diff != "" {
		t.Errorf("the packages (-want +got):\n%s", diff)
	}
}

func TestNoPlaceForAMoment(t *testing.T) {
	_, err := Reader{Dir: filepath.Join(t.TempDir(), "missing")}.Packages(t.Context(), layertest.Image(t))
	layertest.Says(t, err, "no place")
	if model.CodeOf(err) != model.Unavailable {
		t.Errorf("the error is %s, want unavailable", model.CodeOf(err))
	}
}

func TestDiffOfPackages(t *testing.T) {
	base := layertest.Files(t, layertest.File{Name: "etc/os-release", Text: debianRelease})
	with := func(stanzas ...string) layertest.File {
		return layertest.File{Name: "var/lib/dpkg/status", Text: strings.Join(stanzas, "")}
	}
	npm := func(at, version string) layertest.File {
		return layertest.File{Name: at + "/package.json", Text: `{"name":"n","version":"` + version + `"}`}
	}
	a := layertest.Image(t, base, layertest.Files(t, with(stanza("bash", "1", ""), stanza("gone", "2", ""), stanza("same", "3", "")), npm("a", "1"), npm("b", "2")))
	b := layertest.Image(t, base, layertest.Files(t, with(stanza("bash", "1.1", ""), stanza("new", "2", ""), stanza("same", "3", "")), npm("c", "2"), npm("d", "3"), npm("e", "4")))
	d, err := Diff(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	const db = "var/lib/dpkg/status"
	want := []PackageChange{
		{Name: "bash", Type: "deb", Architecture: "amd64", Change: Changed, Before: "1", After: "1.1", Path: db},
		{Name: "gone", Type: "deb", Architecture: "amd64", Change: Removed, Before: "2", Path: db},
		{Name: "new", Type: "deb", Architecture: "amd64", Change: Added, After: "2", Path: db},
		{Name: "n", Type: "npm", Change: Added, After: "4", Path: "e/package.json"},
		{Name: "n", Type: "npm", Change: Changed, Before: "1", After: "3", Path: "d/package.json"},
	}
	if diff := cmp.Diff(want, d.Packages); diff != "" {
		t.Errorf("the packages (-want +got):\n%s", diff)
	}
}

func TestLicencesOfDebian(t *testing.T) {
	for said, want := range map[string]string{
		"GPL-2": "GPL-2.0-only", "GPL-2+ or Artistic": "GPL-2.0-or-later OR Artistic-1.0-Perl", "LGPL-2.1+, and BSD-3-clause": "LGPL-2.1-or-later AND BSD-3-Clause",
		"Apache-2.0": "Apache-2.0", "public-domain": "public-domain", "GPL-2+ with OpenSSL exception": "GPL-2+ with OpenSSL exception",
	} {
		if got := expression(said); got != want {
			t.Errorf("%q is %q, want %q", said, got, want)
		}
	}
}
