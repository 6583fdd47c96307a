package server

import (
	"testing"

	"kiln/internal/model"
)

// TestJudgedForAnother: what was judged for one release holds for another of the same
// template and policy alone.
func TestJudgedForAnother(t *testing.T) {
	release := func(change func(*model.Release)) *model.Release {
		r := &model.Release{Template: model.Template{Service: "shop", Image: "sha256:aa"}, Policy: model.Policy{Image: &model.ImagePolicy{
			NotRoot: true, Validations: []model.Validation{{Name: "answers", Kind: model.CheckHTTP, Path: "/"}},
		}}}
		change(r)
		return r
	}
	same := release(func(*model.Release) {})
	for name, c := range map[string]struct {
		change func(*model.Release)
		want   bool
	}{
		"the same":          {func(*model.Release) {}, true},
		"other servers":     {func(r *model.Release) { r.Policy.Servers = 5 }, true},
		"another image":     {func(r *model.Release) { r.Template.Image = "sha256:bb" }, false},
		"another form":      {func(r *model.Release) { r.Policy.Image.NoSetuid = true }, false},
		"other validations": {func(r *model.Release) { r.Policy.Image.Validations[0].Path = "/healthz" }, false},
		"nothing is asked":  {func(r *model.Release) { r.Policy.Image = nil }, false},
	} {
		if got := sameImage(same, release(c.change)); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
