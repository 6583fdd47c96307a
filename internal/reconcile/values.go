package reconcile

import (
	"fmt"
	"slices"
	"strings"

	"kiln/internal/model"
)

// numbered gives each of the template's secrets its version: the one that the
// value had before in this service, or the next.
func numbered(svc *model.Service, t model.Template) model.Template {
	t.Secrets = slices.Clone(t.Secrets)
	for i := range t.Secrets {
		t.Secrets[i].Version = versionOf(svc, t.Secrets[i])
	}
	return t
}

func versionOf(svc *model.Service, ref model.SecretRef) int {
	if svc == nil {
		return 1
	}
	newest := 0
	for _, r := range slices.Backward(svc.Releases) {
		for _, other := range r.Template.Secrets {
			if other.Name != ref.Name {
				continue
			}
			if other.Digest == ref.Digest {
				return other.Version
			}
			newest = max(newest, other.Version)
		}
	}
	return newest + 1
}

// valued refuses secrets and configuration files that no server can be given.
func valued(service string, t model.Template) error {
	seen := map[string]bool{}
	for _, s := range t.Secrets {
		switch {
		case s.As != model.SecretFile && s.As != model.SecretEnv:
			return model.Errorf(model.Invalid, "cannot deploy %s: secret %s is to be given as %q, which is neither %q nor %q", service, s.Name, s.As, model.SecretFile, model.SecretEnv)
		case s.Digest == "":
			return model.Errorf(model.Invalid, "cannot deploy %s: secret %s has no value", service, s.Name)
		case seen[s.Name]:
			return model.Errorf(model.Invalid, "cannot deploy %s: it has secret %s twice", service, s.Name)
		}
		seen[s.Name] = true
	}
	for _, c := range t.Config {
		if c.Digest == "" || seen[c.Path] {
			return model.Errorf(model.Invalid, "cannot deploy %s: configuration file %s has no content, or is there twice", service, c.Path)
		}
		seen[c.Path] = true
	}
	return nil
}

// forgotten refuses what needs a value that retention has removed.
func forgotten(s *model.State, t model.Template, what string) error {
	const hint = "kiln deploy takes the values from their sources anew"
	for _, ref := range t.Secrets {
		if s.Forgotten[ref.Digest] {
			return model.Errorf(model.Precondition, "cannot %s: version %d of secret %s was removed, for nothing held it any more", what, ref.Version, ref.Name).WithHint(hint)
		}
	}
	for _, ref := range t.Config {
		if s.Forgotten[string(ref.Digest)] {
			return model.Errorf(model.Precondition, "cannot %s: the content %s of %s was removed, for nothing held it any more", what, ref.Digest.Short(), ref.Path).WithHint(hint)
		}
	}
	return nil
}

// secretChanges says which secrets and configuration files differ.
func secretChanges(a, b model.Template) []string {
	var lines []string
	was := map[string]model.SecretRef{}
	for _, s := range a.Secrets {
		was[s.Name] = s
	}
	for _, s := range b.Secrets {
		before, had := was[s.Name]
		delete(was, s.Name)
		switch {
		case !had:
			lines = append(lines, fmt.Sprintf("secret %s: version %d (new), as %s", s.Name, s.Version, s.As))
		case before.Digest != s.Digest:
			lines = append(lines, fmt.Sprintf("secret %s: version %d → %d (changed)", s.Name, before.Version, s.Version))
		}
		if had && before.As != s.As {
			lines = append(lines, fmt.Sprintf("secret %s: as %s → as %s", s.Name, before.As, s.As))
		}
	}
	for _, s := range a.Secrets {
		if _, gone := was[s.Name]; gone {
			lines = append(lines, fmt.Sprintf("secret %s: version %d → none", s.Name, s.Version))
		}
	}
	return append(lines, configChanges(a, b)...)
}

func configChanges(a, b model.Template) []string {
	var lines []string
	was := map[string]model.ConfigRef{}
	for _, c := range a.Config {
		was[c.Path] = c
	}
	for _, c := range b.Config {
		before, had := was[c.Path]
		delete(was, c.Path)
		if !had {
			lines = append(lines, fmt.Sprintf("config %s: %s (new)", c.Path, contentText(c)))
		} else if before.Digest != c.Digest {
			lines = append(lines, fmt.Sprintf("config %s: %s → %s", c.Path, contentText(before), contentText(c)))
		}
	}
	for _, c := range a.Config {
		if _, gone := was[c.Path]; gone {
			lines = append(lines, fmt.Sprintf("config %s: %s → none", c.Path, contentText(c)))
		}
	}
	return lines
}

func contentText(c model.ConfigRef) string {
	return fmt.Sprintf("%s (%s)", c.Digest.Short(), bytesText(c.Size))
}

func secretsText(list []model.SecretRef) string {
	var words []string
	for _, s := range list {
		words = append(words, fmt.Sprintf("%s version %d as %s", s.Name, s.Version, s.As))
	}
	return strings.Join(words, ", ")
}

func configText(list []model.ConfigRef) string {
	var words []string
	for _, c := range list {
		words = append(words, c.Path+" "+contentText(c))
	}
	return strings.Join(words, ", ")
}

// NamedValues lists, by digest, the values that any release names and that were
// not removed: what else is kept is of a release that was never made.
func NamedValues(s *model.State) map[string]bool {
	named := map[string]bool{}
	for _, svc := range s.Services {
		for _, r := range svc.Releases {
			for _, digest := range r.Template.Values() {
				if !s.Forgotten[digest] {
					named[digest] = true
				}
			}
		}
	}
	return named
}

// value says what becomes of a secret's value or a file's content.
func (r *retention) value(o model.Object) model.Kept {
	if why, isHeld := r.values[o.ID]; isHeld {
		return model.Kept{Object: o, Keep: true, Reason: why.reason, Serves: why.serves}
	}
	if age := r.now.Wall.Sub(o.At); age < keepStray && !NamedValues(r.s)[o.ID] {
		return model.Kept{Object: o, Keep: true, Reason: fmt.Sprintf("no release has it, but it came %s ago: one may be in the making", span(age))}
	}
	return model.Kept{Object: o, Reason: "no release that can be rolled back to has it"}
}
