package image

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"kiln/internal/model"
)

// FuzzReference wants that whatever is given for the name of an image is refused as
// the caller's fault, or has one full form, which means the same everywhere that it
// is used: in the store, on the way to a registry, for people.
func FuzzReference(f *testing.F) {
	for _, seed := range []string{
		"debian", "base/debian:12", "docker.io/library/debian", "localhost:5000/a/b:c", "registry.example.com/shop@sha256:" + strings.Repeat("a", 64),
		"a:b@sha256:" + strings.Repeat("0", 64), "[::1]:5000/x", "../../etc/passwd", "a//b", "a/../b", "UPPER/case", "sha256:" + strings.Repeat("1", 64),
		strings.Repeat("1", 64), "kiln/sha256:abc", "kiln/new/x", "a\x00b", "ä/ö:ü", "a@sha512:" + strings.Repeat("b", 128), ":", "@", "", " ", "-", "a:" + strings.Repeat("t", 129),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		full, err := Normalize(text)
		if err != nil {
			if model.CodeOf(err) != model.Invalid || model.HintOf(err) == "" {
				t.Fatalf("%q: %s: %v", text, model.CodeOf(err), err)
			}
			return
		}
		again, err := Normalize(full)
		if err != nil || again != full {
			t.Fatalf("%q is %q, and that is %q (%v)", text, full, again, err)
		}
		if back, err := Normalize(Familiar(full)); err != nil || back != full {
			t.Fatalf("%q is %q; for people it is %q, and that is %q (%v)", text, full, Familiar(full), back, err)
		}
		if isPin(full) || isTemporary(full) {
			t.Fatalf("%q is %q, which is kiln's own", text, full)
		}
		for _, part := range strings.FieldsFunc(full, func(r rune) bool { return r == '/' }) {
			if part == "." || part == ".." {
				t.Fatalf("%q is %q", text, full)
			}
		}
		if ref, err := name.ParseReference(full); err == nil && !strings.HasSuffix(full, ref.Identifier()) {
			t.Fatalf("%q is %q, and a registry is asked for %q", text, full, ref.Identifier())
		}
	})
}
