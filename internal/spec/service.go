package spec

import (
	"cmp"
	"math/big"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"kiln/internal/model"
)

// Bounds of what a declaration may ask for.
const (
	maxPort      = 65535
	minMemory    = 6 << 20 // bytes; below it no process starts
	minEphemeral = 4 << 10
)

var (
	envName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	userForm   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
	imageForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)
	notInNames = regexp.MustCompile(`[^a-z0-9-]+`)
)

// service reads one service block; nil: its name is wrong, and that is
// reported.
func (b *body) service(block *hclsyntax.Block) *Service {
	labels := b.labels(block, 1, `service "name" {`)
	if labels == nil {
		return nil
	}
	s := &Service{Name: labels[0], At: b.position(block.LabelRanges[0])}
	in := b.body("service \""+s.Name+"\"", b.position(block.TypeRange), block.Body)
	if !model.ValidServiceName(s.Name) {
		b.errorf(s.At, nameHint(s.Name), "%q cannot be a service's name: that is a letter, then letters, digits and \"-\", at most 40, all lower case", s.Name)
	}
	s.Template = model.Template{Service: s.Name, Protocol: model.HTTP, UserNamespace: true, Resources: model.Resources{PIDs: defaultPIDs}}
	s.Policy = model.Policy{Servers: defaultServers, StopGrace: defaultStopGrace}
	in.image(s)
	in.process(&s.Template)
	in.surroundings(&s.Template)
	s.connectsAt = in.at("connects")
	in.resources(&s.Template.Resources)
	in.secrets(s)
	in.configs(s)
	in.ephemeral(&s.Template)
	in.volumes(&s.Template)
	in.policy(s)
	in.imagePolicy(s)
	in.upkeep(s)
	in.oneWriter(s)
	in.done()
	return s
}

func nameHint(name string) string {
	better := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(name), "-"), "-0123456789")
	if better = strings.Trim(better[:min(len(better), 40)], "-"); model.ValidServiceName(better) {
		return "did you mean \"" + better + "\"?"
	}
	return ""
}

// epochForm is what SOURCE_DATE_EPOCH may be: no time after the year 5138.
var epochForm = regexp.MustCompile(`^[0-9]{1,11}$`)

// image reads where the service's image comes from.
func (b *body) image(s *Service) {
	in := b.child("image")
	if in == nil {
		if b.syntax.Attributes["image"] == nil && len(b.children("image")) == 0 {
			b.errorf(s.At, "add image { context = \".\" }, or image { ref = \"…\" }, its attributes on lines of their own", "%s has no image", b.where)
		}
		return
	}
	build := &Build{Context: ".", ContextAt: in.header, ContainerfileAt: in.header, Network: NetworkOpen}
	var keys []string
	for _, key := range []string{"context", "containerfile", "target", "args", "source_date_epoch", "network"} {
		if in.has(key) {
			keys = append(keys, key)
		}
	}
	in.place("context", &build.Context, &build.ContextAt)
	in.place("containerfile", &build.Containerfile, &build.ContainerfileAt)
	in.str("target", &build.Target)
	in.texts("args", &build.Args)
	if in.str("source_date_epoch", &build.Epoch) && build.Epoch != "commit" && !epochForm.MatchString(build.Epoch) {
		in.errorf(in.at("source_date_epoch"), `write "commit", or a number of seconds as "1700000000"`, "%q is no time", build.Epoch)
	}
	in.network(build)
	switch ref := in.reference(s); {
	case !ref:
		s.Build = build
	case len(keys) > 0:
		in.errorf(in.at(keys[0]), "take one of them out", "%s cannot have both ref and %s: an image is either built or taken as it is", in.where, keys[0])
	}
	in.done()
}

// network reads what the build reaches.
func (b *body) network(build *Build) {
	var word string
	if !b.str("network", &word) {
		return
	}
	known := []string{string(NetworkNone), string(NetworkLocked), string(NetworkOpen)}
	if !slices.Contains(known, word) {
		b.errorf(b.at("network"), oneOf(word, known), "network %q is not known", word)
		return
	}
	build.Network = Network(word)
}

// reference reads ref; it reports whether there is one, good or not.
func (b *body) reference(s *Service) bool {
	if !b.has("ref") {
		return false
	}
	s.RefAt = b.at("ref")
	if b.str("ref", &s.Ref) && (!imageForm.MatchString(s.Ref) || strings.HasPrefix(s.Ref, "http://") || strings.HasPrefix(s.Ref, "https://")) {
		b.errorf(s.RefAt, `write it as "registry.example.com/shop@sha256:…", "base/debian:12" or "sha256:…"`, "%q is not an image reference", s.Ref)
	}
	return true
}

// place reads a path that must not be empty.
func (b *body) place(name string, into *string, at *Position) {
	if !b.str(name, into) {
		return
	}
	*at = b.at(name)
	if *into == "" || strings.ContainsRune(*into, 0) {
		b.errorf(*at, "", "%s is not a path", name)
	}
}

// process reads what runs in a server.
func (b *body) process(t *model.Template) {
	b.words("command", &t.Command)
	b.words("entrypoint", &t.Entrypoint)
	b.user(t)
	b.texts("env", &t.Env)
	for key, value := range t.Env {
		if !envName.MatchString(key) {
			b.errorf(b.at("env"), "names are letters, digits and \"_\"", "%q cannot be the name of an environment variable", key)
		}
		if strings.ContainsRune(value, 0) {
			b.errorf(b.at("env"), "", "the value of %s contains a zero byte", key)
		}
	}
	b.integer("port", 1, maxPort, &t.Port)
	var protocol string
	if b.str("protocol", &protocol) {
		known := []string{string(model.HTTP), string(model.H2C), string(model.TCP)}
		if !slices.Contains(known, protocol) {
			b.errorf(b.at("protocol"), oneOf(protocol, known), "protocol %q is not known", protocol)
		}
		t.Protocol = model.Protocol(protocol)
	}
	if t.Port == 0 {
		if b.has("protocol") && !b.has("port") {
			b.errorf(b.at("protocol"), "add port = …", "%s has a protocol and no port", b.where)
		}
		t.Protocol = ""
	}
}

// surroundings reads whom a server reaches by name, what its connections begin
// with, and whose root it is.
func (b *body) surroundings(t *model.Template) {
	b.names("connects", &t.Connects)
	for _, name := range t.Connects {
		switch {
		case name == t.Service:
			b.errorf(b.at("connects"), "take it out: a server reaches itself on 127.0.0.1", "connects: %s connects to itself", b.where)
		case !model.ValidServiceName(name):
			b.errorf(b.at("connects"), cmp.Or(nameHint(strings.TrimSuffix(name, ".kiln")), "name another service, as it is declared: \"db\""), "connects: %q cannot be the name of a service", name)
		}
	}
	slices.Sort(t.Connects) // their order means nothing, and is not to make new servers
	b.proxyProtocol(t)
	if b.boolean("user_namespace", &t.UserNamespace); !t.UserNamespace {
		b.warnf(b.at("user_namespace"), "leave the line out unless the program needs to be root of the host's user namespace",
			"%s runs without a user namespace: root in a server is root on the host", b.where)
	}
}

// proxyProtocol reads by which header servers are told who connects.
func (b *body) proxyProtocol(t *model.Template) {
	v, ok := b.value("proxy_protocol")
	if !ok {
		return
	}
	text, _ := scalar(v)
	known := []string{"v1", "v2"}
	at := slices.Index(known, text)
	switch {
	case v.Type() != cty.String || at < 0:
		hint := `write "v1" or "v2"`
		if text == "1" || text == "2" {
			hint = "did you mean \"v" + text + "\"?"
		}
		b.errorf(b.at("proxy_protocol"), hint, "proxy_protocol is the version of the header that servers are sent, %q or %q", known[0], known[1])
	case t.Protocol != model.TCP:
		b.errorf(b.at("proxy_protocol"), "take it out, or use protocol = \"tcp\"; for a header that clients send: route { proxy_protocol = true }",
			"proxy_protocol is for protocol \"tcp\"; over HTTP servers are told by X-Forwarded-For")
	default:
		t.ProxyProtocol = at + 1
	}
}

// user reads a name or number, with or without a group.
func (b *body) user(t *model.Template) {
	v, ok := b.value("user")
	if !ok {
		return
	}
	text, ok := scalar(v)
	if !ok || !userForm.MatchString(text) {
		b.errorf(b.at("user"), `write "app", "1000" or "1000:1000"`, "user is a name or number, with or without a group")
		return
	}
	t.User = text
}

// oneOf returns a hint that names the nearest or all of the known words.
func oneOf(word string, known []string) string {
	if hint := didYouMean(word, known); hint != "" {
		return hint
	}
	return "known are " + strings.Join(known, ", ")
}

func (b *body) resources(r *model.Resources) {
	in := b.child("resources")
	if in == nil {
		return
	}
	in.size("memory", minMemory, &r.Memory)
	if n, ok := in.number("cpus", 0.01, 1024); ok {
		thousandths, _ := new(big.Float).Mul(n, big.NewFloat(1000)).Float64()
		r.CPU = int64(thousandths + 0.5)
	}
	pids := int(r.PIDs)
	in.integer("pids", 1, 4<<20, &pids)
	r.PIDs = int64(pids)
	in.done()
}

// ephemeral reads the writable places, and holds them apart from each other and
// from what is the system's.
func (b *body) ephemeral(t *model.Template) {
	for _, block := range b.children("ephemeral") {
		labels := b.labels(block, 1, `ephemeral "/path" {`)
		if labels == nil {
			continue
		}
		at := b.position(block.LabelRanges[0])
		e := model.Ephemeral{Path: path.Clean(labels[0]), Size: defaultEphemeral}
		in := b.inside(block, "ephemeral \""+labels[0]+"\"")
		in.size("size", minEphemeral, &e.Size)
		in.done()
		if message, hint := mountProblem(labels[0], e.Path, mountPoints(t)); message != "" {
			b.errorf(at, hint, "ephemeral %q %s", labels[0], message)
			continue
		}
		t.Ephemeral = append(t.Ephemeral, e)
	}
	slices.SortFunc(t.Ephemeral, func(a, b model.Ephemeral) int { return strings.Compare(a.Path, b.Path) })
}

func mountProblem(label, clean string, others []mountPoint) (message, hint string) {
	switch {
	case !path.IsAbs(label):
		return "is not an absolute path", "did you mean \"" + path.Clean("/"+label) + "\"?"
	case strings.ContainsAny(label, "\x00\n:,"):
		return "has a character that a mount point cannot have", ""
	case clean == "/":
		return "would hide the whole image", "name the directories that are written to"
	case clean == "/tmp" || clean == "/run":
		return "is writable already", "take it out"
	}
	for _, system := range []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		if overlap(clean, system) {
			return "overlaps " + system + ", which is the system's", ""
		}
	}
	for _, o := range others {
		if overlap(clean, o.path) {
			return "overlaps " + o.what, "declare one of them"
		}
	}
	return "", ""
}

// overlap reports whether one path is the other or lies within it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}
