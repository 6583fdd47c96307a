package contents

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// osvEntry is an entry about one package.
func osvEntry(id, ecosystem, name, rest string) string {
	return fmt.Sprintf(`{"id":%q,"modified":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":%q,"name":%q},%s}]}`, id, ecosystem, name, rest)
}

// ranged is a range in an entry; each event is KIND VERSION.
func ranged(kind string, events ...string) string {
	var all []string
	for _, e := range events {
		what, version, _ := strings.Cut(e, " ")
		all = append(all, fmt.Sprintf(`{%q:%q}`, what, version))
	}
	return fmt.Sprintf(`"ranges":[{"type":%q,"events":[%s]}]`, kind, strings.Join(all, ","))
}

func TestVulnerableVersions(t *testing.T) {
	debian := func(version string) Package {
		return Package{Name: "bash", Version: version, Type: "deb", Ecosystem: "Debian:13"}
	}
	golang := func(version string) Package {
		return Package{Name: "example.com/m", Version: version, Type: "golang", Ecosystem: "Go"}
	}
	for name, c := range map[string]struct {
		entry string
		p     Package
		want  string // yes and what mends it, no, or why it is unclear
	}{
		"before the fix":             {osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 5.2-3")), debian("5.2-2+b1"), "yes 5.2-3"},
		"the fix":                    {osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 5.2-3")), debian("5.2-3"), "no"},
		"a tilde sorts before":       {osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 5.2-3")), debian("5.2-3~deb13u1"), "yes 5.2-3"},
		"an epoch counts":            {osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 9")), debian("1:0.1"), "no"},
		"never fixed":                {osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0")), debian("9"), "yes "},
		"another release":            {osvEntry("X", "Debian:12", "bash", ranged("ECOSYSTEM", "introduced 0")), debian("9"), "no"},
		"any release":                {osvEntry("X", "Debian", "bash", ranged("ECOSYSTEM", "introduced 0")), debian("9"), "yes "},
		"another package":            {osvEntry("X", "Debian:13", "dash", ranged("ECOSYSTEM", "introduced 0")), debian("9"), "no"},
		"another ecosystem":          {osvEntry("X", "npm", "bash", ranged("SEMVER", "introduced 0")), debian("9"), "no"},
		"withdrawn":                  {strings.Replace(osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0")), `"id"`, `"withdrawn":"2026-01-01T00:00:00Z","id"`, 1), debian("9"), "no"},
		"listed":                     {osvEntry("X", "Debian:13", "bash", `"versions":["1","2"]`), debian("2"), "yes "},
		"not listed":                 {osvEntry("X", "Debian:13", "bash", `"versions":["1","2"]`), debian("3"), "no"},
		"a broken version":           {osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 1")), debian("x:1"), "version of Debian"},
		"two ranges, between":        {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 0", "fixed 1.2.0", "introduced 2.0.0", "fixed 2.1.0")), golang("1.9.0"), "no"},
		"two ranges, the second":     {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 2.0.0", "fixed 2.1.0", "introduced 0", "fixed 1.2.0")), golang("2.0.1"), "yes 2.1.0"},
		"a candidate comes before":   {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 1.0.0", "fixed 1.2.0")), golang("1.2.0-rc.1"), "yes 1.2.0"},
		"last affected":              {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 1.0.0", "last_affected 1.2.0")), golang("1.2.0"), "yes "},
		"after last affected":        {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 1.0.0", "last_affected 1.2.0")), golang("1.2.1"), "no"},
		"limit":                      {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 1.0.0", "limit 1.2.0")), golang("1.2.0"), "no"},
		"below limit":                {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 1.0.0", "limit 1.2.0")), golang("1.1.9"), "yes "},
		"no limit":                   {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 1.0.0", "limit *")), golang("3.0.0"), "yes "},
		"commits":                    {osvEntry("X", "Go", "example.com/m", ranged("GIT", "introduced 0")), golang("1.1.9"), "no"},
		"no version":                 {osvEntry("X", "Go", "example.com/m", ranged("SEMVER", "introduced 0")), golang(""), "not known"},
		"the source's name":          {osvEntry("X", "Debian:13", "glibc", ranged("ECOSYSTEM", "introduced 0", "fixed 3")), Package{Name: "libc6", Source: "glibc", SourceVersion: "2", Version: "9", Type: "deb", Ecosystem: "Debian:13"}, "yes 3"},
		"the origin's name":          {osvEntry("X", "Alpine:v3.20", "openssl", ranged("ECOSYSTEM", "introduced 0", "fixed 3.3.2-r1")), Package{Name: "libcrypto3", Source: "openssl", Version: "3.3.2-r0", Type: "apk", Ecosystem: "Alpine:v3.20"}, "yes 3.3.2-r1"},
		"names of PyPI":              {osvEntry("X", "PyPI", "zope.interface", ranged("ECOSYSTEM", "introduced 0", "fixed 1.0.post1")), Package{Name: "Zope_Interface", Version: "1.0", Type: "pypi", Ecosystem: "PyPI"}, "yes 1.0.post1"},
		"names of Ubuntu's releases": {osvEntry("X", "Ubuntu:24.04:LTS", "bash", ranged("ECOSYSTEM", "introduced 0")), Package{Name: "bash", Version: "1", Type: "deb", Ecosystem: "Ubuntu:24.04"}, "yes "},
		"rpm with an epoch":          {osvEntry("X", "Rocky Linux:9", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 1:5.1-2.el9")), Package{Name: "bash", Version: "1:5.1-1.el9", Type: "rpm", Ecosystem: "Rocky Linux:9"}, "yes 1:5.1-2.el9"},
		"gems":                       {osvEntry("X", "RubyGems", "rake", ranged("ECOSYSTEM", "introduced 0", "fixed 12.3.3")), Package{Name: "rake", Version: "12.3.3.pre", Type: "gem", Ecosystem: "RubyGems"}, "yes 12.3.3"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Vulnerabilities("list.json", []byte(c.entry), []Package{c.p})
			if err != nil {
				t.Fatal(err)
			}
			got := "no"
			switch {
			case len(r.Findings) == 1:
				got = "yes " + r.Findings[0].Fixed
			case len(r.Undecided) == 1:
				got = r.Undecided[0].Reason
			}
			if got != c.want && (len(r.Undecided) == 0 || !strings.Contains(got, c.want)) {
				t.Errorf("the verdict is %q, want %q", got, c.want)
			}
		})
	}
}

func TestFindings(t *testing.T) {
	list := `[{"id":"GO-1","modified":"2026-01-01T00:00:00Z","aliases":["CVE-2"],"upstream":["CVE-1"],"details":"First line.\nSecond.","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N"}],
		"database_specific":{"severity":"HIGH"},
		"affected":[{"package":{"ecosystem":"Go","name":"example.com/m"},` + ranged("SEMVER", "introduced 0", "fixed 2.0.0") + `},{"package":{"ecosystem":"Go","name":"example.com/n"},` + ranged("SEMVER", "introduced 0") + `,"ecosystem_specific":[7]}]},
		` + strings.Replace(osvEntry("A", "Go", "example.com/m", ranged("SEMVER", "introduced 0")), `"id"`, `"summary":"short","database_specific":{"severity":["?"]},"id"`, 1) + `]`
	packages := []Package{
		{Name: "example.com/m", Version: "1.0.0", Type: "golang", Ecosystem: "Go", Path: "usr/bin/b"},
		{Name: "example.com/m", Version: "1.0.0", Type: "golang", Ecosystem: "Go", Path: "usr/bin/a"},
		{Name: "example.com/m", Version: "2.0.0", Type: "golang", Ecosystem: "Go", Path: "usr/bin/a"},
		{Name: "unknown", Version: "2.0.0", Type: "nix", Path: "x"},
	}
	want := Report{Entries: 2, Unmatched: 1, Undecided: []Undecided{}, Findings: []Finding{
		{ID: "A", Package: "example.com/m", Version: "1.0.0", Type: "golang", Paths: []string{"usr/bin/a", "usr/bin/b"}, Summary: "short"},
		{ID: "A", Package: "example.com/m", Version: "2.0.0", Type: "golang", Paths: []string{"usr/bin/a"}, Summary: "short"},
		{
			ID: "GO-1", Aliases: []string{"CVE-1", "CVE-2"}, Package: "example.com/m", Version: "1.0.0", Type: "golang", Paths: []string{"usr/bin/a", "usr/bin/b"},
			Fixed: "2.0.0", Level: "high", Severity: []Severity{{"CVSS_V3", "CVSS:3.1/AV:N"}}, Summary: "First line.",
		},
	}}
	got, err := Vulnerabilities("list.json", []byte(list), packages)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the report (-want +got):\n%s", diff)
	}

	var entries []json.RawMessage
	if err := json.Unmarshal([]byte(list), &entries); err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"README.md": {Data: []byte("no entry")}, "sub/2.json": {Data: entries[0]}, "1.json": {Data: entries[1]}}
	got, err = VulnerabilitiesIn("lists", files, packages)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the report of a directory (-want +got):\n%s", diff)
	}

	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	if err := w.AddFS(files); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err = Vulnerabilities("all.zip", archive.Bytes(), packages)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the report of an archive (-want +got):\n%s", diff)
	}
	_, err = Vulnerabilities("cut.zip", archive.Bytes()[:archive.Len()-10], packages)
	layertest.Says(t, err, "cut.zip", "zip")
}

func TestLevels(t *testing.T) {
	for name, c := range map[string]struct {
		said []word
		by   []Severity
		want Level
	}{
		"nothing":         {nil, nil, LevelUnknown},
		"GitHub's word":   {[]word{"", "MODERATE"}, []Severity{{"CVSS_V3", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}}, LevelMedium},
		"Debian's word":   {[]word{"unimportant"}, nil, LevelLow},
		"no word at all":  {[]word{"not yet assigned"}, nil, LevelUnknown},
		"Ubuntu's":        {nil, []Severity{{"Ubuntu", "high"}}, LevelHigh},
		"CVSS 3.1":        {nil, []Severity{{"CVSS_V3", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}}, LevelCritical},
		"CVSS 3.0":        {nil, []Severity{{"CVSS_V3", "CVSS:3.0/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}}, LevelLow},
		"CVSS 2":          {nil, []Severity{{"CVSS_V2", "AV:N/AC:L/Au:N/C:C/I:C/A:C"}}, LevelHigh},
		"CVSS 4, worst":   {nil, []Severity{{"CVSS_V3", "CVSS:3.0/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}, {"CVSS_V4", "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H"}}, LevelCritical},
		"a broken vector": {nil, []Severity{{"CVSS_V3", "CVSS:3.1/AV:?"}, {"CVSS_V3", "high"}}, LevelUnknown},
	} {
		if got := levelOf(c.said, c.by); got != c.want {
			t.Errorf("%s: the level is %q, want %q", name, got, c.want)
		}
	}
	if LevelUnknown.AtLeast(LevelLow) || LevelLow.AtLeast(LevelHigh) || !LevelHigh.AtLeast(LevelHigh) {
		t.Error("the levels are out of order")
	}
}

func TestMalformedLists(t *testing.T) {
	for name, c := range map[string]struct{ list, want string }{
		"syntax":       {"[\n  {\"id\": \"A\",,}\n]", "list.json:2:14: "},
		"cut":          {"[\n  {\"id\": \"A\"", "list.json:2:12: "},
		"wrong type":   {"{\"id\": \"A\",\n\"affected\": [{\"ranges\": 7}]}", "list.json:2:25: "},
		"two values":   {"{\"id\": \"A\"}\n{\"id\": \"B\"}", "list.json:2:1: "},
		"no entry":     {`{"bomFormat": "CycloneDX"}`, "entry 1 has no id"},
		"one of them":  {`[{"id":"A"},{}]`, "entry 2 has no id"},
		"empty":        {" \n", "it is empty"},
		"not JSON":     {"id,package\n", "list.json:1:1: "},
		"only a zip's": {"PK\x03\x04", "list.json"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Vulnerabilities("list.json", []byte(c.list), nil)
			layertest.Says(t, err, c.want)
			if model.CodeOf(err) != model.Invalid {
				t.Errorf("the error is %s, want invalid", model.CodeOf(err))
			}
		})
	}
	_, err := VulnerabilitiesIn("lists", fstest.MapFS{"a/bad.json": {Data: []byte("{")}}, nil)
	layertest.Says(t, err, "lists: a/bad.json:1:1: ")
	var nested bytes.Buffer
	w := zip.NewWriter(&nested)
	if f, err := w.Create("a.json"); err != nil {
		t.Fatal(err)
	} else if _, err := f.Write([]byte(`{"id":"A"}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = VulnerabilitiesIn("lists", fstest.MapFS{"zip.json": {Data: nested.Bytes()}}, nil)
	layertest.Says(t, err, "lists: zip.json:1:1: ")
	_, err = VulnerabilitiesIn("lists", fstest.MapFS{"README": {}}, nil)
	layertest.Says(t, err, "lists", "no file in it whose name ends in .json")
	none, err := Vulnerabilities("list.json", []byte("[]"), nil)
	if err != nil || none.Entries != 0 || none.Findings == nil {
		t.Errorf("an empty array gives %+v (%v)", none, err)
	}
}

// FuzzVulnerabilities wants an answer or an error of class Invalid, of any list.
func FuzzVulnerabilities(f *testing.F) {
	f.Add([]byte(osvEntry("X", "Debian:13", "bash", ranged("ECOSYSTEM", "introduced 0", "fixed 5.2-3"))), "5.2")
	f.Add([]byte("["+osvEntry("X", "Go", "bash", ranged("SEMVER", "introduced 1.0.0", "last_affected 2", "limit *"))+"]"), "1.0.0-rc1")
	f.Add([]byte(osvEntry("X", "PyPI", "bash", `"versions":["1"]`)), "1.0.dev1+local")
	f.Fuzz(func(t *testing.T, list []byte, version string) {
		var packages []Package
		for _, e := range []string{"Debian:13", "Go", "npm", "PyPI", "RubyGems", "Alpine:v3.20", "Rocky Linux:9", "Maven"} {
			packages = append(packages, Package{Name: "bash", Version: version, Type: "x", Ecosystem: e})
		}
		if _, err := Vulnerabilities("list", list, packages); err != nil && model.CodeOf(err) != model.Invalid {
			t.Fatalf("the error is %s: %v", model.CodeOf(err), err)
		}
	})
}
