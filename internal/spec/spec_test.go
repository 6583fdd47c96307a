package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // what the program has compiled in

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
				Environment, Declared, Kiln string `json:",omitempty"`

				Build    *Build   `json:",omitempty"`
				Ref      string   `json:",omitempty"`
				Secrets  []Secret `json:",omitempty"`
				Config   []Config `json:",omitempty"`
				Template model.Template
				Policy   model.Policy
			}
			var all []shown
			for _, s := range f.Services {
				all = append(all, shown{Build: s.Build, Ref: s.Ref, Secrets: s.Secrets, Config: s.Config, Template: s.Template, Policy: s.Policy})
			}
			for _, e := range f.Environments {
				for _, s := range f.In(e.Name).Services {
					all = append(all, shown{s.Environment, s.Declared, e.Kiln, s.Build, s.Ref, s.Secrets, s.Config, s.Template, s.Policy})
				}
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
	f, diags := Parse("kiln.hcl", []byte("service \"a\" {\n  image {\n  }\n  port = 80\n  route {\n    listen = \":80\"\n  }\n  health \"http\" {\n  }\n  ephemeral \"/x\" {\n  }\n}\n"+
		"service \"b\" {\n  image {\n  }\n  port = 80\n  route {\n    listen = \":81\"\n    host = \"b\"\n    tls {\n      acme {\n      }\n    }\n  }\n  deploy {\n    strategy = \"canary\"\n  }\n"+
		"  volume \"v\" {\n    path = \"/v\"\n    access = \"shared\"\n  }\n  lifetime {\n    max_age = \"1h\"\n  }\n}\n"+
		"service \"c\" {\n  image {\n  }\n  volume \"v\" {\n    path = \"/v\"\n  }\n}"))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	s := f.Services[0]
	h, d := s.Policy.Health, s.Policy.Deploy
	u, drift, keep := f.Services[1].Policy.Upkeep, s.Policy.Drift.WithDefaults(), s.Policy.Retention.WithDefaults()
	rolling, canary := defaultSurge(), f.Services[1].Policy.Deploy.Canary
	is := map[string]string{
		"image.context": s.Build.Context, "image.network": string(s.Build.Network), "protocol": string(s.Template.Protocol),
		"stop_grace": s.Policy.StopGrace.String(), "health.path": h.Path,
		"health.interval": h.Interval.String(), "health.timeout": h.Timeout.String(), "health.grace": h.Grace.String(),
		"deploy.strategy": string(d.Strategy), "deploy.deadline": d.Deadline.String(),
		"deploy.drain.requests": d.Drain.Requests.String(), "deploy.drain.streams": d.Drain.Streams.String(),
		"deploy.drain.websockets": d.Drain.WebSockets.String(), "deploy.keep_warm": d.KeepWarm.String(),
		"deploy.max_surge": rolling.String(), "deploy.canary.step": stepsText(canary.Steps), "deploy.canary.step.hold": canary.Steps[0].Hold.String(),
		"route.tls.acme.directory": f.Services[1].Policy.Routes[0].TLS.ACME.Directory, "user_namespace": strconv.FormatBool(s.Template.UserNamespace),
		"ephemeral.size": Size(s.Template.Ephemeral[0].Size), "volume.access": string(f.Services[2].Template.Volumes[0].Access),
		"drift.response": string(drift.Response), "drift.interval": drift.Interval.String(), "lifetime.jitter": strconv.Itoa(u.Lifetime.Jitter) + "%",
		"retention.releases": strconv.Itoa(keep.Releases), "retention.for": keep.For.String(), "park": model.Duration(u.ParkFor()).String(),
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
	case s.Policy.Servers < 0 || s.Policy.Servers > 0 && s.Policy.Deploy.MaxUnavailable.Down(s.Policy.Servers) > s.Policy.Servers:
		t.Fatalf("%s: servers %d, max_unavailable %s", s.Name, s.Policy.Servers, s.Policy.Deploy.MaxUnavailable)
	case len(s.Policy.Routes) > 0 && s.Template.Port == 0:
		t.Fatalf("%s: a route without a port", s.Name)
	case s.Policy.Health.Interval <= 0 || s.Policy.Health.Timeout <= 0 || s.Policy.Deploy.Deadline <= 0:
		t.Fatalf("%s: a timer of zero", s.Name)
	case slices.Contains(s.Template.Connects, s.Name) || !slices.IsSorted(s.Template.Connects) || slices.ContainsFunc(s.Template.Connects, func(n string) bool { return !model.ValidServiceName(n) }):
		t.Fatalf("%s: connects %q", s.Name, s.Template.Connects)
	case s.Template.ProxyProtocol != 0 && s.Template.Protocol != model.TCP:
		t.Fatalf("%s: a PROXY header over %s", s.Name, s.Template.Protocol)
	}
	checkStrategy(t, s)
	checkUpkeep(t, s)
	for _, r := range s.Policy.Routes {
		checkRoute(t, s, r)
	}
	if slices.ContainsFunc(s.Template.Ephemeral, func(e model.Ephemeral) bool { return e.Size <= 0 || !filepath.IsAbs(e.Path) }) {
		t.Fatalf("%s: ephemeral %v", s.Name, s.Template.Ephemeral)
	}
}

func checkUpkeep(t *testing.T, s *Service) {
	t.Helper()
	u := s.Policy.Upkeep
	switch {
	case s.Template.SingleWriter() && (s.Policy.Servers > 1 || s.Policy.Deploy.KeepWarm > 0 || s.Policy.Deploy.Overlap || s.Policy.Deploy.Strategy != model.BlueGreen):
		t.Fatalf("%s: two writers at once: %+v", s.Name, s.Policy)
	case u.Lifetime.MaxAge < 0 || u.Lifetime.MaxAge > 0 && u.Lifetime.MaxAge < minAge || u.Lifetime.Jitter < 0 || u.Lifetime.Jitter > maxJitter:
		t.Fatalf("%s: lifetime %+v", s.Name, u.Lifetime)
	case u.Drift.Interval < 0 || u.Retention.Releases < 0 || u.Retention.For < 0 || u.Chaos.MeanBetween < 0 || u.Chaos.Lasts < 0:
		t.Fatalf("%s: upkeep %+v", s.Name, u)
	case u.Chaos.Hours != "" && !hoursForm.MatchString(u.Chaos.Hours) || len(u.Chaos.Hours) != 0 && len(u.Chaos.Hours) != len("09:00-15:00"):
		t.Fatalf("%s: hours %q", s.Name, u.Chaos.Hours)
	}
	points := mountPoints(&s.Template)
	for i, p := range points {
		if slices.ContainsFunc(points[:i], func(o mountPoint) bool { return overlap(p.path, o.path) }) {
			t.Fatalf("%s: %s is within another of %v", s.Name, p.what, points)
		}
	}
}

// Every zone that a declaration may name is in the database that is compiled
// in, and none of the database is missing.
func TestZones(t *testing.T) {
	all := zones()
	for _, name := range all {
		if _, err := time.LoadLocation(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(all) < 590 || !slices.Contains(all, "Europe/Berlin") || !slices.Contains(all, "America/Argentina/Ushuaia") || !slices.Contains(all, "UTC") {
		t.Errorf("%d zones: %q", len(all), all)
	}
	for text, want := range map[string]string{"new york": "America/New_York", "europe/berlin": "Europe/Berlin", "Asia/Tokio": "Asia/Tokyo"} {
		if hint := zoneHint(text); !strings.Contains(hint, `"`+want+`"`) {
			t.Errorf("%q: %s", text, hint)
		}
	}
}

func checkStrategy(t *testing.T, s *Service) {
	t.Helper()
	d, n := s.Policy.Deploy, s.Policy.Servers
	routed := len(s.Policy.Routes) > 0
	switch d.Strategy {
	case model.BlueGreen:
	case model.Rolling:
		if n > 0 && d.MaxSurge.Up(n)+d.MaxUnavailable.Down(n) == 0 || !routed && !d.Overlap {
			t.Fatalf("%s: rolling that cannot move: %+v", s.Name, d)
		}
	case model.Canary:
		last := 0
		for _, step := range d.Canary.Steps {
			if step.Weight <= last || step.Weight > 99 || step.Hold < 0 {
				t.Fatalf("%s: steps %v", s.Name, d.Canary.Steps)
			}
			last = step.Weight
		}
		if last == 0 || !routed {
			t.Fatalf("%s: a canary without steps or route", s.Name)
		}
	default:
		t.Fatalf("%s: strategy %q", s.Name, d.Strategy)
	}
	if d.Strategy != model.Rolling && d.MaxSurge != (model.Amount{}) || d.Strategy != model.Canary && d.Canary.Steps != nil {
		t.Fatalf("%s: %s with what belongs to another strategy: %+v", s.Name, d.Strategy, d)
	}
}

func checkRoute(t *testing.T, s *Service, r model.Route) {
	t.Helper()
	files, acme := r.TLS.Cert != "" && r.TLS.Key != "", r.TLS.ACME != model.ACME{}
	switch {
	case r.TLS.Enabled() && (files == acme || r.Redirect != ""):
		t.Fatalf("%s: route %+v", s.Name, r)
	case acme && (r.Host == "" || strings.HasPrefix(r.Host, "*") || r.TLS.ACME.Directory == ""):
		t.Fatalf("%s: a certificate for no name: %+v", s.Name, r)
	case s.Template.Protocol == model.TCP && (r.Path != "" || r.Redirect != "" || r.Host != "" && !r.TLS.Enabled()):
		t.Fatalf("%s: a tcp route %+v", s.Name, r)
	}
}

func TestWarningsAreNoErrors(t *testing.T) {
	f, diags := Parse("kiln.hcl", []byte("service \"a\" {\n  image {\n  }\n  user_namespace = false\n}"))
	if len(diags) > 0 || len(f.Warnings) != 1 {
		t.Fatal(diags)
	}
	if got, want := f.Warnings[0].String(), "kiln.hcl:4:20: warning: service \"a\" runs without a user namespace"; !strings.HasPrefix(got, want) {
		t.Errorf("%q does not begin with %q", got, want)
	}
	f, diags = Parse("kiln.hcl", []byte("service \"web\" {\n  image {\n  }\n  connects = [\"databse\", \"queue\"]\n}\nservice \"database\" {\n  image {\n  }\n}"))
	if len(diags) > 0 || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0].Hint, "database") {
		t.Errorf("a name that is nearly right: %v, %v", diags, f)
	}
	if f, diags := parseFile(t, "testdata/good/design.hcl"); len(diags) > 0 || len(f.Warnings) > 0 {
		t.Error("the example of the design warns:", f.Warnings)
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
