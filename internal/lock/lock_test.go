package lock_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/lock"
	"kiln/internal/model"
)

var (
	one = model.Digest("sha256:" + strings.Repeat("1", 64))
	two = model.Digest("sha256:" + strings.Repeat("2", 64))
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func sample() *lock.File {
	entries := []lock.Entry{
		{Kind: lock.Get, Name: "https://b.example/x", Digest: one, Size: 3, Status: 302, Location: "https://c.example/a b", Type: "text/html; charset=\"utf-8\""},
		{Kind: lock.Get, Name: "https://b.example/x", Digest: two, Size: 3, Step: "0123456789ab", Nth: 2},
		{Kind: lock.Get, Name: "https://b.example/x", Digest: two, Size: 3, Range: "bytes=0-2", Part: "bytes 0-2/9"},
		{Kind: lock.Head, Name: "https://b.example/big", Size: 1 << 40, Modified: "2024-02-29T01:02:03Z"},
		{Kind: lock.Base, Name: "docker.io/base/debian:12", Digest: one},
		{Kind: lock.Git, Name: "https://a.example/r.git#v1", Commit: commit, Digest: two, Size: 9},
		{Kind: lock.Git, Name: "git@a.example:r.git", Commit: commit},
		{Kind: lock.Add, Name: "https://a.example/f.tar?x=1#y", Digest: two, Size: 0},
	}
	return (&lock.File{}).With("shop", entries).With("api", []lock.Entry{})
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	text := sample().String()
	again, err := lock.Parse("kiln.lock", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got := again.String(); got != text {
		t.Errorf("what was written\n%s\nis read as\n%s", text, got)
	}
	for _, s := range again.Services {
		if s.Line == 0 {
			t.Errorf("service %s has no line", s.Name)
		}
		for i, e := range s.Entries {
			if want := strings.Split(text, "\n")[e.Line-1]; "  "+e.String() != want {
				t.Errorf("line %d is %q, and the entry says %q", e.Line, want, e)
			}
			e.Line = 0
			if diff := cmp.Diff(sample().Service(s.Name).Entries[i], e); diff != "" {
				t.Error(diff)
			}
		}
	}
	if lock.Digest(again.Service("shop").Entries) != lock.Digest(sample().Service("shop").Entries) {
		t.Error("the same entries have two digests")
	}
}

func TestWrongFiles(t *testing.T) {
	good := "version 1\nservice shop\n"
	for name, c := range map[string]struct{ text, want, hint string }{
		"empty":            {"", "k:1:1: there is no version line", "kiln lock update"},
		"garbage":          {"\x7fELF rubbish\n", `k:1:1: the first line of a lock file is its version`, "version control"},
		"zero bytes":       {"version 1\n\x00\n", "k:2:1: it is not a lock file", "version control"},
		"json":             {"{\"version\": 1}\n", "k:1:1: the first line", ""},
		"newer":            {"version 2\nwhatever comes\n", "k:1:9: the file is of version 2, and this kiln reads version 1", "newer kiln"},
		"no number":        {"version one\n", "k:1:1: the version is none", ""},
		"two versions":     {good + "version 1\n", "k:3:1: the version is said twice", ""},
		"conflict":         {good + "<<<<<<< HEAD\n  base a " + string(one) + "\n=======\n  base a " + string(two) + "\n>>>>>>> other\n", "k:3:1: a merge has left a conflict here: <<<<<<< HEAD\nk:5:1: a merge", "remove the markers"},
		"conflict on top":  {"<<<<<<< HEAD\nversion 1\n", "k:1:1: a merge has left a conflict", ""},
		"twice":            {good + "  base a " + string(one) + "\n\n  base a " + string(two) + "\n", "k:5:1: the same entry is there twice, first on line 3: base a", "keep one"},
		"service twice":    {good + "service shop\n", "k:3:1: service shop is in the file twice, first on line 2", ""},
		"no service":       {"version 1\nbase a " + string(one) + "\n", "k:2:1: the entry stands before the first service", ""},
		"service name":     {"version 1\nservice Shop!\n", "k:2:1: a service is written as", ""},
		"kind":             {good + "  bass a " + string(one) + "\n", `k:3:3: "bass" is no entry`, ""},
		"digest":           {good + "  base a sha256:12\n", `k:3:10: "sha256:12" is not a digest`, ""},
		"no digest":        {good + "  base a\n", "k:3:9: the line ends where a digest", ""},
		"size":             {good + "  get http://a/ " + string(one) + " -1\n", `is not a size`, ""},
		"url":              {good + "  get ftp://a/ " + string(one) + " 1\n", "k:3:1: \"ftp://a/\" is not a URL", ""},
		"login":            {good + "  get http://u:p@a/ " + string(one) + " 1\n", "has no login", ""},
		"attribute":        {good + "  get http://a/ " + string(one) + " 1 colour=red\n", `"colour=red" is nothing that an entry says`, ""},
		"attribute twice":  {good + "  get http://a/ " + string(one) + " 1 nth=2 nth=3\n", `nth is said twice`, ""},
		"attribute value":  {good + "  get http://a/ " + string(one) + " 1 nth=1\n", `"1" cannot be the value of nth`, ""},
		"quote":            {good + "  get http://a/ " + string(one) + " 1 type=\"x\n", "a quote is opened here", ""},
		"commit":           {good + "  git https://a/r.git 123\n", `"123" is not a commit`, ""},
		"base with status": {good + "  base a " + string(one) + " status=200\n", "and nothing else", ""},
		"time":             {good + "  get http://a/ " + string(one) + " 1 modified=yesterday\n", "modified is a time", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := lock.Parse("k", []byte(c.text))
			if err == nil {
				t.Fatalf("it was read as\n%s", f)
			}
			if !strings.Contains(err.Error(), c.want) || model.CodeOf(err) != model.Invalid {
				t.Errorf("the error is %s: %v, want %q", model.CodeOf(err), err, c.want)
			}
			if !strings.Contains(model.HintOf(err), c.hint) {
				t.Errorf("the hint is %q, want %q", model.HintOf(err), c.hint)
			}
		})
	}
}

func TestManyProblemsAreToldUpToABound(t *testing.T) {
	_, err := lock.Parse("k", []byte("version 1\n"+strings.Repeat("x\n", 1000)))
	if n := strings.Count(err.Error(), "\n"); n != 20 || !strings.HasSuffix(err.Error(), "and more") {
		t.Errorf("%d lines: %v", n, err)
	}
}

func TestDiff(t *testing.T) {
	before := []lock.Entry{
		{Kind: lock.Base, Name: "a", Digest: one, Line: 7},
		{Kind: lock.Get, Name: "http://a/1", Digest: one, Size: 1},
		{Kind: lock.Get, Name: "http://a/2", Digest: one, Size: 1},
	}
	after := []lock.Entry{
		{Kind: lock.Get, Name: "http://a/3", Digest: one, Size: 1},
		{Kind: lock.Get, Name: "http://a/2", Digest: two, Size: 1},
		{Kind: lock.Base, Name: "a", Digest: one},
	}
	var got []string
	for _, c := range lock.Diff(before, after) {
		name := c.Before
		if name == nil {
			name = c.After
		}
		got = append(got, string(c.Op)+" "+name.Name)
	}
	if diff := cmp.Diff([]string{"removed http://a/1", "changed http://a/2", "added http://a/3"}, got); diff != "" {
		t.Error(diff)
	}
	if lock.Diff(before, before) != nil {
		t.Error("a list differs from itself")
	}
}

func TestMatches(t *testing.T) {
	e := lock.Entry{Name: "https://deb.example/debian/pool/c/curl/curl_1[2].deb"}
	for pattern, want := range map[string]bool{
		"curl": true, "deb.example": true, "https://deb.example/*": true, "*.deb": true, "*[2].deb": true, "*/pool/?/curl/*": true,
		"wget": false, "*.rpm": false, "deb.example/*": false,
	} {
		if e.Matches(pattern) != want {
			t.Errorf("%s: %t", pattern, !want)
		}
	}
}

func FuzzLockFile(f *testing.F) {
	f.Add(sample().String())
	f.Add("version 1\nservice a\nbase a sha256:" + strings.Repeat("a", 64) + "\n")
	f.Add("version 1\nservice a\n<<<<<<< x\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := lock.Parse("k", []byte(text))
		if err != nil {
			if model.CodeOf(err) != model.Invalid || !strings.HasPrefix(err.Error(), "k:") && !strings.HasPrefix(err.Error(), "cannot read k") {
				t.Fatalf("the error says not where: %v", err)
			}
			return
		}
		sorted := &lock.File{}
		for _, s := range file.Services {
			entries := s.Entries
			if entries == nil {
				entries = []lock.Entry{}
			}
			sorted = sorted.With(s.Name, entries)
		}
		again, err := lock.Parse("k", []byte(sorted.String()))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v\n%s", err, sorted)
		}
		for _, s := range file.Services {
			if d := lock.Diff(s.Entries, again.Service(s.Name).Entries); len(d) > 0 {
				t.Fatalf("it is read differently again: %+v\n%s", d, sorted)
			}
		}
	})
}
