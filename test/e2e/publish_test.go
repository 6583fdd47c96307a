package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the storage of the registry that is not kiln's
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"kiln/internal/sign"
	"kiln/test/instance"
)

// TestPublish has what is built put into a registry of another make, which fails in all
// ways first and has no referrers API, and into that of another kiln, which pulls it
// from there, knows whose it is, and whose own word comes back.
func TestPublish(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("distribution, by the fallback tag", func(t *testing.T) {
		config, err := configuration.Parse(strings.NewReader("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  inmemory: {}\n  delete:\n    enabled: true\n"))
		if err != nil {
			t.Fatal(err)
		}
		app := handlers.NewApp(t.Context(), config)
		var status atomic.Int32
		status.Store(http.StatusInternalServerError)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			switch code := int(status.Load()); {
			case code != http.StatusOK:
				http.Error(w, "no", code)
			case user != "ann" || password != "secret":
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			default:
				app.ServeHTTP(w, r)
			}
		}))
		defer srv.Close()
		host := strings.TrimPrefix(srv.URL, "http://")
		dir := t.TempDir()
		login := filepath.Join(dir, "login.json")
		if err := os.WriteFile(login, []byte(`{"auths":{"`+host+`":{"auth":"YW5uOnNlY3JldA=="}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		kiln := publishing(t, root, host+"/team", "--publish-login", login)
		image := builds(t, kiln) // it does not wait for the registry
		says(t, kiln, "could not be published to "+host+"/team: .*500")
		status.Store(http.StatusForbidden)
		says(t, kiln, "could not be published to "+host+"/team: .*the registry refuses")
		status.Store(http.StatusOK)
		says(t, kiln, "is published to "+host+"/team, with [4-9] statements")
		checks(t, kiln, host+"/team/shop@"+image, remote.WithAuth(&authn.Basic{Username: "ann", Password: "secret"}))
	})
	t.Run("another kiln", func(t *testing.T) {
		other, address := serveRegistry(t, root)
		kiln := publishing(t, root, address+"/team")
		image := builds(t, kiln)
		says(t, kiln, "is published to "+address+"/team, with [4-9] statements")
		checks(t, kiln, address+"/team/shop@"+image)

		// The other knows nothing of that key, then trusts it.
		public := filepath.Join(t.TempDir(), "builder.pub")
		text, err := kiln.Run(t.Context(), "key")
		if err == nil {
			err = os.WriteFile(public, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		must(t, other, "key", "trust", public, "--name", "builder")
		must(t, other, "images", "pull", address+"/team/shop@"+image)
		out, _ := other.Run(t.Context(), "images", "verify", image, "--json") // not its own signature
		var list struct {
			Statements []struct {
				Type    string
				KeyName string `json:"key_name"`
				Holds   bool
			}
		}
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		held := 0
		for _, s := range list.Statements {
			if s.Holds && s.KeyName == "builder" {
				held++
			}
		}
		if held < 2 {
			t.Errorf("the other kiln believes %d of %s", held, out)
		}
	})
	t.Run("promotion to another kiln", func(t *testing.T) {
		other, address := serveRegistry(t, root)
		kiln := publishing(t, root, address+"/team")
		dir := t.TempDir()
		program, err := os.ReadFile(filepath.Join(buildShops(t, root), "1"))
		if err != nil {
			t.Fatal(err)
		}
		declaration := filepath.Join(dir, "kiln.hcl")
		for file, content := range map[string]string{
			declaration: "service \"shop\" {\n  image {\n    context = \".\"\n  }\n}\n\nenvironment \"staging\" {\n}\n\n" +
				"environment \"production\" {\n  kiln = \"" + other.Socket() + "\"\n}\n",
			filepath.Join(dir, "Containerfile"): "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n",
			filepath.Join(dir, "app"):           string(program),
		} {
			if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		must(t, kiln, "deploy", "-e", "staging", "-f", declaration)
		says(t, kiln, "is published to "+address+"/team")
		promoted := func() (r struct{ Image, Verdict, Service string }) {
			out := must(t, kiln, "promote", "shop", "--from", "staging", "--to", "production", "-f", declaration)
			if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &r); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return r
		}
		var staging struct{ Services []struct{ Image string } }
		if err := json.Unmarshal([]byte(must(t, kiln, "status", "--json")), &staging); err != nil || len(staging.Services) != 1 {
			t.Fatalf("%v: %+v", err, staging)
		}
		if got := promoted(); got.Verdict != "succeeded" || got.Service != "shop-production" || got.Image != staging.Services[0].Image {
			t.Errorf("promoted %+v, and %s serves in staging", got, staging.Services[0].Image)
		}
		if got := promoted(); got.Verdict != "unchanged" {
			t.Errorf("promoted again: %+v", got)
		}
		if out := must(t, other, "status"); !strings.Contains(out, "environment production of shop") {
			t.Errorf("the other kiln: %s", out)
		}
	})
}

// publishing starts a daemon that publishes.
func publishing(t *testing.T, root, to string, flags ...string) *instance.Instance {
	t.Helper()
	return runs(t, root, place(t), append([]string{"--publish", to}, flags...)...)
}

// builds builds an image of the service shop and returns its digest.
func builds(t *testing.T, kiln *instance.Instance) string {
	t.Helper()
	dir := t.TempDir()
	for file, content := range map[string]string{
		"kiln.hcl":      "service \"shop\" {\n  image {\n    context = \".\"\n  }\n  command = [\"/app\"]\n}\n",
		"Containerfile": "FROM scratch\nCOPY app /app\n", "app": "no program\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := must(t, kiln, "build", "-f", filepath.Join(dir, "kiln.hcl"), "--json")
	var built struct{ Image string }
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &built); err != nil || built.Image == "" {
		t.Fatalf("%v: %s", err, out)
	}
	return built.Image
}

func must(t *testing.T, kiln *instance.Instance, args ...string) string {
	t.Helper()
	out, err := kiln.Run(t.Context(), args...)
	if err != nil {
		t.Fatalf("kiln %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// says waits until the journal says something.
func says(t *testing.T, kiln *instance.Instance, pattern string) {
	t.Helper()
	said, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if out, err := kiln.Run(t.Context(), "events"); err == nil && said.Match(out) {
			return
		}
	}
	out, _ := kiln.Run(t.Context(), "events")
	t.Fatalf("the journal does not come to say %q:\n%s\n%s", pattern, out, kiln.Tail(20))
}

// checks wants the kiln's signature of an image in a registry, as others find it.
func checks(t *testing.T, kiln *instance.Instance, ref string, opts ...remote.Option) {
	t.Helper()
	at, err := name.NewDigest(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ParsePublicKey("the kiln's", []byte(must(t, kiln, "key")))
	if err != nil {
		t.Fatal(err)
	}
	attached, err := sign.List(t.Context(), at, opts...)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attached {
		text, err := sign.Fetch(t.Context(), at.Context(), a, opts...)
		if err == nil {
			_, err = sign.Verify(text, []sign.PublicKey{key}, digest.Digest(at.DigestStr()), sign.Signature)
		}
		if err == nil {
			return
		}
	}
	t.Errorf("none of %d statements at %s is the kiln's signature", len(attached), ref)
}
