package spec

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"kiln/internal/model"
)

// Bounds of what a service is given beside its image.
const (
	maxSecrets = 100
	maxConfigs = 100
)

// SourceKind says where a value comes from.
type SourceKind string

// The kinds of sources.
const (
	FromFile    SourceKind = "file"    // a file of whoever deploys
	FromEnv     SourceKind = "env"     // the daemon's environment
	FromAge     SourceKind = "age"     // a file of whoever deploys, encrypted for the daemon
	FromCommand SourceKind = "command" // what a command writes that is run by whoever deploys
	FromContent SourceKind = "content" // the declaration itself
)

// Source is where a value comes from.
type Source struct {
	Kind    SourceKind
	Path    string // FromFile, FromAge; relative ones begin at the declaration's directory
	Name    string // FromEnv
	Command []string
	Content string
	At      Position
	source  *source
}

// Diagnose makes a diagnostic about the source, for what only who takes the value
// can see.
func (s Source) Diagnose(hint, format string, args ...any) Diagnostic {
	return s.source.diagnose(s.At, hint, format, args...)
}

// Secret is a declared secret. Its order is that of the template's.
type Secret struct {
	Name string
	As   model.SecretForm
	From Source
}

// Config is a declared configuration file. Its order is that of the template's.
type Config struct {
	Path string
	From Source
}

// fileName is what a secret's file may be called.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)

// secrets reads what servers are given and nobody else is to read. The template
// names them; whoever deploys takes the values from where they come.
func (b *body) secrets(s *Service) {
	for _, block := range b.children("secret") {
		labels := b.labels(block, 1, `secret "NAME" {`)
		if labels == nil {
			continue
		}
		name, at := labels[0], b.position(block.LabelRanges[0])
		in := b.inside(block, "secret \""+name+"\"")
		x := Secret{Name: name, As: model.SecretFile}
		if form, ok := in.choice("as", string(model.SecretFile), string(model.SecretEnv)); ok {
			x.As = model.SecretForm(form)
		}
		good := in.from(&x.From, FromFile, FromEnv, FromAge, FromCommand)
		in.done()
		switch {
		case !fileName.MatchString(name):
			b.errorf(at, "names are letters, digits, \"_\", \"-\" and \".\", at most 63", "%q cannot be a secret's name", name)
		case x.As == model.SecretEnv && !envName.MatchString(name):
			b.errorf(at, "names of variables are letters, digits and \"_\"", "%q cannot be the name of an environment variable", name)
		case slices.ContainsFunc(s.Secrets, func(o Secret) bool { return o.Name == name }):
			b.errorf(at, "give it another name", "%s declares secret %q a second time", b.where, name)
		case x.As == model.SecretEnv && hasKey(s.Template.Env, name):
			b.errorf(at, "take one of them out", "%s has %s in env, and as a secret", b.where, name)
		case len(s.Secrets) == maxSecrets:
			b.errorf(at, "", "%s has more than %d secrets", b.where, maxSecrets)
		case good:
			s.Secrets = append(s.Secrets, x)
		}
	}
	slices.SortFunc(s.Secrets, func(a, b Secret) int { return strings.Compare(a.Name, b.Name) })
	for _, x := range s.Secrets {
		s.Template.Secrets = append(s.Template.Secrets, model.SecretRef{Name: x.Name, As: x.As})
	}
}

func hasKey(m map[string]string, key string) bool { _, has := m[key]; return has }

// configs reads the configuration files of servers.
func (b *body) configs(s *Service) {
	for _, block := range b.children("config") {
		labels := b.labels(block, 1, `config "/path" {`)
		if labels == nil {
			continue
		}
		label, at := labels[0], b.position(block.LabelRanges[0])
		in := b.inside(block, "config \""+label+"\"")
		x := Config{Path: path.Clean(label)}
		good := in.content(&x.From)
		in.done()
		message, hint := mountProblem(label, x.Path, mountPoints(&s.Template))
		switch {
		case strings.HasSuffix(label, "/"):
			b.errorf(at, "name the file, not its directory", "config %q is not the path of a file", label)
		case message != "":
			b.errorf(at, hint, "config %q %s", label, message)
		case len(s.Config) == maxConfigs:
			b.errorf(at, "", "%s has more than %d configuration files", b.where, maxConfigs)
		case good:
			s.Config = append(s.Config, x)
			s.Template.Config = append(s.Template.Config, model.ConfigRef{Path: x.Path})
		}
	}
	slices.SortFunc(s.Config, func(a, b Config) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(s.Template.Config, func(a, b model.ConfigRef) int { return strings.Compare(a.Path, b.Path) })
}

// content reads what a configuration file holds: content, or from.
func (b *body) content(into *Source) bool {
	switch {
	case b.has("content") && b.has("from"):
		b.errorf(b.at("from"), "take one of them out", "%s has both content and from", b.where)
		return false
	case b.has("content"):
		into.Kind, into.At, into.source = FromContent, b.at("content"), b.reader.source
		return b.str("content", &into.Content)
	case b.has("from"):
		return b.from(into, FromFile)
	default:
		b.errorf(b.header, `add from = { file = "…" }, or content = "…"`, "%s has no content", b.where)
		return false
	}
}

// from reads where a value comes from: an object with one key.
func (b *body) from(into *Source, kinds ...SourceKind) bool {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(k)
	}
	form := `write from = { file = "…" }`
	if !b.has("from") {
		b.errorf(b.header, form, "%s has no from: where its value comes from", b.where)
		return false
	}
	v, ok := b.value("from")
	if !ok {
		return false
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		b.errorf(b.at("from"), form+"; sources are "+strings.Join(words, ", "), "from takes a source, not %s", kindOf(v))
		return false
	}
	if v.LengthInt() != 1 {
		b.errorf(b.at("from"), form, "from names %d sources, and a value comes from one", v.LengthInt())
		return false
	}
	key, value := firstOf(v)
	if !slices.Contains(words, key) {
		b.errorf(b.at("from"), oneOf(key, words), "source %q is not known in %s", key, b.where)
		return false
	}
	into.Kind, into.At, into.source = SourceKind(key), b.at("from"), b.reader.source
	return b.takeSource(into, value)
}

func firstOf(v cty.Value) (string, cty.Value) {
	it := v.ElementIterator()
	it.Next()
	key, value := it.Element()
	return key.AsString(), value
}

// takeSource reads what the source of the kind is.
func (b *body) takeSource(into *Source, v cty.Value) bool {
	at := b.at("from")
	if into.Kind == FromCommand {
		list, good := textsOf(v)
		if !good || len(list) == 0 || list[0] == "" {
			b.errorf(at, `write from = { command = ["pass", "show", "db"] }`, "command takes a list of words")
			return false
		}
		into.Command = list
		return true
	}
	if v.IsNull() || v.Type() != cty.String {
		b.errorf(at, "", "%s takes a text, not %s", into.Kind, kindOf(v))
		return false
	}
	switch text := v.AsString(); {
	case into.Kind == FromEnv && !envName.MatchString(text):
		b.errorf(at, "names are letters, digits and \"_\"", "%q cannot be the name of an environment variable", text)
		return false
	case into.Kind == FromEnv:
		into.Name = text
	case text == "" || strings.ContainsRune(text, 0):
		b.errorf(at, "", "%s is not a path", into.Kind)
		return false
	default:
		into.Path = text
	}
	return true
}

// textsOf returns a list of texts; false: it is something else.
func textsOf(v cty.Value) ([]string, bool) {
	if v.IsNull() || !v.Type().IsTupleType() && !v.Type().IsListType() {
		return nil, false
	}
	var list []string
	for it := v.ElementIterator(); it.Next(); {
		_, e := it.Element()
		if e.IsNull() || e.Type() != cty.String || strings.ContainsRune(e.AsString(), 0) {
			return nil, false
		}
		list = append(list, e.AsString())
	}
	return list, true
}
