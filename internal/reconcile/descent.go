package reconcile

import (
	"cmp"
	"slices"
	"time"

	"kiln/internal/model"
)

// Descend says which image of a service another one that was built for it goes on
// from: the one that its source was taken out of (origin, "" for none); else the
// one of the nearest commit before it (commits, the nearest first; the first is its
// own); else the one that was built before it. How is "" where there is none.
func Descend(s *model.State, service string, made, origin model.Digest, commits []string) (from model.Digest, how model.Descent) {
	if origin != "" && origin != made && s.Images[origin] != nil {
		return origin, model.ByCheckout
	}
	line := lineOf(s, service)
	line = slices.DeleteFunc(line, func(x built) bool { return x.digest == made })
	for _, commit := range commits {
		for _, x := range slices.Backward(line) {
			if commit != "" && x.commit == commit {
				return x.digest, model.ByCommit
			}
		}
	}
	if len(line) > 0 {
		return line[len(line)-1].digest, model.ByOrder
	}
	return "", ""
}

// built is an image as it was built for a service.
type built struct {
	digest model.Digest
	commit string
	at     time.Time
}

// lineOf returns the images that were built for a service, the oldest first.
func lineOf(s *model.State, service string) []built {
	var line []built
	for d, img := range s.Images {
		if m := img.MadeFor(service); m != nil {
			line = append(line, built{d, m.Commit, m.At})
		} else if slices.Contains(img.Services, service) { // by an older kiln
			line = append(line, built{d, img.Provenance.Commit, img.CreatedAt})
		}
	}
	slices.SortFunc(line, func(a, b built) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.digest, b.digest)) })
	return line
}
