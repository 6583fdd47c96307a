package reconcile

import (
	"slices"
	"testing"

	"kiln/internal/model"
)

func withSecrets(number int, refs ...model.SecretRef) *model.Release {
	return &model.Release{Number: number, Template: model.Template{Secrets: refs}}
}

// A value has the version that it had before in its service; a new one the next.
func TestSecretVersions(t *testing.T) {
	svc := &model.Service{Releases: []*model.Release{
		withSecrets(1, model.SecretRef{Name: "DB", Version: 1, Digest: "a"}),
		withSecrets(2, model.SecretRef{Name: "DB", Version: 2, Digest: "b"}, model.SecretRef{Name: "KEY", Version: 1, Digest: "c"}),
		withSecrets(3, model.SecretRef{Name: "KEY", Version: 1, Digest: "c"}),
	}}
	for _, c := range []struct {
		name, digest string
		want         int
	}{{"DB", "a", 1}, {"DB", "b", 2}, {"DB", "d", 3}, {"KEY", "c", 1}, {"KEY", "a", 2}, {"NEW", "a", 1}} {
		asked := model.Template{Secrets: []model.SecretRef{{Name: c.name, Digest: c.digest, Version: 77}}}
		if got := numbered(svc, asked).Secrets[0].Version; got != c.want {
			t.Errorf("%s %s is version %d, want %d", c.name, c.digest, got, c.want)
		}
		if asked.Secrets[0].Version != 77 {
			t.Error("what was asked is changed")
		}
	}
	if got := numbered(nil, model.Template{Secrets: []model.SecretRef{{Name: "DB", Digest: "a"}}}).Secrets[0].Version; got != 1 {
		t.Errorf("the first of a service is version %d", got)
	}
}

// A plan says which versions change, and a template without values is refused.
func TestSecretChanges(t *testing.T) {
	a := model.Template{
		Secrets: []model.SecretRef{{Name: "DB", Version: 3, Digest: "a", As: model.SecretFile}, {Name: "OLD", Version: 1, Digest: "o", As: model.SecretFile}},
		Config:  []model.ConfigRef{{Path: "/etc/x", Digest: "sha256:aaaaaaaaaaaaaaaa", Size: 1}},
	}
	b := model.Template{Secrets: []model.SecretRef{{Name: "DB", Version: 4, Digest: "b", As: model.SecretEnv}, {Name: "NEW", Version: 1, Digest: "n", As: model.SecretEnv}}}
	want := []string{
		"secret DB: version 3 → 4 (changed)", "secret DB: as file → as env", "secret NEW: version 1 (new), as env", "secret OLD: version 1 → none",
		"config /etc/x: aaaaaaaaaaaa (1B) → none",
	}
	if got := secretChanges(a, b); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := secretChanges(a, a); len(got) > 0 {
		t.Errorf("the same again: %q", got)
	}
	for what, bad := range map[string]model.Template{
		"no value": {Secrets: []model.SecretRef{{Name: "DB", As: model.SecretFile}}},
		"no form":  {Secrets: []model.SecretRef{{Name: "DB", Digest: "a"}}},
		"twice":    {Secrets: []model.SecretRef{{Name: "DB", As: model.SecretFile, Digest: "a"}, {Name: "DB", As: model.SecretEnv, Digest: "a"}}},
		"no file":  {Config: []model.ConfigRef{{Path: "/etc/x"}}},
	} {
		if err := valued("shop", bad); model.CodeOf(err) != model.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := valued("shop", a); err != nil {
		t.Error(err)
	}
}

// What retention has removed is no way back until it is given anew.
func TestForgottenValues(t *testing.T) {
	s := model.NewState()
	apply := func(p model.Payload) {
		t.Helper()
		if err := s.Apply(model.Event{Seq: s.Seq + 1, Epoch: 1, Data: p}); err != nil {
			t.Fatal(err)
		}
	}
	with := model.Template{Service: "shop", Secrets: []model.SecretRef{{Name: "DB", Version: 1, Digest: "a"}}}
	apply(model.ReleaseCreated{Release: model.Release{Service: "shop", Number: 1, Template: with}})
	if !NamedValues(s)["a"] || forgotten(s, with, "x") != nil {
		t.Error("a value of a release is not known")
	}
	apply(model.ObjectsRemoved{Object: model.ObjectSecret, Count: 1, IDs: []string{"a"}})
	if NamedValues(s)["a"] || model.CodeOf(forgotten(s, with, "x")) != model.Precondition {
		t.Error("a value that was removed is taken for one that is there")
	}
	apply(model.ReleaseCreated{Release: model.Release{Service: "shop", Number: 2, Template: with}})
	if !NamedValues(s)["a"] || forgotten(s, with, "x") != nil {
		t.Error("a value that was given anew is not known")
	}
}
