package spec

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"kiln/internal/model"
)

var (
	hostForm   = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	headerName = regexp.MustCompile(`^[!#$%&'*+.^_|~0-9A-Za-z-]+$`)
)

// signals that may end a server.
func signals() []string {
	return []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"}
}

// policy reads how the service is run and replaced.
func (b *body) policy(s *Service) {
	b.integer("servers", 1, maxServers, &s.Policy.Servers)
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

// route reads one route.
func (b *body) route(s *Service, block *hclsyntax.Block) {
	in := b.inside(block, "route")
	d := declaredRoute{service: s.Name, protocol: s.Template.Protocol, at: in.header}
	good := in.listen(&d)
	if in.str("host", &d.Host) && d.Host != "" {
		d.Host = strings.TrimSuffix(strings.ToLower(d.Host), ".")
		if len(d.Host) > 253 || !hostForm.MatchString(d.Host) {
			in.errorf(in.at("host"), "a host is a name without scheme, port and path, as \"shop.example.com\" or \"*.example.com\"", "%q is not a host", d.Host)
		}
	}
	if in.str("path", &d.Path) {
		in.checkPath("path")
		if d.Path = strings.TrimRight(d.Path, "/"); strings.Contains(d.Path, "//") || strings.ContainsAny(d.Path, "*") {
			in.errorf(in.at("path"), "it is a prefix of whole segments already: \"/shop\" takes /shop and /shop/…", "path cannot have \"*\" or \"//\"")
		}
	}
	if d.protocol == model.TCP && (d.Host != "" || d.Path != "") {
		in.errorf(in.header, "take host and path out, or use protocol = \"http\"", "%s cannot have a host or path: the service speaks tcp", in.where)
	}
	if s.Template.Port == 0 && !b.has("port") {
		in.errorf(in.header, "add port = … to the service: the port that its servers listen on", "%s leads nowhere: the service has no port", in.where)
	}
	in.done()
	if good {
		s.Policy.Routes = append(s.Policy.Routes, d.Route)
		s.routes = append(s.routes, d)
	}
}

// listen reads the listener of a route: ":80" or "192.0.2.1:80".
func (b *body) listen(d *declaredRoute) bool {
	v, ok := b.value("listen")
	if !ok {
		if !b.has("listen") {
			b.errorf(b.header, "add listen = \":80\"", "%s has no listen", b.where)
		}
		return false
	}
	text, _ := scalar(v)
	hint := listenHint(text)
	if v.Type() != cty.String {
		b.errorf(b.at("listen"), hint, "listen takes a text, not %s", kindOf(v))
		return false
	}
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		b.errorf(b.at("listen"), hint, "listen: %q has no port", text)
		return false
	}
	port, err := strconv.ParseUint(text[at+1:], 10, 16)
	if err != nil || port == 0 {
		b.errorf(b.at("listen"), "", "listen: %q is not a port from 1 to 65535", text[at+1:])
		return false
	}
	d.Listen, d.port = text, int(port)
	if at == 0 {
		return true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text[:at], "["), "]"))
	if err != nil || addr.Zone() != "" || addr.Is6() != strings.HasPrefix(text, "[") {
		b.errorf(b.at("listen"), hint, "listen: %q is not an IP address; the name of a host goes to host", text[:at])
		return false
	}
	if !addr.IsUnspecified() {
		d.address = addr.String()
	}
	return true
}

func listenHint(text string) string {
	if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
		return "did you mean \":" + text + "\"?"
	}
	return `write ":80" for every address, or "192.0.2.1:80", "[2001:db8::1]:80"`
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
		in.done()
		s.Policy.Validations = append(s.Policy.Validations, v)
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
	in.maxUnavailable(s.Policy.Servers, &d.MaxUnavailable)
	in.boolean("overlap", &d.Overlap)
	if !routed && d.KeepWarm > 0 {
		in.errorf(in.at("keep_warm"), "take it out, or add a route", "keep_warm needs a route: without one there is no traffic to give back")
	}
	if routed && in.has("overlap") {
		in.errorf(in.at("overlap"), "take it out", "overlap is for services without a route; with one, old and new servers always run side by side")
	}
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
	switch text {
	case string(model.BlueGreen):
		d.Strategy = model.BlueGreen
	case "rolling", "canary":
		b.errorf(b.at("strategy"), `use "blue-green"`, "strategy %q is not available in this version", text)
	default:
		b.errorf(b.at("strategy"), oneOf(text, []string{string(model.BlueGreen)}), "strategy %q is not known", text)
	}
}

// maxUnavailable reads a number or a percentage of the servers.
func (b *body) maxUnavailable(servers int, into *model.Amount) {
	v, ok := b.value("max_unavailable")
	if !ok {
		return
	}
	if v.Type() == cty.String {
		a, err := model.ParseAmount(v.AsString())
		if err != nil || !a.Percent {
			b.errorf(b.at("max_unavailable"), `write 1 or "25%"`, "max_unavailable: %q is not a percentage", v.AsString())
			return
		}
		*into = a
		return
	}
	b.integer("max_unavailable", 0, servers, &into.N)
}

func ms(n int64) model.Duration { return model.Duration(n * 1e6) }
