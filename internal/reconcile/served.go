package reconcile

import (
	"fmt"
	"time"

	"kiln/internal/model"
)

// Tenure is a kiln's word of how long an image has been in service on it.
type Tenure struct {
	Key         string // that it is signed with
	Instance    model.InstanceID
	Environment string
	Service     string // as it is called there
	For         model.Duration
	At          time.Time // when that was said
}

// lacksService says how much longer an image has to serve in an environment; "": no
// longer.
func lacksService(s *model.State, req DeployRequest, need model.Served, now model.Now) string {
	service := model.InEnvironment(req.Declared, need.Environment)
	served := ServedFor(s, service, need.Environment, req.Template.Image, now)
	had := served.Truncate(time.Second)
	elsewhere := servedElsewhere(req.Vouched.Served, service, need.Environment)
	svc := s.Services[service]
	switch {
	case max(had, elsewhere.For.D()) >= need.For.D():
		return ""
	case elsewhere.For.D() > had:
		return fmt.Sprintf("served in %s for %s: it had for %s at %s, as kiln %s said last",
			need.Environment, need.For, elsewhere.For, elsewhere.At.UTC().Format("2006-01-02 15:04:05"), elsewhere.Instance)
	case served > 0:
		return fmt.Sprintf("served in %s for %s: it did for %s; %s to go", need.Environment, need.For, model.Duration(had), model.Duration(need.For.D()-had))
	case svc != nil && !svc.Destroyed:
		return fmt.Sprintf("served in %s for %s: it never served there", need.Environment, need.For)
	default:
		return fmt.Sprintf("served in %s for %s: %s is not on this kiln, and no kiln whose key it believes says that the image did (kiln key trust)",
			need.Environment, need.For, service)
	}
}

// servedElsewhere is how long an image was in service as service in an environment of
// another kiln: the last word of each counts, and of several kilns the one where it
// was longest. The zero value: nowhere.
func servedElsewhere(words []Tenure, service, environment string) Tenure {
	type speaker struct {
		key      string
		instance model.InstanceID
	}
	last := map[speaker]Tenure{}
	for _, w := range words {
		if w.Service != service || w.Environment != environment {
			continue
		}
		by := speaker{w.Key, w.Instance}
		before, spoke := last[by]
		if !spoke || w.At.After(before.At) || w.At.Equal(before.At) && w.For > before.For {
			last[by] = w
		}
	}
	var longest Tenure
	for _, w := range words { // in their order, so that the answer is the same each time
		if w == last[speaker{w.Key, w.Instance}] && (w.For > longest.For || w.For == longest.For && w.At.After(longest.At)) {
			longest = w
		}
	}
	return longest
}

// ServedFor is how long an image has been in service as a service of an environment,
// all its releases there together.
func ServedFor(s *model.State, service, environment string, image model.Digest, now model.Now) time.Duration {
	svc := s.Services[service]
	if svc == nil {
		return 0
	}
	sum := time.Duration(0)
	for _, r := range svc.Releases {
		if r.Template.Image != image || r.Environment != environment || !served(svc, r.Number) {
			continue
		}
		until, gone := svc.Left[r.Number]
		if svc.InService == r.Number {
			until, gone = now.Elapsed, true
		}
		if came, known := cameAt(svc, r.Number); known && gone && until > came {
			sum += until.Sub(came)
		}
	}
	return sum
}

// cameAt is when a release came into service: when the verdict on its deployment
// fell.
func cameAt(svc *model.Service, release int) (model.Instant, bool) {
	for _, d := range svc.Deployments {
		if d.To == release && (d.Switched || d.Verdict == model.Succeeded) {
			return d.Started.Add(time.Duration(d.TookMS) * time.Millisecond), true
		}
	}
	return 0, false
}
