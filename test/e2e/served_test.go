package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/sign"
	"kiln/test/instance"
)

// elsewhere is two kilns that share a registry: one where staging is, and one for
// production, which wants to know how long an image served there.
type elsewhere struct {
	t          *testing.T
	dir        string
	kiln       *instance.Instance // staging
	other      *instance.Instance // production, and live
	image      model.Digest
	here       *api.Client // of kiln
	there      *api.Client // of other
	declaredAs string
}

// TestServedElsewhere promotes an image to a kiln that requires it to have served on
// another: that one signs how long it did, and nobody's word counts whose key is not
// believed, nor one that was changed, moved over, or of a time to come.
func TestServedElsewhere(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	other, address := serveRegistry(t, root)
	kiln := publishing(t, root, address+"/team")
	program, err := os.ReadFile(filepath.Join(buildShops(t, root), "1"))
	if err != nil {
		t.Fatal(err)
	}
	e := &elsewhere{t: t, dir: t.TempDir(), kiln: kiln, other: other, here: api.NewClient(kiln.Socket()), there: api.NewClient(other.Socket())}
	defer e.here.Close()
	defer e.there.Close()
	e.write("Containerfile", "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n")
	e.write("app", string(program))
	e.requires("1h")
	e.image = e.staged()

	// Not long enough yet: nothing is signed.
	wants(t, e.refused("production"), "signed with key builder: it is not",
		"cannot say that image "+e.image.Short()+" served as shop-staging in staging for 1h: it did for", "to go",
		"served in staging for 1h: shop-staging is not on this kiln, and no kiln whose key it believes says that the image did (kiln key trust)")
	if n := e.words(kiln); n != 0 {
		t.Errorf("%d statements of too little time", n)
	}
	// Long enough, by the word of nobody who is believed.
	e.requires("1s")
	refused := e.refused("production")
	for deadline := time.Now().Add(time.Minute); strings.Contains(refused, "to go") && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		refused = e.refused("production")
	}
	wants(t, refused, "it was not signed with a known key", "kiln key trust FILE", "served in staging for 1s: shop-staging is not on this kiln")

	// What was attached before its key was believed comes along, too.
	e.write("builder.pub", must(t, kiln, "key"))
	must(t, other, "key", "trust", filepath.Join(e.dir, "builder.pub"), "--name", "builder")
	e.promoted("production", "succeeded")
	e.promoted("production", "unchanged")
	if here, there := e.words(kiln), e.words(other); here != 1 || there != 1 {
		t.Errorf("%d statements of time in service here, and %d there", here, there)
	}
	e.abused()

	// A later word takes the place of the former one.
	was, err := e.here.Served(t.Context(), string(e.image), e.asks("staging", 0))
	if err != nil {
		t.Fatal(err)
	}
	req := e.asks("staging", 0)
	req.Bundle = was.Bundle
	for range 2 { // the second time it is known
		if said, err := e.there.Served(t.Context(), string(e.image), req); err != nil || said.For != was.For || said.Key != was.Key || string(said.Instance) != kiln.ID() {
			t.Errorf("takes %+v of %+v: %v", said, was, err)
		}
	}
	if n := e.words(other); n != 2 {
		t.Errorf("%d statements of time in service", n)
	}

	// With the key falls all that it said.
	must(t, other, "key", "revoke", "builder", "--reason", "stolen")
	wants(t, e.refused("live"), "was revoked: stolen", "served in staging for 1s: shop-staging is not on this kiln")

	must(t, kiln, "images", "reject", string(e.image), "--reason", "charges twice")
	_, err = e.here.Served(t.Context(), string(e.image), e.asks("staging", 0))
	refusedAs(t, err, model.Precondition, "it is rejected by", "unreject")
}

func (e *elsewhere) write(file, content string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, file), []byte(content), 0o755); err != nil {
		e.t.Fatal(err)
	}
}

// requires declares that production wants so much time in staging.
func (e *elsewhere) requires(least string) {
	e.t.Helper()
	text := "service \"shop\" {\n  image {\n    context = \".\"\n  }\n}\n\nenvironment \"staging\" {\n}\n"
	for _, environment := range []string{"production", "live"} {
		text += fmt.Sprintf("\nenvironment %q {\n  kiln = %q\n  policy {\n    require {\n      signed = [\"builder\"]\n      served {\n        environment = \"staging\"\n        for         = %q\n      }\n    }\n  }\n}\n",
			environment, e.other.Socket(), least)
	}
	e.declaredAs = filepath.Join(e.dir, "kiln.hcl")
	e.write("kiln.hcl", text)
}

// staged brings an image into service in staging. Before, nobody says that it served.
func (e *elsewhere) staged() model.Digest {
	e.t.Helper()
	var built struct{ Image model.Digest }
	lines := strings.Split(strings.TrimSpace(must(e.t, e.kiln, "build", "-e", "staging", "-f", e.declaredAs, "--json")), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &built); err != nil || built.Image == "" {
		e.t.Fatalf("%v: %s", err, lines)
	}
	_, err := e.here.Served(e.t.Context(), string(built.Image), e.asks("staging", 0))
	refusedAs(e.t, err, model.Precondition, "there never was such a service", "kiln status")
	must(e.t, e.kiln, "deploy", "-e", "staging", "-f", e.declaredAs)
	says(e.t, e.kiln, "is published to .*/team, with [4-9] statements")
	_, err = e.here.Served(e.t.Context(), string(built.Image), e.asks("qa", 0))
	refusedAs(e.t, err, model.Precondition, "it never did", "kiln releases shop-staging")
	return built.Image
}

func (e *elsewhere) asks(environment string, least model.Duration) api.ServedRequest {
	return api.ServedRequest{Environment: environment, Service: "shop-staging", Least: least}
}

// refused promotes in vain, and returns what is said.
func (e *elsewhere) refused(to string) string {
	e.t.Helper()
	out, err := e.kiln.Run(e.t.Context(), "promote", "shop", "--from", "staging", "--to", to, "-f", e.declaredAs)
	if err == nil {
		e.t.Fatalf("promoted: %s", out)
	}
	wants(e.t, err.Error(), "lacks what its policy requires")
	return err.Error()
}

// promoted promotes, as soon as it has served for long enough.
func (e *elsewhere) promoted(to, verdict string) {
	e.t.Helper()
	var err error
	var out []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if out, err = e.kiln.Run(e.t.Context(), "promote", "shop", "--from", "staging", "--to", to, "-f", e.declaredAs); err == nil {
			break
		}
	}
	var r struct {
		Image   model.Digest
		Verdict string
	}
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil || r.Verdict != verdict || r.Image != e.image {
		e.t.Fatalf("%+v (%v), want %s of %s", r, err, verdict, e.image)
	}
}

// words is how many statements of time in service are attached to the image on a kiln,
// and hold. None is there twice.
func (e *elsewhere) words(on *instance.Instance) (n int) {
	e.t.Helper()
	out, _ := on.Run(e.t.Context(), "images", "verify", string(e.image), "--json") // 1 where it is not that kiln's
	var list api.Statements
	if err := json.Unmarshal(out, &list); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	seen := map[string]bool{}
	for _, s := range list.Statements {
		if s.Type != model.ServedType || !s.Holds {
			continue
		}
		if at := s.Repository + " " + string(s.Bundle); seen[at] {
			e.t.Errorf("%s is attached twice", at)
		} else {
			seen[at] = true
		}
		if !seen[string(s.Bundle)] {
			seen[string(s.Bundle)], n = true, n+1
		}
	}
	return n
}

// abused gives the kiln what it must not take, by somebody whose key it believes and by
// somebody else's.
func (e *elsewhere) abused() {
	e.t.Helper()
	before := e.words(e.other)
	ann, err := sign.Generate()
	if err != nil {
		e.t.Fatal(err)
	}
	e.write("ann.pub", string(ann.Public().PEM()))
	text := func(at time.Time, had string) string {
		return fmt.Sprintf(`{"environment":"staging","service":"shop-staging","for":%q,"at":%q,"instance":"abcdef"}`, had, at.UTC().Format(time.RFC3339))
	}
	said := func(d digest.Digest, predicate string) []byte {
		bundle, err := ann.Attest(d, model.ServedType, json.RawMessage(predicate))
		if err != nil {
			e.t.Fatal(err)
		}
		return bundle
	}
	image, now := digest.Digest(e.image), time.Now()
	good := said(image, text(now, "99h"))
	take := func(bundle []byte, code model.Code, want, hint string) {
		e.t.Helper()
		req := e.asks("staging", 0)
		req.Bundle = bundle
		_, err := e.there.Served(e.t.Context(), string(e.image), req)
		refusedAs(e.t, err, code, want, hint)
	}
	take(good, model.Denied, "it was not signed with a known key", "kiln key trust")
	must(e.t, e.other, "key", "trust", filepath.Join(e.dir, "ann.pub"), "--name", "ann")
	take(said(digest.FromString("another image"), text(now, "99h")), model.Denied, "it is of another image", "moved over")
	take(said(image, text(now.Add(time.Hour), "99h")), model.Invalid, "it was made at", "clock")
	var bundle map[string]any
	if err := json.Unmarshal(good, &bundle); err != nil {
		e.t.Fatal(err)
	}
	bundle["dsseEnvelope"].(map[string]any)["payload"] = []byte(strings.Replace(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"HEX"}}],"predicateType":"`+
		model.ServedType+`","predicate":`+text(now, "999h")+`}`, "HEX", image.Encoded(), 1))
	tampered, err := json.Marshal(bundle)
	if err != nil {
		e.t.Fatal(err)
	}
	take(tampered, model.Denied, "its signature does not hold", "somebody changes them")
	must(e.t, e.other, "key", "distrust", "ann")
	take(good, model.Denied, "it was not signed with a known key", "kiln key trust")
	if after := e.words(e.other); after != before {
		e.t.Errorf("%d statements of time in service, and %d before", after, before)
	}
}

func wants(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(text, want) {
			t.Errorf("nothing of %q in: %s", want, text)
		}
	}
}

func refusedAs(t *testing.T, err error, code model.Code, want, hint string) {
	t.Helper()
	if e, ok := errors.AsType[*model.Error](err); !ok || e.Code != code || !strings.Contains(e.Error(), want) || !strings.Contains(e.Hint, hint) {
		t.Errorf("says %v (%s; %s), want %s: %q (%q)", err, model.CodeOf(err), model.HintOf(err), code, want, hint)
	}
}
