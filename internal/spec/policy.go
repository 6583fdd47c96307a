package spec

import (
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"kiln/internal/model"
)

var headerName = regexp.MustCompile(`^[!#$%&'*+.^_|~0-9A-Za-z-]+$`)

// signals that may end a server.
func signals() []string {
	return []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"}
}

// policy reads how the service is run and replaced.
func (b *body) policy(s *Service) {
	b.integer("servers", 0, model.MaxServers, &s.Policy.Servers)
	b.duration("stop_grace", 0, &s.Policy.StopGrace)
	if b.str("stop_signal", &s.Policy.StopSignal) && !slices.Contains(signals(), s.Policy.StopSignal) {
		upper := strings.ToUpper(s.Policy.StopSignal)
		hint := oneOf(upper, signals())
		if slices.Contains(signals(), "SIG"+upper) {
			hint = "did you mean \"SIG" + upper + "\"?"
		}
		b.errorf(b.at("stop_signal"), hint, "stop_signal %q is not known", s.Policy.StopSignal)
	}
	blocks := b.children("route")
	for _, block := range blocks {
		if b.labels(block, 0, "route {") != nil {
			b.route(s, block)
		}
	}
	b.health(s)
	b.validations(s)
	b.deploy(s, len(blocks) > 0)
}

// checkPath reports a path of a URL that cannot be one.
func (b *body) checkPath(name string) {
	var text string
	if a := b.syntax.Attributes[name]; a != nil {
		if v, diags := a.Expr.Value(nil); !diags.HasErrors() {
			text, _ = scalar(v)
		}
	}
	switch {
	case !strings.HasPrefix(text, "/"):
		b.errorf(b.at(name), "did you mean \"/"+text+"\"?", "%s begins with \"/\"", name)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }):
		b.errorf(b.at(name), "", "%s has a character that an address cannot have", name)
	}
}

// checkKind reads a kind of check from a block's label.
func (b *body) checkKind(block *hclsyntax.Block, kinds ...string) (model.CheckKind, bool) {
	kind := block.Labels[0]
	if !slices.Contains(kinds, kind) {
		b.errorf(b.position(block.LabelRanges[0]), oneOf(kind, kinds), "%s %q is not known", block.Type, kind)
		return "", false
	}
	return model.CheckKind(kind), true
}

// health reads the health block, or chooses: a port is connected to, and what
// has no port only has to run.
func (b *body) health(s *Service) {
	kind := model.CheckNone
	if s.Template.Port != 0 {
		kind = model.CheckTCP
	}
	s.Policy.Health = defaultHealth(kind)
	all := b.children("health")
	if len(all) == 0 {
		return
	}
	for _, again := range all[1:] {
		b.errorf(b.position(again.TypeRange), "", "%s has a second health block; the first is on line %d", b.where, all[0].TypeRange.Start.Line)
	}
	if b.labels(all[0], 1, `health "http" {`) == nil {
		return
	}
	kind, ok := b.checkKind(all[0], "http", "tcp", "exec", "none")
	if !ok {
		return
	}
	h := defaultHealth(kind)
	in := b.inside(all[0], "health \""+string(kind)+"\"")
	in.target(kind, s.Template.Port, b.has("port"), &h.Path, &h.Port, &h.Command)
	in.duration("interval", ms(100), &h.Interval)
	in.duration("timeout", ms(10), &h.Timeout)
	in.integer("passes", 1, 100, &h.Passes)
	in.integer("fails", 1, 100, &h.Fails)
	in.duration("grace", 0, &h.Grace)
	in.done()
	s.Policy.Health = h
}

// target reads what a check of the kind looks at.
func (b *body) target(kind model.CheckKind, port int, declared bool, path *string, own *int, command *[]string) {
	switch kind {
	case model.CheckHTTP, model.CheckTCP:
		if kind == model.CheckHTTP && b.str("path", path) {
			b.checkPath("path")
		}
		b.integer("port", 1, maxPort, own)
		if port == 0 && !declared && !b.has("port") {
			b.errorf(b.header, "add port = … here or to the service", "%s has no port to look at", b.where)
		}
	case model.CheckExec:
		b.words("command", command)
		if !b.has("command") {
			b.errorf(b.header, `add command = ["/app", "selftest"]`, "%s has no command", b.where)
		}
	case model.CheckNone:
	}
}

func (b *body) validations(s *Service) {
	names := map[string]int{}
	for _, block := range b.children("validate") {
		if b.labels(block, 2, `validate "http" "name" {`) == nil {
			continue
		}
		kind, ok := b.checkKind(block, "http", "tcp", "exec")
		if !ok {
			continue
		}
		v := model.Validation{Name: block.Labels[1], Kind: kind, Timeout: defaultValidation}
		at := b.position(block.LabelRanges[1])
		if first, again := names[v.Name]; again {
			b.errorf(at, "", "validation %q is declared a second time; the first is on line %d", v.Name, first)
		}
		if strings.TrimSpace(v.Name) == "" {
			b.errorf(at, "", "a validation needs a name")
		}
		names[v.Name] = at.Line
		in := b.inside(block, "validate \""+v.Name+"\"")
		in.target(kind, s.Template.Port, b.has("port"), &v.Path, &v.Port, &v.Command)
		if kind == model.CheckHTTP {
			in.expectation(&v)
		}
		in.duration("timeout", ms(10), &v.Timeout)
		on, _ := in.choice("on", "server", "image")
		in.done()
		if on != "image" {
			s.Policy.Validations = append(s.Policy.Validations, v)
			continue
		}
		if s.Policy.Image == nil {
			s.Policy.Image = &model.ImagePolicy{}
		}
		s.Policy.Image.Validations = append(s.Policy.Image.Validations, v)
	}
}

// expectation reads what the answer to an http validation must be.
func (b *body) expectation(v *model.Validation) {
	if v.Path == "" {
		v.Path = "/"
	}
	b.integer("status", 100, 599, &v.Status)
	b.str("contains", &v.Contains)
	if b.str("matches", &v.Matches) {
		if _, err := regexp.Compile(v.Matches); err != nil {
			b.errorf(b.at("matches"), "the syntax is that of RE2", "matches: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
	}
	b.texts("headers", &v.Headers)
	for name := range v.Headers {
		if !headerName.MatchString(name) {
			b.errorf(b.at("headers"), "", "%q cannot be the name of a header", name)
		}
	}
}

func ms(n int64) model.Duration { return model.Duration(n * 1e6) }
