package lock

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/internal/model"
)

const (
	maxFile     = 32 << 20 // bytes
	maxProblems = 20       // told at once
)

// Parse reads a lock file. name is what the file is called in errors.
//
// Invalid: the file is not whole or not one; the error names every line that is
// wrong, to the column.
func Parse(name string, text []byte) (*File, error) {
	p := &parser{name: name, services: map[string]int{}}
	if len(text) > maxFile {
		return nil, model.Errorf(model.Invalid, "cannot read %s: it has %d bytes; a lock file has %d at most", name, len(text), maxFile)
	}
	if before, _, zero := bytes.Cut(text, []byte{0}); zero {
		return nil, model.Errorf(model.Invalid, "%s:%d:1: it is not a lock file: it has zero bytes", name, 1+bytes.Count(before, []byte("\n"))).
			WithHint("take it back from version control, or write it anew: kiln lock update")
	}
	for line := range strings.Lines(string(text)) {
		p.n++
		p.line(strings.TrimRight(line, "\r\n"))
		if p.stop {
			break
		}
	}
	if !p.versioned && len(p.problems) == 0 {
		p.n = max(p.n, 1)
		p.wrong(1, "there is no version line")
		p.hint = "take the file back from version control, or write it anew: kiln lock update"
	}
	if len(p.problems) > 0 {
		err := model.Errorf(model.Invalid, "%s", strings.Join(p.problems, "\n"))
		if p.hint != "" {
			err = err.WithHint("%s", p.hint)
		}
		return nil, err
	}
	return &p.file, nil
}

// parser reads a file line by line.
type parser struct {
	name      string
	n         int // the line's number
	versioned bool
	file      File
	services  map[string]int // the line of each
	seen      map[key]int    // the line of each entry of the service
	problems  []string
	hint      string
	stop      bool
}

// wrong notes a problem at a column of the line.
func (p *parser) wrong(column int, format string, args ...any) {
	if len(p.problems) == maxProblems {
		p.problems, p.stop = append(p.problems, "and more"), true
		return
	}
	p.problems = append(p.problems, fmt.Sprintf("%s:%d:%d: ", p.name, p.n, column)+fmt.Sprintf(format, args...))
}

// markers begin the lines that a merge leaves where two sides differ.
var markers = []string{"<<<<<<<", "=======", ">>>>>>>", "|||||||"}

func (p *parser) line(line string) {
	for _, m := range markers {
		if strings.HasPrefix(line, m) {
			p.wrong(1, "a merge has left a conflict here: %s", short(line))
			p.hint = "keep the lines of both sides and remove the markers, then: kiln lock update"
			return
		}
	}
	fields, err := split(line)
	if err != nil {
		p.wrong(err.column, "%s", err.what)
		return
	}
	if len(fields) == 0 {
		return
	}
	switch first := fields[0]; {
	case first.text == "version":
		p.version(fields)
	case !p.versioned:
		p.wrong(first.column, "the first line of a lock file is its version, and this is %q", short(line))
		p.hint, p.stop = "take the file back from version control, or write it anew: kiln lock update", true
	case first.text == "service":
		p.service(fields)
	default:
		p.entry(fields)
	}
}

func (p *parser) version(fields []field) {
	if p.versioned {
		p.wrong(fields[0].column, "the version is said twice")
		return
	}
	p.versioned = true
	if len(fields) == 2 && fields[1].text == strconv.Itoa(Version) {
		return
	}
	p.stop = true
	if n, err := strconv.Atoi(fields[len(fields)-1].text); len(fields) == 2 && err == nil && n > Version {
		p.wrong(fields[1].column, "the file is of version %d, and this kiln reads version %d", n, Version)
		p.hint = "a newer kiln has written it: use that one"
		return
	}
	p.wrong(fields[0].column, "the version is none: this kiln reads \"version %d\"", Version)
	p.hint = "take the file back from version control, or write it anew: kiln lock update"
}

func (p *parser) service(fields []field) {
	p.seen = map[key]int{}
	if len(fields) != 2 || !model.ValidServiceName(fields[1].text) {
		p.wrong(fields[0].column, "a service is written as: service NAME")
	}
	name := fields[len(fields)-1].text
	if before, known := p.services[name]; known {
		p.wrong(fields[0].column, "service %s is in the file twice, first on line %d", name, before)
		p.hint = "put the lines of both under one: a merge may have done that"
	}
	p.services[name] = p.n
	p.file.Services = append(p.file.Services, Service{Name: name, Line: p.n})
}

func (p *parser) entry(fields []field) {
	kind := Kind(fields[0].text)
	if !slices.Contains(kinds, kind) {
		p.wrong(fields[0].column, "%q is no entry: known are base, add, git, get and head", short(fields[0].text))
		return
	}
	if len(p.file.Services) == 0 {
		p.wrong(fields[0].column, "the entry stands before the first service")
		return
	}
	e := Entry{Kind: kind, Line: p.n}
	if !p.positional(&e, &fields) || !p.named(&e, fields) {
		return
	}
	if what := e.trouble(); what != "" {
		p.wrong(1, "%s", what)
		return
	}
	if before, known := p.seen[e.key()]; known {
		p.wrong(1, "the same entry is there twice, first on line %d: %s %s", before, e.Kind, short(e.Name))
		p.hint = "keep one of them; where they differ: kiln lock update"
		return
	}
	p.seen[e.key()] = p.n
	s := &p.file.Services[len(p.file.Services)-1]
	s.Entries = append(s.Entries, e)
}

// positional reads what stands at its place, and leaves the rest.
func (p *parser) positional(e *Entry, fields *[]field) bool {
	var parts []struct {
		what string
		into func(string) bool
	}
	part := func(what string, into func(string) bool) {
		parts = append(parts, struct {
			what string
			into func(string) bool
		}{what, into})
	}
	part("the name of an image or a URL", func(s string) bool { e.Name = s; return true })
	if e.Kind == Git {
		part("a commit, in full", func(s string) bool { e.Commit = s; return commitForm.MatchString(s) })
	}
	rest := (*fields)[1:]
	bundled := e.Kind == Git && len(rest) > 2 && !strings.Contains(rest[2].text, "=")
	if e.Kind != Head && (e.Kind != Git || bundled) {
		part("a digest: sha256:…", func(s string) bool { e.Digest = model.Digest(s); return model.ValidDigest(s) })
	}
	if e.Kind != Base && (e.Kind != Git || bundled) {
		part("a size in bytes", func(s string) bool {
			n, err := strconv.ParseInt(s, 10, 64)
			e.Size = n
			return err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
		})
	}
	for i, want := range parts {
		if i >= len(rest) {
			last := (*fields)[len(*fields)-1]
			p.wrong(last.column+len(last.text), "the line ends where %s should be", want.what)
			return false
		}
		if !want.into(rest[i].text) {
			p.wrong(rest[i].column, "%q is not %s", short(rest[i].text), want.what)
			return false
		}
	}
	*fields = rest[len(parts):]
	return true
}

// named reads name=value.
func (p *parser) named(e *Entry, fields []field) bool {
	said := map[string]bool{}
	for _, f := range fields {
		name, value, ok := strings.Cut(f.text, "=")
		i := slices.IndexFunc(attributes, func(a attribute) bool { return a.name == name })
		switch {
		case !ok || i < 0:
			p.wrong(f.column, "%q is nothing that an entry says", short(f.text))
			return false
		case said[name]:
			p.wrong(f.column, "%s is said twice", name)
			return false
		case !attributes[i].set(e, value):
			p.wrong(f.column, "%q cannot be the value of %s", short(value), name)
			return false
		}
		said[name] = true
	}
	return true
}

var (
	commitForm = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	stepForm   = regexp.MustCompile(`^[0-9a-f]{12}$`)
	nameForm   = regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$`)
)

// trouble says what is wrong with an entry as a whole, or "".
func (e Entry) trouble() string {
	bare := Entry{Kind: e.Kind, Name: e.Name, Digest: e.Digest, Size: e.Size, Commit: e.Commit, Line: e.Line}
	switch e.Kind {
	case Base:
		if !nameForm.MatchString(e.Name) {
			return fmt.Sprintf("%q is not the name of an image", short(e.Name))
		}
		if e != bare {
			return "a base has a name and a digest, and nothing else"
		}
		return ""
	case Git:
		if e != bare {
			return "a repository has a name, a commit and its bundle, and nothing else"
		}
		if e.Name == "" || strings.ContainsAny(e.Name, " \t\"") {
			return fmt.Sprintf("%q is not the URL of a repository", short(e.Name))
		}
		return ""
	case Add, Get, Head:
	}
	if what := urlTrouble(e.Name); what != "" {
		return what
	}
	if e.Step != "" && !stepForm.MatchString(e.Step) {
		return fmt.Sprintf("%q is not the name of a step: twelve of 0-9a-f", short(e.Step))
	}
	if e.Modified != "" {
		if t, err := time.Parse(time.RFC3339, e.Modified); err != nil || t.UTC().Format(time.RFC3339) != e.Modified {
			return fmt.Sprintf("modified is a time as 2006-01-02T15:04:05Z, and %q is none", short(e.Modified))
		}
	}
	if e.Kind == Add && (e.Step != "" || e.Nth != 0 || e.Range != "" || e.Status != 0) {
		return "what ADD fetches has no step, range or status"
	}
	return ""
}

// urlTrouble says what is wrong with a URL, or "".
func urlTrouble(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("%q is not a URL: http://… or https://…", short(s))
	case u.User != nil:
		return "a URL in a lock file has no login"
	case quoted(s) != s || strings.HasPrefix(s, "#"):
		return fmt.Sprintf("%q is not a URL: it has characters that have to be escaped", short(s))
	}
	return ""
}

// field is a word of a line.
type field struct {
	text   string // its quotes resolved
	column int    // from 1, in bytes
}

// misquoted is a word that does not end.
type misquoted struct {
	column int
	what   string
}

// split returns the words of a line, without what follows a # between words.
func split(line string) ([]field, *misquoted) {
	var fields []field
	for i := 0; i < len(line); {
		switch line[i] {
		case ' ', '\t':
			i++
			continue
		case '#':
			return fields, nil
		}
		start := i
		var text strings.Builder
		for i < len(line) && line[i] != ' ' && line[i] != '\t' {
			if line[i] != '"' {
				text.WriteByte(line[i])
				i++
				continue
			}
			prefix, err := strconv.QuotedPrefix(line[i:])
			if err != nil {
				return nil, &misquoted{i + 1, "a quote is opened here, and not closed"}
			}
			inner, err := strconv.Unquote(prefix)
			if err != nil {
				return nil, &misquoted{i + 1, "this cannot be read as a quoted text"}
			}
			text.WriteString(inner)
			i += len(prefix)
		}
		fields = append(fields, field{text.String(), start + 1})
	}
	return fields, nil
}

// short bounds what an error repeats.
func short(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
