package spec

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"kiln/internal/model"
)

// deploy reads how a deployment is bounded and shaped.
func (b *body) deploy(s *Service, routed bool) {
	d := defaultDeploy(routed)
	s.Policy.Deploy = d
	in := b.child("deploy")
	if in == nil {
		return
	}
	in.strategy(&d)
	in.duration("deadline", ms(1000), &d.Deadline)
	in.duration("keep_warm", 0, &d.KeepWarm)
	most := s.Policy.Servers
	if most == 0 {
		most = model.MaxServers // none run now; the number is for when some do
	}
	in.amount("max_unavailable", most, &d.MaxUnavailable)
	in.boolean("overlap", &d.Overlap)
	if !routed && d.KeepWarm > 0 {
		in.errorf(in.at("keep_warm"), "take it out, or add a route", "keep_warm needs a route: without one there is no traffic to give back")
	}
	if routed && in.has("overlap") {
		in.errorf(in.at("overlap"), "take it out", "overlap is for services without a route; with one, old and new servers always run side by side")
	}
	in.rolling(s, &d)
	in.canary(s, &d)
	in.together(routed, d)
	in.holds(d)
	if drain := in.child("drain"); drain != nil {
		drain.duration("requests", 0, &d.Drain.Requests)
		drain.duration("streams", 0, &d.Drain.Streams)
		drain.duration("websockets", 0, &d.Drain.WebSockets)
		drain.done()
	}
	in.done()
	s.Policy.Deploy = d
}

func (b *body) strategy(d *model.Deploy) {
	var text string
	if !b.str("strategy", &text) {
		return
	}
	known := []string{string(model.BlueGreen), string(model.Rolling), string(model.Canary)}
	if !slices.Contains(known, text) {
		b.errorf(b.at("strategy"), oneOf(text, known), "strategy %q is not known", text)
		return
	}
	d.Strategy = model.Strategy(text)
}

// together reports a strategy for which old and new servers have to run side by
// side, where they may not.
func (b *body) together(routed bool, d model.Deploy) {
	switch {
	case routed || d.Strategy == model.BlueGreen:
	case d.Strategy == model.Canary:
		b.errorf(b.at("strategy"), "add a route, or use strategy = \"blue-green\"", "a canary needs a route: without one there are no requests to share out")
	case !d.Overlap:
		b.errorf(b.at("strategy"), "add overlap = true, or use strategy = \"blue-green\"", "strategy %q has old and new servers run at once, which a service without a route does only with overlap", d.Strategy)
	}
}

// holds reports steps of a canary that take longer than the deployment may.
func (b *body) holds(d model.Deploy) {
	left := d.Deadline
	for _, s := range d.Canary.Steps {
		if s.Hold < left {
			left -= s.Hold
			continue
		}
		at := "deadline"
		if !b.has(at) {
			at = "strategy"
		}
		b.errorf(b.at(at), "hold the steps for less, or give it a longer deadline", "the steps of the canary are held for longer than the whole may take: its deadline is %s", d.Deadline)
		return
	}
}

// rolling reads how far a rolling deployment may go at once.
func (b *body) rolling(s *Service, d *model.Deploy) {
	if d.Strategy != model.Rolling {
		if b.has("max_surge") {
			b.errorf(b.at("max_surge"), "take it out, or add strategy = \"rolling\"", "max_surge is for strategy \"rolling\"; %s", b.isStrategy(d))
		}
		return
	}
	d.MaxSurge = defaultSurge()
	wrong := len(b.diags)
	b.amount("max_surge", model.MaxServers, &d.MaxSurge)
	if n := s.Policy.Servers; len(b.diags) == wrong && n > 0 && d.MaxSurge.Up(n) == 0 && d.MaxUnavailable.Down(n) == 0 {
		at := "max_surge"
		if !b.has(at) {
			at = "max_unavailable"
		}
		b.errorf(b.at(at), "allow one of them: max_surge = 1 makes a new server first, max_unavailable = 1 ends an old one first",
			"a rolling deployment cannot move: of %d %s none may be made beyond them (max_surge %s) and none may be away (max_unavailable %s)",
			n, plural(n, "server"), d.MaxSurge, d.MaxUnavailable)
	}
}

func (b *body) isStrategy(d *model.Deploy) string {
	if b.has("strategy") {
		return "this one is " + strconv.Quote(string(d.Strategy))
	}
	return "without a strategy it is " + strconv.Quote(string(d.Strategy))
}

// canary reads the steps of a canary, and how visitors are kept on a side.
func (b *body) canary(s *Service, d *model.Deploy) {
	in := b.child("canary")
	if d.Strategy != model.Canary {
		if in != nil {
			b.errorf(in.header, "add strategy = \"canary\", or take the block out", "a canary block is for strategy \"canary\"; %s", b.isStrategy(d))
		}
		return
	}
	d.Canary.Steps = defaultSteps()
	if in == nil {
		return
	}
	if blocks := in.children("step"); len(blocks) > 0 {
		d.Canary.Steps = nil
		for _, block := range blocks {
			if in.labels(block, 0, "step {") != nil {
				in.step(block, &d.Canary.Steps)
			}
		}
	}
	if in.str("cookie", &d.Canary.Cookie) && !headerName.MatchString(d.Canary.Cookie) {
		in.errorf(in.at("cookie"), "write a name such as \"kiln-canary\", or leave the line out for none", "%q cannot be the name of a cookie", d.Canary.Cookie)
	}
	if in.str("header", &d.Canary.Header) && !headerName.MatchString(d.Canary.Header) {
		in.errorf(in.at("header"), "write a name such as \"X-Kiln-Canary\", or leave the line out for none", "%q cannot be the name of a header", d.Canary.Header)
	}
	for _, key := range []string{"cookie", "header"} {
		if s.Template.Protocol == model.TCP && in.has(key) {
			in.errorf(in.at(key), "take it out: connections are shared out by weight", "%s cannot have a %s: the service speaks tcp", in.where, key)
		}
	}
	in.done()
}

// step reads one step of a canary. Each has a higher weight than the one
// before it.
func (b *body) step(block *hclsyntax.Block, steps *[]model.CanaryStep) {
	in := b.inside(block, "step")
	step := model.CanaryStep{Hold: defaultHold}
	if !in.has("weight") {
		in.errorf(in.header, `add weight = "10%"`, "%s has no weight", in.where)
	}
	good := in.weight(&step.Weight)
	in.duration("hold", 0, &step.Hold)
	in.done()
	if !good {
		return
	}
	if n := len(*steps); n > 0 && (*steps)[n-1].Weight >= step.Weight {
		in.errorf(in.at("weight"), "order the steps by weight; after the last everything goes to the new release", "the weights of the steps rise: %d%% follows %d%%", step.Weight, (*steps)[n-1].Weight)
	}
	*steps = append(*steps, step)
}

// weight reads a share of the requests.
func (b *body) weight(into *int) bool {
	v, ok := b.value("weight")
	if !ok {
		return false
	}
	text, _ := scalar(v)
	digits, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(digits)
	switch {
	case v.Type() != cty.String || !percent && err == nil:
		hint := "write it as \"10%\""
		if err == nil && n >= 1 && n <= 99 {
			hint = "did you mean " + strconv.Quote(digits+"%") + "?"
		}
		b.errorf(b.at("weight"), hint, "weight takes a percentage of the requests, as a text")
		return false
	case err != nil || !percent:
		b.errorf(b.at("weight"), "write it as \"10%\"", "weight: %q is not a percentage", text)
		return false
	case n < 1 || n > 99:
		b.errorf(b.at("weight"), "100% is what follows the last step by itself", "weight is between 1%% and 99%%")
		return false
	}
	*into = n
	return true
}

// amount reads a number or a percentage of the servers.
func (b *body) amount(name string, most int, into *model.Amount) {
	v, ok := b.value(name)
	if !ok {
		return
	}
	if v.Type() == cty.String {
		a, err := model.ParseAmount(v.AsString())
		if err != nil || !a.Percent {
			b.errorf(b.at(name), `write 1 or "25%"`, "%s: %q is not a percentage", name, v.AsString())
			return
		}
		*into = a
		return
	}
	n := -1
	if b.integer(name, 0, most, &n); n >= 0 {
		*into = model.Servers(n)
	}
}
