package reconcile

import (
	"slices"
	"strings"

	"kiln/internal/model"
)

// Stale is a base of a service that bears its name no more: a newer image does.
type Stale struct {
	Service string
	Release int // in service
	Base    string
	Has     model.Digest
	Newest  *model.Image
}

// Outdated lists the bases of what is in service that have a newer image here.
func Outdated(s *model.State) []Stale {
	var list []Stale
	for _, name := range sortedNames(s) {
		rel := current(s.Services[name])
		if rel == nil {
			continue
		}
		seen := map[string]bool{}
		for _, p := range basesOf(s, rel) {
			newest := named(s, p.Name)
			if newest == nil || newest.Digest == p.Digest || seen[p.Name] {
				continue
			}
			seen[p.Name] = true
			list = append(list, Stale{Service: name, Release: rel.Number, Base: p.Name, Has: p.Digest, Newest: newest})
		}
	}
	return list
}

// basesOf returns what a release's image was built on.
func basesOf(s *model.State, rel *model.Release) []model.Parent {
	if len(rel.Provenance.Parents) > 0 {
		return rel.Provenance.Parents
	}
	if img := s.Images[rel.Template.Image]; img != nil {
		return img.Provenance.Parents
	}
	return nil
}

// named returns the image that bears a name now, or nil.
func named(s *model.State, name string) *model.Image {
	for _, d := range sortedImages(s) {
		if slices.ContainsFunc(s.Images[d].Names, func(n string) bool { return SameName(n, name) }) {
			return s.Images[d]
		}
	}
	return nil
}

// SameName reports whether two names are one name of an image, written in full
// or short.
func SameName(a, b string) bool { return short(a) == short(b) }

func short(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
	if at := strings.LastIndexByte(name, '/'); !strings.Contains(name[at+1:], ":") && !strings.Contains(name, "@") {
		name += ":latest"
	}
	return name
}
