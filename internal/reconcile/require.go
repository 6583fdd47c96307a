package reconcile

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"kiln/internal/model"
)

// Vouched is what is said of an image under signatures that hold, of keys that are
// believed.
type Vouched struct {
	Signed    []string        // keys that have signed it, by name and id
	Checks    map[string]bool // the last result of each check that was made of it
	Approvals []Approval
	Served    []Tenure // on other kilns, as they say
}

// Approval is somebody's word that an image may serve in an environment.
type Approval struct {
	By          string
	Environment string
}

// lacks are the things that an image needs and has not, a line each. An image that
// has all has none.
func lacks(s *model.State, req DeployRequest, now model.Now) []string {
	if req.Policy.Image == nil || req.Policy.Image.Require == nil {
		return nil
	}
	need, have := req.Policy.Image.Require, req.Vouched
	var lines []string
	for _, key := range need.Signed {
		if !slices.ContainsFunc(have.Signed, func(k string) bool { return isKey(k, key) }) {
			lines = append(lines, fmt.Sprintf("signed with key %s: it is not, or this kiln does not believe that key (kiln key list)", shortKeys([]string{key})[0]))
		}
	}
	for _, check := range need.Checks {
		switch passed, made := have.Checks[check]; {
		case !made:
			lines = append(lines, fmt.Sprintf("passed check %s: no result of it is attached to the image", check))
		case !passed:
			lines = append(lines, fmt.Sprintf("passed check %s: it failed", check))
		}
	}
	for _, served := range need.Served {
		if line := lacksService(s, req, served, now); line != "" {
			lines = append(lines, line)
		}
	}
	return append(lines, lacksApproval(req, need)...)
}

// isKey reports whether a key's name or id is meant: a name as a whole, an id by 12
// digits or more.
func isKey(known, meant string) bool {
	return known == meant || len(meant) >= 12 && keyID.MatchString(known) && strings.HasPrefix(known, meant)
}

var keyID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// lacksApproval says whose approval is missing.
func lacksApproval(req DeployRequest, need *model.Requirement) []string {
	var have []string
	for _, a := range req.Vouched.Approvals {
		if a.Environment == req.Environment && !slices.Contains(have, a.By) {
			have = append(have, a.By)
		}
	}
	var missing []string
	for _, who := range need.Approvals {
		if !slices.Contains(have, who) {
			missing = append(missing, who)
		}
	}
	how := fmt.Sprintf("kiln approve %s --for %s", req.Template.Image.Short(), req.Environment)
	counted := len(have)
	if len(need.Approvals) > 0 {
		counted = len(need.Approvals) - len(missing)
	}
	if wanted := cmp.Or(need.Approvers, len(need.Approvals)); counted < wanted && (need.Approvers > 0 && need.Approvers != len(need.Approvals)) {
		of := ""
		if len(need.Approvals) > 0 {
			of = " of " + strings.Join(need.Approvals, ", ")
		}
		return []string{fmt.Sprintf("approved by %d%s: it is by %d (%s)", wanted, of, counted, how)}
	}
	if need.Approvers > 0 && counted >= need.Approvers {
		return nil
	}
	var lines []string
	for _, who := range missing {
		lines = append(lines, fmt.Sprintf("approved by %s: it is not (%s)", who, how))
	}
	return lines
}

// allowed refuses an image that lacks what the policy requires, all at once.
func allowed(s *model.State, req DeployRequest, now model.Now) error {
	lines := lacks(s, req, now)
	if len(lines) == 0 {
		return nil
	}
	return model.Errorf(model.Precondition, "cannot deploy %s: image %s lacks what its policy requires\n  %s", req.Service, req.Template.Image.Short(), strings.Join(lines, "\n  ")).
		WithHint("nothing was changed; policy { require { … } } of the declaration asks for it")
}

// promotable refuses a promotion of what is not, or not any more, what serves there.
func promotable(s *model.State, req DeployRequest) error {
	p := req.Promoted
	if p == nil || p.Instance != s.Instance {
		return nil // whoever asks has seen it on another kiln
	}
	svc := s.Services[p.Service]
	refuse := func(format string, args ...any) *model.Error {
		return model.Errorf(model.Precondition, "cannot promote %s from %s: %s", req.Declared, p.Environment, fmt.Sprintf(format, args...))
	}
	switch {
	case svc == nil || svc.InService == 0:
		return refuse("nothing of it serves there").WithHint("kiln deploy %s -e %s", req.Declared, p.Environment)
	case busy(svc):
		return refuse("a deployment of %s is under way, and what serves is about to change", p.Service).WithHint("wait for it: kiln status %s", p.Service)
	case svc.Pending != nil:
		return refuse("which release serves there is not known: a router is silent").WithHint("kiln status %s", p.Service)
	case svc.InService != p.Release || svc.Release(p.Release).Template.Image != req.Template.Image:
		return refuse("release %d serves there by now", svc.InService).WithHint("look at it, then promote again")
	default:
		return nil
	}
}
