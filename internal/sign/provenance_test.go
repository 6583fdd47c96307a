package sign

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
)

func TestBuildProvenance(t *testing.T) {
	build := Build{
		Type:       "https://example.com/kiln/build/v1",
		Parameters: map[string]any{"containerfile": "Containerfile", "arguments": map[string]any{"B": "2", "A": "1"}, "network": "locked"},
		Internal:   map[string]any{"platform": "linux/amd64"},
		Inputs: []Input{
			{URI: "pkg:docker/debian@12", Name: "base", Digests: []digest.Digest{image}},
			{URI: "git+https://example.com/shop", Commit: "0123456789abcdef0123456789abcdef01234567", Annotations: map[string]any{"dirty": false}},
			{Name: "context", Digests: []digest.Digest{other}},
		},
		Builder:    "https://example.com/kiln/aaaaaa",
		Versions:   map[string]string{"kiln": "1.2.3", "buildkit": "0.31.0"},
		Invocation: "shop-17",
		Started:    time.Date(2026, 11, 21, 12, 0, 0, 0, time.FixedZone("elsewhere", 3600)),
		Finished:   time.Date(2026, 11, 21, 11, 0, 42, 500_000_000, time.UTC),
	}
	text, err := build.Predicate()
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := json.Indent(&shown, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "provenance.golden", shown.String()+"\n")
	for range 20 {
		slices.Reverse(build.Inputs)
		if again, err := build.Predicate(); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("the same again is %s (%v)", again, err)
		}
	}
	key := generate(t)
	bundle := must(t)(key.Attest(image, Provenance, text))
	if v, err := Verify(bundle, []PublicKey{key.Public()}, image, Provenance); err != nil || !bytes.Equal(v.Statement.Predicate, text) {
		t.Errorf("it is signed as %s (%v)", v.Statement.Predicate, err)
	}
	for what, change := range map[string]func(b *Build){
		"no type":          func(b *Build) { b.Type = "" },
		"no parameters":    func(b *Build) { b.Parameters = nil },
		"no builder":       func(b *Build) { b.Builder = "" },
		"an empty input":   func(b *Build) { b.Inputs = []Input{{}} },
		"no digest":        func(b *Build) { b.Inputs = []Input{{Name: "x", Digests: []digest.Digest{"x"}}} },
		"a channel":        func(b *Build) { b.Parameters = map[string]any{"x": make(chan int)} },
		"a channel inside": func(b *Build) { b.Internal = map[string]any{"x": make(chan int)} },
		"a channel noted":  func(b *Build) { b.Inputs = []Input{{Name: "x", Annotations: map[string]any{"x": make(chan int)}}} },
		"the far future":   func(b *Build) { b.Finished = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		bad := build
		change(&bad)
		if _, err := bad.Predicate(); model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := (Build{Type: "a:b", Parameters: map[string]any{"a": 1}, Builder: "a:b"}).Predicate(); err != nil {
		t.Errorf("the least that is asked for: %v", err)
	}
}
