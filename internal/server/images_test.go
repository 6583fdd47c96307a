package server

import (
	"strings"
	"testing"

	"kiln/internal/model"
)

func TestImageNamed(t *testing.T) {
	st := model.NewState()
	for digit, names := range map[string][]string{
		"a": {"docker.io/library/shop:1.4"}, "b": {"docker.io/base/debian:12"}, "c": {"registry.example.com/shop:1.4"}, "d": {"docker.io/library/debian:latest"},
	} {
		digest := model.Digest("sha256:" + strings.Repeat(digit, 64))
		st.Images[digest] = &model.Image{Digest: digest, Names: names, Source: "import"}
	}
	for name, want := range map[string]string{
		"shop:1.4": "a", "library/shop:1.4": "a", "docker.io/library/shop:1.4": "a", "base/debian:12": "b",
		"registry.example.com/shop:1.4": "c", "debian": "d", "debian:latest": "d", "aaaa": "a", "sha256:bbbbb": "b",
		"shop": "", "shop:1.5": "", "aaa": "", "": "",
	} {
		got := ""
		if img, err := imageNamed(st, name); err == nil {
			got = string(img.Digest)[len("sha256:"):][:1]
		}
		if got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

// What came from a registry by its name is asked of that again; what is here
// for good is not.
func TestSettled(t *testing.T) {
	digest := model.Digest("sha256:" + strings.Repeat("a", 64))
	for _, c := range []struct {
		source, ref string
		want        bool
	}{
		{"import", "base/debian:12", true},
		{"build", "base/debian:12", true},
		{"registry.example.com/base:12", "base/debian:12", false},
		{"registry.example.com/base:12", string(digest), true},
		{"registry.example.com/base:12", "aaaaaa", true},
	} {
		img := &model.Image{Digest: digest, Names: []string{"docker.io/base/debian:12"}, Source: c.source}
		if got := settled(img, c.ref); got != c.want {
			t.Errorf("%s from %s: %v", c.ref, c.source, got)
		}
	}
}
