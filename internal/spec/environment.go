package spec

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"kiln/internal/model"
)

// Environment is one of the places where what is declared runs. Its services
// are the declaration's with its overlay, and bear its name: shop-staging.
type Environment struct {
	Name     string
	At       Position
	Kiln     string // the socket of the kiln where it lives; "": the one that is asked anyway
	KilnAt   Position
	Services []*Service // in the order of the file
}

// overlay is what an environment changes: for all services, and for each.
type overlay struct {
	*Environment
	all      *hclsyntax.Body
	services map[string]*hclsyntax.Block
}

// Environment returns the environment with the name, or nil.
func (f *File) Environment(name string) *Environment {
	for _, e := range f.Environments {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// EnvironmentNames returns the names of the environments in the order of the file.
func (f *File) EnvironmentNames() []string {
	names := make([]string, len(f.Environments))
	for i, e := range f.Environments {
		names[i] = e.Name
	}
	return names
}

// In returns the declaration as it is in an environment, or nil where it has none
// of that name.
func (f *File) In(name string) *File {
	e := f.Environment(name)
	if e == nil {
		return nil
	}
	in := *f
	in.Services, in.Chosen = e.Services, e
	return &in
}

// environments reads the declaration once for each environment. Each service is
// read as if the overlay were written in its block, so that whatever is wrong is
// told with the line where it stands.
func (f *File) environments(root *body, services []*hclsyntax.Block) {
	var overlays []overlay
	for _, block := range root.children("environment") {
		if o, ok := root.environment(block, services); ok && f.unique(root.reader, o.Environment) {
			overlays = append(overlays, o)
			f.Environments = append(f.Environments, o.Environment)
		}
	}
	for _, o := range overlays {
		in := &File{Name: f.Name, source: f.source}
		for _, block := range services {
			if s := root.service(o.over(block)); s != nil {
				in.add(root.reader, s)
			}
		}
		in.conflicts(root.reader)
		in.misspelt(root.reader)
		in.rename(root.reader, o.Environment)
		o.Services = in.Services
	}
}

func (f *File) unique(r *reader, e *Environment) bool {
	if first := f.Environment(e.Name); first != nil {
		r.errorf(e.At, "", "environment %q is declared a second time; the first is on line %d", e.Name, first.At.Line)
		return false
	}
	return true
}

// environment reads one environment block, without what it changes.
func (b *body) environment(block *hclsyntax.Block, services []*hclsyntax.Block) (overlay, bool) {
	labels := b.labels(block, 1, `environment "staging" {`)
	if labels == nil {
		return overlay{}, false
	}
	e := &Environment{Name: labels[0], At: b.position(block.LabelRanges[0])}
	if !model.ValidServiceName(e.Name) {
		b.errorf(e.At, nameHint(e.Name), "%q cannot be an environment's name: that is a letter, then letters, digits and \"-\", all lower case", e.Name)
		return overlay{}, false
	}
	o := overlay{Environment: e, services: map[string]*hclsyntax.Block{}}
	o.all = &hclsyntax.Body{Attributes: hclsyntax.Attributes{}, SrcRange: block.Body.SrcRange, EndRange: block.Body.EndRange}
	in := b.body("environment \""+e.Name+"\"", b.position(block.TypeRange), block.Body)
	e.KilnAt = in.at("kiln")
	in.place("kiln", &e.Kiln, &e.KilnAt)
	if a := in.attr("env"); a != nil {
		o.all.Attributes["env"] = a
	}
	o.all.Blocks = in.children("policy")
	known := declaredNames(services)
	for _, over := range in.children("service") {
		in.overlaid(o, over, known)
	}
	in.done()
	return o, true
}

// declaredNames are the services' names, as far as they have one.
func declaredNames(services []*hclsyntax.Block) []string {
	var names []string
	for _, s := range services {
		if len(s.Labels) == 1 {
			names = append(names, s.Labels[0])
		}
	}
	return names
}

// overlaid takes in what an environment changes of one service.
func (b *body) overlaid(o overlay, block *hclsyntax.Block, known []string) {
	labels := b.labels(block, 1, `service "name" {`)
	if labels == nil {
		return
	}
	name, at := labels[0], b.position(block.LabelRanges[0])
	switch first := o.services[name]; {
	case !slices.Contains(known, name):
		b.errorf(at, oneOf(name, known), "%s changes service %q, which is not declared", b.where, name)
		return
	case first != nil:
		b.errorf(at, "", "%s changes service %q a second time; the first is on line %d", b.where, name, first.TypeRange.Start.Line)
		return
	}
	for _, inner := range block.Body.Blocks {
		if inner.Type == "image" {
			b.errorf(b.position(inner.TypeRange), "take it out; what differs between environments belongs in env, or in files that the image has for each",
				"service %q cannot have another image in %s: what was tested in one environment is what runs in the next", name, b.where)
			return
		}
	}
	o.services[name] = block
}

// over returns a service's block as it is in the environment.
func (o overlay) over(block *hclsyntax.Block) *hclsyntax.Block {
	out := *block
	out.Body = merged(block.Body, o.all)
	if len(block.Labels) == 1 && o.services[block.Labels[0]] != nil {
		out.Body = merged(out.Body, o.services[block.Labels[0]].Body)
	}
	return &out
}

// merged lays one body over another: an attribute replaces that of its name, and
// blocks those of their type. What is a set of named things is merged by name: env
// by variable, secret by label; and policy key by key, with what it requires, so that
// an environment that asks for more does not ask for less.
func merged(base, over *hclsyntax.Body) *hclsyntax.Body {
	out := &hclsyntax.Body{Attributes: maps.Clone(base.Attributes), SrcRange: base.SrcRange, EndRange: base.EndRange}
	for name, a := range over.Attributes {
		if name == "env" {
			a = mergedMap(base.Attributes[name], a)
		}
		out.Attributes[name] = a
	}
	replaced := map[string]bool{}
	for _, b := range over.Blocks {
		replaced[b.Type] = true
	}
	for _, b := range base.Blocks {
		switch {
		case !replaced[b.Type]:
		case b.Type == "secret" && !slices.ContainsFunc(over.Blocks, func(o *hclsyntax.Block) bool { return sameBlock(o, b) }):
		default:
			continue
		}
		out.Blocks = append(out.Blocks, b)
	}
	for _, b := range over.Blocks {
		if i := slices.IndexFunc(base.Blocks, func(o *hclsyntax.Block) bool { return sameBlock(o, b) }); i >= 0 && slices.Contains(byKey, b.Type) {
			both := *b
			both.Body = merged(base.Blocks[i].Body, b.Body)
			b = &both
		}
		out.Blocks = append(out.Blocks, b)
	}
	return out
}

// byKey are the blocks that are merged key by key: policy, and those inside of it.
var byKey = []string{"policy", "require", "vulnerabilities"}

func sameBlock(a, b *hclsyntax.Block) bool {
	return a.Type == b.Type && slices.Equal(a.Labels, b.Labels)
}

// mergedMap is a map with the entries of both, those of over in force. What is no
// map is replaced; what it has to be is said when it is read.
func mergedMap(base, over *hclsyntax.Attribute) *hclsyntax.Attribute {
	if base == nil {
		return over
	}
	a, isMap := base.Expr.(*hclsyntax.ObjectConsExpr)
	b, isMapToo := over.Expr.(*hclsyntax.ObjectConsExpr)
	if !isMap || !isMapToo {
		return over
	}
	both := *b
	both.Items = append(slices.Clone(a.Items), b.Items...) // of two with one key the later is in force
	out := *over
	out.Expr = &both
	return &out
}

// rename gives the services the names that they have in the environment, also
// where they connect to each other.
func (f *File) rename(r *reader, e *Environment) {
	declared := f.Names()
	for _, s := range f.Services {
		s.Environment, s.Declared = e.Name, s.Name
		s.Name = model.InEnvironment(s.Declared, e.Name)
		s.Template.Service, s.Template.Environment = s.Name, e.Name
		for i, other := range s.Template.Connects {
			if slices.Contains(declared, other) {
				s.Template.Connects[i] = model.InEnvironment(other, e.Name)
			}
		}
		slices.Sort(s.Template.Connects)
		for i := range s.routes {
			s.routes[i].service = s.Name
		}
		switch {
		case model.ValidServiceName(s.Declared) && !model.ValidServiceName(s.Name):
			r.errorf(e.At, "a shorter name of either", "service %q would be %q in environment %q, and that is more than 40 characters", s.Declared, s.Name, e.Name)
		case slices.Contains(declared, s.Name):
			r.errorf(e.At, "another name of either", "service %q would be %q in environment %q, which is the name of another service", s.Declared, s.Name, e.Name)
		}
	}
}
