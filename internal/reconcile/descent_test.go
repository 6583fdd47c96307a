package reconcile_test

import (
	"testing"
	"time"

	"kiln/internal/model"
	"kiln/internal/reconcile"
)

func TestDescend(t *testing.T) {
	at := time.Date(2026, 8, 1, 9, 0, 0, 0, time.UTC)
	s := model.NewState()
	add := func(d model.Digest, service, commit string, minute int) {
		s.Images[d] = &model.Image{Digest: d, Services: []string{service}, Made: []model.Making{{
			Service: service, Commit: commit, At: at.Add(time.Duration(minute) * time.Minute),
		}}}
	}
	add("sha256:1", "shop", "c1", 1)
	add("sha256:2", "shop", "c2", 2)
	add("sha256:3", "shop", "c3", 3)
	add("sha256:9", "site", "c9", 9)
	s.Images["sha256:3"].RemovedAt = at.Add(time.Hour) // what is known of it stays
	for _, c := range []struct {
		name    string
		made    model.Digest
		origin  model.Digest
		commits []string
		from    model.Digest
		how     model.Descent
	}{
		{"the next commit", "sha256:4", "", []string{"c4", "c3", "c2", "c1"}, "sha256:3", model.ByCommit},
		{"a commit between was not built", "sha256:4", "", []string{"c5", "c4", "c3", "c2"}, "sha256:3", model.ByCommit},
		{"a branch from an older commit", "sha256:4", "", []string{"b1", "c2", "c1"}, "sha256:2", model.ByCommit},
		{"the same commit with changes", "sha256:4", "", []string{"c2", "c1"}, "sha256:2", model.ByCommit},
		{"taken out of an image", "sha256:4", "sha256:1", []string{"c4", "c3"}, "sha256:1", model.ByCheckout},
		{"taken out of one that nobody knows", "sha256:4", "sha256:7", nil, "sha256:3", model.ByOrder},
		{"no repository", "sha256:4", "", nil, "sha256:3", model.ByOrder},
		{"a repository of its own", "sha256:4", "", []string{"x2", "x1"}, "sha256:3", model.ByOrder},
		{"it is none of itself", "sha256:3", "sha256:3", []string{"c3"}, "sha256:2", model.ByOrder},
	} {
		if from, how := reconcile.Descend(s, "shop", c.made, c.origin, c.commits); from != c.from || how != c.how {
			t.Errorf("%s: it goes on from %s by %s, want %s by %s", c.name, from, how, c.from, c.how)
		}
	}
	if from, how := reconcile.Descend(s, "new", "sha256:4", "", []string{"c1"}); from != "" || how != "" {
		t.Errorf("the first image of a service goes on from %s by %s", from, how)
	}
}
