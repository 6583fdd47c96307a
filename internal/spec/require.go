package spec

import (
	"regexp"
	"strings"

	"kiln/internal/model"
)

// person is what an approver can be called: a user of the machine, or a key.
var person = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]*$`)

// requirement reads what has to be said and done about an image.
func (b *body) requirement(s *Service, p *model.ImagePolicy) {
	in := b.child("require")
	if in == nil {
		return
	}
	r := &model.Requirement{}
	in.names("signed", &r.Signed)
	in.names("checks", &r.Checks)
	for _, check := range r.Checks {
		if kind, name, ok := strings.Cut(check, "/"); !ok || kind == "" || name == "" {
			in.errorf(in.at("checks"), `checks are named "policy/root" or "image/self-test", as kiln images check shows them`, "checks: %q is not the name of a check", check)
		}
	}
	in.names("approvals", &r.Approvals)
	for _, who := range r.Approvals {
		if !person.MatchString(who) {
			in.errorf(in.at("approvals"), "a user of the machine, or the name of a key", "approvals: %q cannot be who approves", who)
		}
	}
	in.integer("approvers", 1, 100, &r.Approvers)
	if n := len(r.Approvals); n > 0 && r.Approvers > n {
		in.errorf(in.at("approvers"), "", "approvers: %d cannot approve where %d may", r.Approvers, n)
	}
	for _, block := range in.children("served") {
		if in.labels(block, 0, "served {") == nil {
			continue
		}
		of := in.inside(block, "served")
		served := model.Served{}
		if !of.str("environment", &served.Environment) && !of.has("environment") {
			of.errorf(of.header, `add environment = "staging"`, "%s has no environment", of.where)
		}
		of.duration("for", ms(1000), &served.For)
		if !of.has("for") {
			of.errorf(of.header, `add for = "1h"`, "%s does not say for how long", of.where)
		}
		of.done()
		r.Served = append(r.Served, served)
	}
	if in.has("approvals") || in.has("approvers") {
		s.approvals = in.header
	}
	in.done()
	p.Require = r
}

// placeless says where approvals are required that nobody can give.
func (f *File) placeless(r *reader) {
	for _, s := range f.Services {
		if s.approvals.Line > 0 {
			r.errorf(s.approvals, `declare where it runs: environment "production" { … }; or take approvals and approvers out`,
				"service %q requires approvals, which are for an environment, and none is declared", s.Name)
		}
	}
}
