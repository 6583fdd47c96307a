package daemon

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestChains: a layer counts as searched only above the layers that it was searched
// above, and only where these were searched, or left out as the same base.
func TestChains(t *testing.T) {
	layers := func(names string) (list []v1.Hash) {
		for name := range strings.FieldsSeq(names) {
			list = append(list, v1.Hash{Algorithm: "sha256", Hex: name})
		}
		return list
	}
	s := &seal{}
	s.remember(chainsOf(layers("a b c"), 1)...)
	for _, c := range []struct {
		layers string
		base   int
		want   int
	}{
		{"a b c", 1, 2},
		{"a b c d", 1, 2},
		{"a b x", 1, 1},
		{"a x c", 1, 0},
		{"a b c", 0, 0}, // a was not searched: it was the base's
		{"b c", 0, 0},
		{"x b c", 1, 0},
		{"a b c", 2, 0},
		{"", 0, 0},
	} {
		if got := s.searched(chainsOf(layers(c.layers), c.base)); got != c.want {
			t.Errorf("%s above %d: %d were searched, want %d", c.layers, c.base, got, c.want)
		}
	}
}
