package daemon

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/model"
	"kiln/internal/sign"
)

// TestRevokedKeys: a key that is revoked from before its use began has signed nothing
// that counts, and those of others count as before.
func TestRevokedKeys(t *testing.T) {
	began := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	now := began.Add(24 * time.Hour)
	image := digest.FromString("image")
	signed := func(name string) (model.SigningKey, []byte) {
		key, err := sign.Generate()
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := key.SignImage(image)
		if err != nil {
			t.Fatal(err)
		}
		known := described(key.Public())
		known.Name, known.NotBefore = name, began
		return known, bundle
	}
	other, byOther := signed("other")
	for name, c := range map[string]struct {
		revoked *model.Revoked
		holds   bool // what was first seen an hour after the beginning
	}{
		"not":                        {nil, true},
		"all of it":                  {&model.Revoked{Reason: "lost"}, false},
		"from before it was used":    {&model.Revoked{Reason: "lost", Since: began.Add(-time.Hour)}, false},
		"from when it was used":      {&model.Revoked{Reason: "lost", Since: began}, false},
		"from before it signed this": {&model.Revoked{Reason: "lost", Since: began.Add(time.Minute)}, false},
		"from after":                 {&model.Revoked{Reason: "lost", Since: began.Add(2 * time.Hour)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			key, bundle := signed("alice")
			key.Revoked = c.revoked
			ring, err := ringOf([]model.SigningKey{other, key})
			if err != nil {
				t.Fatalf("nothing can be checked any more: %v", err)
			}
			seen := func(digest.Digest) (time.Time, bool) { return began.Add(time.Hour), true }
			if _, err := ring.Verify(bundle, image, sign.Signature, now, seen); (err == nil) != c.holds {
				t.Errorf("what it signed: %v", err)
			}
			if _, err := ring.Verify(byOther, image, sign.Signature, now, nil); err != nil {
				t.Errorf("what another signed: %v", err)
			}
		})
	}
}
