package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/model"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), or run with -rewrite:\n%s", path, diff)
	}
}

func parseFile(t *testing.T, path string) (*File, Diagnostics) {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Parse("kiln.hcl", src)
}

func TestGoodDeclarations(t *testing.T) {
	files, _ := filepath.Glob("testdata/good/*.hcl")
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, diags := parseFile(t, path)
			if len(diags) > 0 {
				t.Fatal(diags)
			}
			type shown struct {
				Build    *Build `json:",omitempty"`
				Ref      string `json:",omitempty"`
				Template model.Template
				Policy   model.Policy
			}
			var all []shown
			for _, s := range f.Services {
				all = append(all, shown{s.Build, s.Ref, s.Template, s.Policy})
			}
			out, err := json.MarshalIndent(all, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(path, ".hcl")+".golden", string(out)+"\n")
		})
	}
}

func TestBadDeclarations(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad/*.hcl")
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, diags := parseFile(t, path)
			if len(diags) == 0 || f != nil {
				t.Fatal("a bad declaration was taken for a good one")
			}
			golden(t, strings.TrimSuffix(path, ".hcl")+".golden", diags.Error())
		})
	}
}

// The example of the design says its defaults: leaving them out gives the same.
func TestDesignExampleShowsTheDefaults(t *testing.T) {
	full, diags := parseFile(t, "testdata/good/design.hcl")
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	bare, diags := Parse("kiln.hcl", []byte(`service "shop" {
  image {
    context       = "."
    containerfile = "Containerfile"
  }
  servers = 3
  port    = 8080
  route {
    listen = ":80"
    host   = "shop.example.com"
  }
  health "http" {
  }
}`))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if diff := cmp.Diff(full.Services[0].Policy.Health, bare.Services[0].Policy.Health); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(full.Services[0].Policy.Deploy, bare.Services[0].Policy.Deploy); diff != "" {
		t.Error(diff)
	}
}

// Defaults is what people read; Parse is what happens.
func TestDefaultsAreWhatParseGives(t *testing.T) {
	f, diags := Parse("kiln.hcl", []byte("service \"a\" {\n  image {\n  }\n  port = 80\n  route {\n    listen = \":80\"\n  }\n  health \"http\" {\n  }\n  ephemeral \"/x\" {\n  }\n}"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	s := f.Services[0]
	h, d := s.Policy.Health, s.Policy.Deploy
	is := map[string]string{
		"image.context": s.Build.Context, "protocol": string(s.Template.Protocol),
		"stop_grace": s.Policy.StopGrace.String(), "health.path": h.Path,
		"health.interval": h.Interval.String(), "health.timeout": h.Timeout.String(), "health.grace": h.Grace.String(),
		"deploy.strategy": string(d.Strategy), "deploy.deadline": d.Deadline.String(),
		"deploy.drain.requests": d.Drain.Requests.String(), "deploy.drain.streams": d.Drain.Streams.String(),
		"deploy.drain.websockets": d.Drain.WebSockets.String(), "deploy.keep_warm": d.KeepWarm.String(),
		"ephemeral.size": Size(s.Template.Ephemeral[0].Size),
	}
	for _, def := range Defaults() {
		if got, ok := is[def.Key]; ok && got != def.Value {
			t.Errorf("%s is documented as %q and is %q", def.Key, def.Value, got)
		}
		delete(is, def.Key)
	}
	if len(is) > 0 {
		t.Errorf("not documented: %v", is)
	}
}

func TestSuggestions(t *testing.T) {
	for word, want := range map[string]string{"prot": "port", "sevrers": "servers", "imge": "image", "xyz": "", "helth": "health"} {
		if got := nearest(word, []string{"port", "servers", "image", "health"}); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestMaxUnavailableIsOfTheServers(t *testing.T) {
	for text, want := range map[string]int{`"25%"`: 2, `"100%"`: 10, `3`: 3, `"0%"`: 0} {
		f, diags := Parse("kiln.hcl", []byte("service \"a\" {\n  image {\n  }\n  servers = 10\n  deploy {\n    max_unavailable = "+text+"\n  }\n}"))
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		if got := f.Services[0].Policy.Deploy.MaxUnavailable.Down(10); got != want {
			t.Errorf("%s of 10 is %d, want %d", text, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	for want, src := range map[string]string{
		"larger than 256KiB":    strings.Repeat("#", maxSize+1),
		"nested deeper than 64": "a = " + strings.Repeat("[", maxNesting+1),
		"nested deeper than":    "a = " + strings.Repeat(`"${`, maxNesting+1),
	} {
		if f, diags := Parse("kiln.hcl", []byte(src)); f != nil || len(diags) != 1 || !strings.Contains(diags[0].Message, want) {
			t.Errorf("want %q, got %v", want, diags)
		}
	}
}

// FuzzParse: whatever comes, Parse gives either a file that keeps the model's
// rules or diagnostics, and each has a place in the file.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.hcl", "testdata/bad/*.hcl"} {
		files, _ := filepath.Glob(pattern)
		for _, path := range files {
			src, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		file, diags := Parse("kiln.hcl", src)
		if (file == nil) == (len(diags) == 0) {
			t.Fatalf("file %v and %d diagnostics", file != nil, len(diags))
		}
		lines := strings.Count(string(src), "\n") + 1
		for _, d := range diags {
			if d.File != "kiln.hcl" || d.Line < 1 || d.Line > lines || d.Column < 1 || d.Width < 1 || d.Message == "" {
				t.Fatalf("diagnostic without a place: %+v", d)
			}
			if !strings.HasPrefix(d.String(), "kiln.hcl:") {
				t.Fatalf("diagnostic %q", d.String())
			}
		}
		if file == nil {
			return
		}
		for _, s := range file.Services {
			checkService(t, s)
		}
	})
}

func checkService(t *testing.T, s *Service) {
	t.Helper()
	switch {
	case !model.ValidServiceName(s.Name) || s.Template.Service != s.Name:
		t.Fatalf("service name %q", s.Name)
	case (s.Build == nil) == (s.Ref == ""):
		t.Fatalf("%s: both or neither of build and ref", s.Name)
	case s.Policy.Servers < 1 || s.Policy.Deploy.MaxUnavailable.Down(s.Policy.Servers) > s.Policy.Servers:
		t.Fatalf("%s: servers %d, max_unavailable %s", s.Name, s.Policy.Servers, s.Policy.Deploy.MaxUnavailable)
	case len(s.Policy.Routes) > 0 && s.Template.Port == 0:
		t.Fatalf("%s: a route without a port", s.Name)
	case s.Policy.Health.Interval <= 0 || s.Policy.Health.Timeout <= 0 || s.Policy.Deploy.Deadline <= 0:
		t.Fatalf("%s: a timer of zero", s.Name)
	case s.Policy.Deploy.Strategy != model.BlueGreen:
		t.Fatalf("%s: strategy %q", s.Name, s.Policy.Deploy.Strategy)
	}
	if slices.ContainsFunc(s.Template.Ephemeral, func(e model.Ephemeral) bool { return e.Size <= 0 || !filepath.IsAbs(e.Path) }) {
		t.Fatalf("%s: ephemeral %v", s.Name, s.Template.Ephemeral)
	}
}

// The table of the documentation is made from Defaults.
func TestDefaultsAreDocumented(t *testing.T) {
	const path, begin, end = "../../docs/declaration.md", "<!-- defaults:begin -->\n", "<!-- defaults:end -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the defaults", path)
	}
	var table strings.Builder
	table.WriteString("| key | default | meaning |\n|---|---|---|\n")
	for _, d := range Defaults() {
		table.WriteString("| `" + d.Key + "` | " + d.Value + " | " + d.Meaning + " |\n")
	}
	golden(t, path, before+begin+table.String()+end+after)
}
