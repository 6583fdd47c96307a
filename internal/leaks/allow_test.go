package leaks

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

func TestParseAllowed(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	a, err := ParseAllowed("kiln.allow", []byte("\ufeff# a comment\n\nprivate-key /usr/share/doc/**  # published # by its makers\r\n\t* \"/a dir/x?\" sha256:"+sum+" #r\nconfig-secret env:DEMO_TOKEN # of the demo"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{Rule: "private-key", Path: "/usr/share/doc/**", Reason: "published # by its makers", Line: 3},
		{Rule: "*", Path: "/a dir/x?", SHA256: sum, Reason: "r", Line: 4},
		{Rule: "config-secret", Path: "env:DEMO_TOKEN", Reason: "of the demo", Line: 5},
	}
	if diff := cmp.Diff(want, a.Entries()); diff != "" {
		t.Error(diff)
	}
	for text, wrong := range map[string]string{
		"private-key":                    `f:1:12: the path is missing`,
		"\n  privat-key /x # y":          `f:2:3: there is no rule "privat-key"`,
		"private-key /x":                 `f:1:15: the reason is missing`,
		"private-key /x #  ":             `f:1:16: the reason is missing`,
		"private-key x/y # z":            `f:1:13: "x/y" is no absolute path`,
		"* * # z":                        `f:1:3: "*" is a path of everything`,
		"* ** # z":                       `f:1:3: "**" is a path of everything`,
		"private-key /**/*? # z":         `f:1:13: "/**/*?" is a path of everything`,
		"é /x # z":                       `f:1:1: there is no rule "é"`,
		"private-key /é sha256:00 # z":   `f:1:16: "sha256:00" is no digest`,
		"private-key /a b # z":           `f:1:16: "b" is no digest`,
		`private-key "/a b # z`:          `f:1:13: a quote is opened and not closed`,
		"private-key /a sha256:" + sum:   `f:1:87: the reason is missing`,
		"jwt /a sha256:" + sum + " b #c": `f:1:80: "b" is too much`,
		"jwt /\xff # z":                  `f:1:1: this is no UTF-8 text`,
		"x\ny":                           "f:1:1: there is no rule \"x\"",
	} {
		_, err := ParseAllowed("f", []byte(text))
		if err == nil || model.CodeOf(err) != model.Invalid || !strings.HasPrefix(err.Error(), wrong) || model.HintOf(err) == "" {
			t.Errorf("%q: %v, want %s", text, err, wrong)
		}
	}
	if _, err := ParseAllowed("f", []byte("x\ny")); strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("one line for each: %v", err)
	}
	if _, err := ParseAllowed("f", make([]byte, maxAllowed+1)); err == nil {
		t.Error("it may be of any size")
	}
}

func TestAllowed(t *testing.T) {
	token := gitHub("ghp")
	text := "x " + token + "\n"
	sum := sha256.Sum256([]byte(text))
	large := text + strings.Repeat("#\n", windowSize)
	largeSum := sha256.Sum256([]byte(large))
	image := layertest.ImageOf(t, layertest.Archive(t, layertest.File{Name: "a/one", Text: text}, layertest.File{Name: "a/two", Text: text}, layertest.File{Name: "b/three", Text: text}, layertest.File{Name: "large", Text: large}))
	list := "github-token /a/one # reviewed\n" +
		"* /a/two sha256:" + hex.EncodeToString(sum[:]) + " # the very bytes\n" +
		"github-token /b/* sha256:" + strings.Repeat("00", 32) + " # other bytes\n" +
		"npm-token /a/** # another rule\n" +
		"github-token /large sha256:" + hex.EncodeToString(largeSum[:]) + " # large\n" +
		"setuid /bin/su # not this search's\n"
	a, err := ParseAllowed("f", []byte(list))
	if err != nil {
		t.Fatal(err)
	}
	r := searchOf(t, image, a)
	if len(r.Findings) != 1 || r.Findings[0].Path != "/b/three" || len(r.Allowed) != 3 || r.Allowed[1].Entry.Reason != "the very bytes" {
		t.Errorf("%+v", r)
	}
	if len(r.Stale) != 2 || r.Stale[0].Line != 3 || r.Stale[1].Line != 4 {
		t.Errorf("stale: %+v", r.Stale)
	}
	// What is allowed is said anew in each report.
	if again := searchOf(t, image, a); cmp.Diff(r, again) != "" {
		t.Error(cmp.Diff(r, again))
	}
}

// TestAllowEntry: the line that is proposed allows the finding, whatever its path.
func TestAllowEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Finding{Rule: ruleJWT, Path: "/a" + rapid.StringN(0, 20, -1).Draw(t, "path")}
		if rapid.Bool().Draw(t, "bound") {
			f.SHA256 = strings.Repeat("0a", 32)
		}
		a, err := ParseAllowed("f", []byte(f.AllowEntry()+"reviewed"))
		if err != nil {
			t.Fatalf("%q: %v", f.AllowEntry(), err)
		}
		if _, ok := a.entry(f); !ok {
			t.Fatalf("%q does not allow %+v", f.AllowEntry(), f)
		}
	})
}

// TestMatches holds patterns to what they mean as regular expressions.
func TestMatches(t *testing.T) {
	meaning := func(pattern string) *regexp.Regexp {
		p := regexp.QuoteMeta(pattern)
		p = regexp.MustCompile(`(?:\\\*){2,}`).ReplaceAllString(p, "\x00")
		p = strings.ReplaceAll(p, `\*`, `[^/]*`)
		p = strings.ReplaceAll(p, `\?`, `[^/]`)
		return regexp.MustCompile(`^` + strings.ReplaceAll(p, "\x00", `.*`) + `$`)
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab/*?]{0,12}`).Draw(t, "pattern")
		path := rapid.StringMatching(`[ab/]{0,12}`).Draw(t, "path")
		if got, want := matches(pattern, path), meaning(pattern).MatchString(path); got != want {
			t.Fatalf("%q on %q: %t", pattern, path, got)
		}
	})
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"**/x", "/x", true}, {"/x/**", "/x", false}, {"/x/**", "/x/y/z", true}, {"/*/x", "/a/b/x", false}, {"/a.b", "/axb", false}, {"env:*", "env:A", true}, {"/?x", "/éx", true}, {"/?", "/\ufffd", true}, {"/?", "/\xff", true}, {"/*?", "/é", true},
	} {
		if matches(c.pattern, c.path) != c.want {
			t.Errorf("%q on %q: %t", c.pattern, c.path, !c.want)
		}
	}
	// It takes no pattern long.
	if matches(strings.Repeat("**a", 30)+"b", strings.Repeat("a", 4000)) {
		t.Error("matched")
	}
}

func FuzzParseAllowed(f *testing.F) {
	for _, s := range []string{"private-key /x # y", "* \"/a b\" sha256:00 #", "# c\n\njwt env:A #x", "\"", "* /*"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAllowed("f", text)
		if err != nil {
			if model.CodeOf(err) != model.Invalid || !regexp.MustCompile(`^f:\d+:\d+: `).MatchString(err.Error()) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, e := range a.Entries() {
			if e.Reason == "" || !names(e.Path) {
				t.Errorf("%+v", e)
			}
			if e.Rule == "*" && matches(e.Path, "/etc/some/file") && matches(e.Path, "/usr/another") && matches(e.Path, "/x") {
				t.Errorf("%+v is for everything", e)
			}
		}
	})
}
