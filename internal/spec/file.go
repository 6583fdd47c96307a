package spec

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"kiln/internal/model"
)

// maxSize and maxNesting bound what is parsed.
const (
	maxSize    = 256 << 10 // bytes
	maxNesting = 64
)

// File is a whole declaration.
type File struct {
	Name     string
	Services []*Service  // in the order of the file; where it has environments, those of the chosen one
	Warnings Diagnostics // what is allowed and not advised
	// Environments are where it runs, in the order of the file; none: at one place.
	Environments []*Environment
	Chosen       *Environment // by In; nil: none
	source       *source
}

// Service is one declared service.
type Service struct {
	Name     string // on its kiln: Declared, and the environment
	At       Position
	Build    *Build         // how its image is made; nil: Ref
	Ref      string         // the image it runs: a reference, a local name or a digest
	RefAt    Position       // of Ref
	Template model.Template // Image is empty: the build or the reference gives it
	Policy   model.Policy
	// Secrets and Config are what its servers are given beside the image. The
	// template has their names and paths; digests and versions come with values.
	Secrets []Secret
	Config  []Config
	// Lists are those of Policy.Image.Vulnerabilities, whose digests are empty.
	Lists  []List
	routes []declaredRoute

	// Environment and Declared are where it runs, and what the declaration calls
	// it; "": the declaration has no environments.
	Environment string
	Declared    string

	connectsAt Position
	approvals  Position // of the requirement that asks for some; zero: none does
}

// List is a list of vulnerabilities that a policy names.
type List struct {
	Path string // from the declaration's directory
	At   Position
}

// Build is what an image is made from.
type Build struct {
	Context         string // directory, from the declaration's
	ContextAt       Position
	Containerfile   string // path from the context; "": Containerfile, else Dockerfile
	ContainerfileAt Position
	Target          string
	Args            map[string]string
	Epoch           string // source_date_epoch: "commit", seconds since 1970, or "" for 0
	Network         Network
}

// Network is what a build reaches.
type Network string

// The networks.
const (
	NetworkNone   Network = "none"   // nothing
	NetworkLocked Network = "locked" // what the lock file names, and what is added to it
	NetworkOpen   Network = "open"   // the outside
)

// Service returns the service with the name, as it is declared or as it is on its
// kiln, or nil.
func (f *File) Service(name string) *Service {
	for _, s := range f.Services {
		if s.Name == name || s.Declared == name {
			return s
		}
	}
	return nil
}

// Names returns the names of the services, as they are declared, in the order of
// the file.
func (f *File) Names() []string {
	names := make([]string, len(f.Services))
	for i, s := range f.Services {
		names[i] = cmp.Or(s.Declared, s.Name)
	}
	return names
}

// Diagnose makes a diagnostic about a place of the file, for what only the
// caller can see: a context that is not there.
func (f *File) Diagnose(at Position, hint, format string, args ...any) Diagnostic {
	return f.source.diagnose(at, hint, format, args...)
}

// ValidImage reports whether the text can be the name, reference or digest of
// an image.
func ValidImage(text string) bool { return imageForm.MatchString(text) }

// Nearest returns the known word that is meant by word, or "".
func Nearest(word string, known []string) string { return nearest(word, known) }

// Parse reads a declaration. With diagnostics there is no File.
func Parse(filename string, src []byte) (*File, Diagnostics) {
	r := &reader{source: newSource(filename, src)}
	start := Position{File: filename, Line: 1, Column: 1, Width: 1}
	if len(src) > maxSize {
		r.errorf(start, "", "the declaration is larger than %s", Size(maxSize))
		return nil, r.diags
	}
	tokens, _ := hclsyntax.LexConfig(src, filename, hcl.InitialPos)
	if deep := nestedDeeper(tokens, maxNesting); deep != nil {
		r.errorf(r.position(*deep), "", "brackets are nested deeper than %d", maxNesting)
		return nil, r.diags
	}
	parsed, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, r.fromHCL(diags).sorted()
	}
	f := &File{Name: filename, source: r.source}
	root := r.body("the declaration", start, parsed.Body.(*hclsyntax.Body))
	services := root.children("service")
	f.environments(root, services)
	if len(f.Environments) == 0 {
		for _, block := range services {
			if s := root.service(block); s != nil {
				f.add(r, s)
			}
		}
		f.conflicts(r)
		f.misspelt(r)
		f.placeless(r)
	}
	root.done()
	if len(services) == 0 && len(r.diags) == 0 {
		r.errorf(start, `write service "name" { image { … } }, or run "kiln init" for an example`, "no service is declared")
	}
	if len(r.diags) > 0 {
		return nil, r.diags.sorted()
	}
	f.Warnings = r.warnings.sorted()
	return f, nil
}

func (f *File) add(r *reader, s *Service) {
	if first := f.Service(s.Name); first != nil {
		r.errorf(s.At, "", "service %q is declared a second time; the first is on line %d", s.Name, first.At.Line)
		return
	}
	f.Services = append(f.Services, s)
}

// misspelt warns of connections to what is not declared here and is nearly the
// name of what is. Services of other files are none of its business.
func (f *File) misspelt(r *reader) {
	names := f.Names()
	for _, s := range f.Services {
		others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == s.Name })
		for _, name := range s.Template.Connects {
			if near := didYouMean(name, others); near != "" && !slices.Contains(others, name) {
				r.warnf(s.connectsAt, near, "service %q connects to %q, which is not declared here", s.Name, name)
			}
		}
	}
}

// conflicts reports routes that cannot both be: the same host and path on one
// listener, a listener that overlaps another, bytes and HTTP on one listener.
func (f *File) conflicts(r *reader) {
	var seen []declaredRoute
	for _, s := range f.Services {
		for _, route := range s.routes {
			i := slices.IndexFunc(seen, route.clashes)
			if i >= 0 {
				other := seen[i]
				r.errorf(route.at, route.clashHint(other), "%s and the one on line %d (service %q) cannot both be: %s",
					route, other.at.Line, other.service, route.clashReason(other))
			}
			seen = append(seen, route)
		}
	}
}

// declaredRoute is a route with where it was declared.
type declaredRoute struct {
	model.Route
	service  string
	protocol model.Protocol
	address  string // of the listener, "" is every address
	port     int
	tls      bool // declared, rightly or wrongly
	at       Position
}

// String returns the route as a person would say it.
func (d declaredRoute) String() string {
	return fmt.Sprintf("route %s%s%s", d.Listen, onHost(d.Host), d.Path)
}

func onHost(host string) string {
	if host == "" {
		return ""
	}
	return " " + host
}

func (d declaredRoute) clashes(o declaredRoute) bool { return d.clashReason(o) != "" }

func (d declaredRoute) clashReason(o declaredRoute) string {
	switch {
	case d.port != o.port:
		return ""
	case d.address != o.address && d.address != "" && o.address != "":
		return ""
	case d.address != o.address:
		return "one listens on every address, which leaves none for the other"
	case d.tls != o.tls:
		return "one of them has tls and the other has not, and a listener speaks either"
	case d.ProxyProtocol != o.ProxyProtocol:
		return "one of them expects a PROXY header and the other does not, and that is the listener's"
	case d.protocol != o.protocol && (d.protocol == model.TCP || o.protocol == model.TCP):
		return "a tcp listener serves no requests of HTTP"
	case d.protocol == model.TCP && (!d.tls || d.Host == o.Host):
		return "a tcp listener serves one route only; with tls, one for each host"
	case d.Host == o.Host && d.Path == o.Path:
		return "both take the same requests"
	default:
		return ""
	}
}

func (d declaredRoute) clashHint(o declaredRoute) string {
	if d.address != o.address {
		return fmt.Sprintf("write the same listen in both, %q or %q", o.Listen, d.Listen)
	}
	if d.tls != o.tls || d.ProxyProtocol != o.ProxyProtocol {
		return "give one of them another port"
	}
	return "give one of them another host, path or port"
}
