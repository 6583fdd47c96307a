package contents

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/google/osv-scalibr/semantic"
)

// Report is what a list of vulnerabilities says of packages.
type Report struct {
	Entries int `json:"entries"` // that the list has
	// Unmatched is how many packages no list can name, as OSV has no name for where
	// they come from.
	Unmatched int       `json:"unmatched"`
	Findings  []Finding `json:"findings"` // by id, then package
	// Undecided are packages that the list names, and of which cannot be told whether
	// they are meant: nothing is guessed.
	Undecided []Undecided `json:"undecided"`
}

// Finding is a vulnerability that a package has.
type Finding struct {
	ID       string     `json:"id"`
	Aliases  []string   `json:"aliases,omitempty"` // other names of the same, and those that it follows from
	Package  string     `json:"package"`
	Version  string     `json:"version"`
	Type     string     `json:"type"`               // of the package
	Source   string     `json:"source,omitempty"`   // the package that the list names, where it is the one this was built from
	Paths    []string   `json:"paths"`              // where the package is
	Fixed    string     `json:"fixed,omitempty"`    // the first later version that does not have it; "": none is known
	Level    Level      `json:"level,omitempty"`    // by the list's own word, else by the severity
	Severity []Severity `json:"severity,omitempty"` // as the list gives it
	Summary  string     `json:"summary,omitempty"`
}

// Undecided is a package of which cannot be told whether it is vulnerable.
type Undecided struct {
	ID      string `json:"id"`
	Package string `json:"package"`
	Version string `json:"version,omitempty"`
	Reason  string `json:"reason"`
}

// Vulnerabilities returns what a list says of packages: an entry of the OSV format, an
// array of entries, or a zip archive of files with either, as https://osv.dev offers
// them for download. Nothing is asked of anybody. name is what messages call the list.
//
// A package whose distribution's release is not known is compared with what the list
// has of any release. Entries that were withdrawn count for nothing.
//
// Invalid: the list is malformed; the message begins NAME:LINE:COLUMN where that can
// be told.
func Vulnerabilities(name string, list []byte, packages []Package) (Report, error) {
	m := newMatcher(packages)
	if err := eachAdvisory(name, list, m.match); err != nil {
		return Report{}, err
	}
	return m.report(), nil
}

// VulnerabilitiesAt is Vulnerabilities with a list that need not fit into the memory.
func VulnerabilitiesAt(name string, list io.ReaderAt, size int64, packages []Package) (Report, error) {
	m := newMatcher(packages)
	if err := eachAdvisoryAt(name, list, size, m.match); err != nil {
		return Report{}, err
	}
	return m.report(), nil
}

// VulnerabilitiesIn is Vulnerabilities with a directory of files, of which those count
// whose names end in .json.
func VulnerabilitiesIn(name string, list fs.FS, packages []Package) (Report, error) {
	m := newMatcher(packages)
	if err := eachAdvisoryIn(list, name+": ", m.match); err != nil {
		return Report{}, err
	}
	return m.report(), nil
}

// wanted is a package as lists name it.
type wanted struct {
	Package
	release string // of the ecosystem, or ""
	source  string // the name in the list, where it is not the package's own
	version string
	paths   []string
}

type matcher struct {
	packages  map[[2]string][]*wanted // by ecosystem without release, and name
	entries   int
	unmatched int
	findings  []Finding
	unclear   []Undecided
}

func newMatcher(packages []Package) *matcher {
	m := &matcher{packages: map[[2]string][]*wanted{}}
	for _, p := range packages {
		if p.Ecosystem == "" {
			m.unmatched++
			continue
		}
		w := &wanted{Package: p, version: p.Version, paths: []string{p.Path}}
		system, name := "", p.Name
		system, w.release = release(p.Ecosystem)
		switch {
		case p.Type == "pypi":
			name = normalized(name)
		case (p.Type == "deb" || p.Type == "apk") && p.Source != "":
			name, w.source = p.Source, p.Source
			w.version = cmp.Or(p.SourceVersion, p.Version)
		}
		key := [2]string{system, name}
		same := func(o *wanted) bool {
			return o.Name == p.Name && o.Version == p.Version && o.Type == p.Type && o.Architecture == p.Architecture
		}
		if i := slices.IndexFunc(m.packages[key], same); i >= 0 {
			m.packages[key][i].paths = append(m.packages[key][i].paths, p.Path)
			continue
		}
		m.packages[key] = append(m.packages[key], w)
	}
	return m
}

// release splits an ecosystem's name. Ubuntu's releases have a word after them that
// images do not know.
func release(ecosystem string) (system, release string) {
	system, release, _ = strings.Cut(ecosystem, ":")
	if system == "Ubuntu" {
		release = strings.TrimSuffix(release, ":LTS")
	}
	return system, release
}

var separators = regexp.MustCompile(`[-_.]+`)

// normalized is a name of PyPI as it is compared
// (https://packaging.python.org/en/latest/specifications/name-normalization/).
func normalized(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

// match compares an entry of the list with the packages.
func (m *matcher) match(a *advisory) {
	m.entries++
	if a.Withdrawn != "" {
		return
	}
	for _, w := range m.named(a) {
		v := a.judge(w)
		switch {
		case v.hit:
			m.findings = append(m.findings, Finding{
				ID: a.ID, Aliases: sorted(slices.Concat(a.Aliases, a.Upstream)), Package: w.Name, Version: w.Version, Type: w.Type, Source: w.source,
				Paths: sorted(w.paths), Fixed: v.fixed, Level: levelOf(append(v.words, a.Database.Severity), v.severity), Severity: v.severity, Summary: a.summary(),
			})
		case v.unclear != nil:
			m.unclear = append(m.unclear, Undecided{ID: a.ID, Package: w.Name, Version: w.Version, Reason: v.unclear.Error()})
		}
	}
}

// named returns the packages that an entry names, each once.
func (m *matcher) named(a *advisory) []*wanted {
	var all []*wanted
	for _, f := range a.Affected {
		for _, w := range m.packages[f.key()] {
			if f.concerns(w) && !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	return all
}

func (f *affected) key() [2]string {
	system, _ := release(f.Package.Ecosystem)
	name := f.Package.Name
	if system == "PyPI" {
		name = normalized(name)
	}
	return [2]string{system, name}
}

func (f *affected) concerns(w *wanted) bool {
	_, r := release(f.Package.Ecosystem)
	return r == "" || w.release == "" || r == w.release
}

// verdict is what an entry says of a package.
type verdict struct {
	hit      bool
	fixed    string
	severity []Severity
	words    []word // for the level
	unclear  error
}

// judge decides whether a package is affected. It is, if one part of the entry says so,
// whatever the others cannot tell.
func (a *advisory) judge(w *wanted) (v verdict) {
	system, _ := release(w.Ecosystem)
	for i := range a.Affected {
		f := &a.Affected[i]
		if f.key() != keyOf(w) || !f.concerns(w) {
			continue
		}
		if w.version == "" {
			v.unclear = errors.New("its version is not known")
			continue
		}
		in, next, err := f.includes(w.version, system)
		if err != nil {
			v.unclear = err
		}
		if in {
			v.hit = true
			v.fixed = earlier(system, v.fixed, next)
			v.severity = f.Severity
			v.words = append(v.words, f.System.Urgency, f.System.Severity)
		}
	}
	if len(v.severity) == 0 {
		v.severity = a.Severity
	}
	return v
}

func keyOf(w *wanted) [2]string {
	system, _ := release(w.Ecosystem)
	if w.Type == "pypi" {
		return [2]string{system, normalized(w.Name)}
	}
	return [2]string{system, cmp.Or(w.source, w.Name)}
}

func (m *matcher) report() Report {
	slices.SortFunc(m.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version), slices.Compare(a.Paths, b.Paths))
	})
	slices.SortFunc(m.unclear, func(a, b Undecided) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Reason, b.Reason))
	})
	return Report{Entries: m.entries, Unmatched: m.unmatched, Findings: append([]Finding{}, m.findings...), Undecided: append([]Undecided{}, m.unclear...)}
}

func sorted(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// summary is one line about the entry.
func (a *advisory) summary() string {
	const most = 200 // characters
	s := a.Summary
	if s == "" {
		s, _, _ = strings.Cut(strings.TrimSpace(a.Details), "\n")
	}
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strings.TrimSpace(s)
}

// compare orders two versions as their ecosystem does.
func compare(system, a, b string) (order int, err error) {
	defer func() {
		if p := recover(); p != nil { // both are anybody's
			err = fmt.Errorf("%q and %q cannot be compared: %v", a, b, p)
		}
	}()
	v, err := semantic.Parse(a, system)
	if errors.Is(err, semantic.ErrUnsupportedEcosystem) {
		return 0, fmt.Errorf("the order of versions of %s is not known", system)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is no version of %s: %w", a, system, err)
	}
	if order, err = v.CompareStr(b); err != nil {
		return 0, fmt.Errorf("%q is no version of %s: %w", b, system, err)
	}
	return order, nil
}

// earlier returns the lower of two versions, of which either may be missing.
func earlier(system, a, b string) string {
	if a == "" || b == "" {
		return cmp.Or(a, b)
	}
	if order, err := compare(system, b, a); err == nil && order < 0 {
		return b
	}
	return a
}
