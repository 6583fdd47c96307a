// Package lock is kiln.lock: what the images of a declaration are made from, to
// the digest. It reads, writes and compares the file; what is fetched and kept
// is the builder's.
//
// The file is text for people and for merges: a block for each service, an
// entry a line, sorted. An entry says all there is to say of one input, so that
// lines which two branches have added are both right.
package lock

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"

	"kiln/internal/model"
)

// Version is the form of the file that this kiln writes, and the newest that it
// reads.
const Version = 1

// Kind says what an entry is about.
type Kind string

// The kinds of entries, in the order of the file.
const (
	Base Kind = "base" // an image that FROM or COPY --from names
	Add  Kind = "add"  // a URL that ADD names
	Git  Kind = "git"  // a repository that ADD names
	Get  Kind = "get"  // what a step has fetched
	Head Kind = "head" // what a step has asked about, without fetching it
)

var kinds = []Kind{Base, Add, Git, Get, Head}

// Entry is one input of a service's image.
type Entry struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"` // of an image, in full; the URL of everything else
	// Digest is that of the image, or of the bytes that the URL gave. Git: of the
	// bundle that the commit is in. Head has none.
	Digest model.Digest `json:"digest,omitempty"`
	Size   int64        `json:"size,omitempty"`   // bytes; Base has none
	Commit string       `json:"commit,omitempty"` // Git

	// How a URL was asked and has answered, where that is not the usual.
	Status   int    `json:"status,omitempty"`   // 0: 200
	Range    string `json:"range,omitempty"`    // the request's
	Accept   string `json:"accept,omitempty"`   // the request's, where the answer goes by it
	Type     string `json:"type,omitempty"`     // of the content
	Encoding string `json:"encoding,omitempty"` // of the content
	Location string `json:"location,omitempty"` // where a redirection leads
	Modified string `json:"modified,omitempty"` // when the content was changed last, as RFC 3339
	Part     string `json:"part,omitempty"`     // which part of the content a range was: bytes 0-9/100

	// Where the same request was answered differently: in which step (StepID), and
	// from which time on in it.
	Step string `json:"step,omitempty"`
	Nth  int    `json:"nth,omitempty"` // 0: from the first on

	Line int `json:"-"` // in the file it was read from; 0: in none
}

// Service is what the image of a service is made from.
type Service struct {
	Name    string
	Entries []Entry
	Line    int // in the file it was read from; 0: in none
}

// File is a lock file. It is not changed: With returns another.
type File struct {
	Services []Service
}

// StepID names a step by its command, so that it is found again wherever in the
// Containerfile it moves.
func StepID(command string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(command)))[:12] }

// Service returns the service with the name, or nil.
func (f *File) Service(name string) *Service {
	for i := range f.Services {
		if f.Services[i].Name == name {
			return &f.Services[i]
		}
	}
	return nil
}

// With returns the file with a service's entries in place of those that it has;
// nil takes the service out.
func (f *File) With(name string, entries []Entry) *File {
	out := &File{}
	for _, s := range f.Services {
		if s.Name != name {
			out.Services = append(out.Services, s)
		}
	}
	if entries != nil {
		out.Services = append(out.Services, Service{Name: name, Entries: Sorted(entries)})
	}
	slices.SortFunc(out.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Sorted returns the entries in the order of the file.
func Sorted(entries []Entry) []Entry {
	out := slices.Clone(entries)
	slices.SortFunc(out, compare)
	return out
}

func compare(a, b Entry) int {
	return cmp.Or(
		cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)),
		cmp.Compare(a.Name, b.Name), cmp.Compare(a.Range, b.Range), cmp.Compare(a.Accept, b.Accept),
		cmp.Compare(a.Step, b.Step), cmp.Compare(a.Nth, b.Nth),
	)
}

// key is what no two entries of a service share.
type key struct {
	kind                    Kind
	name, rng, accept, step string
	nth                     int
}

func (e Entry) key() key {
	return key{e.Kind, e.Name, e.Range, e.Accept, e.Step, e.Nth}
}

// content is an entry without its place in a file.
func (e Entry) content() Entry {
	e.Line = 0
	return e
}

// Digest is that of all that the entries say, whatever their order: two builds
// with the same one have the same inputs.
func Digest(entries []Entry) model.Digest {
	h := sha256.New()
	for _, e := range Sorted(entries) {
		fmt.Fprintln(h, e)
	}
	return model.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil)))
}

// Matches reports whether a pattern means the entry: a word of its name, or a
// whole name in which * stands for anything.
func (e Entry) Matches(pattern string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return strings.Contains(e.Name, pattern)
	}
	return wild(pattern, e.Name)
}

// wild matches like path.Match, but * stands for slashes, too.
func wild(pattern, name string) bool {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	escaped := strings.NewReplacer(`\`, `\\`, `[`, `\[`).Replace(pattern)
	ok, err := path.Match(flat(escaped), flat(name))
	return err == nil && ok
}

// Op says what became of an entry.
type Op string

// What becomes of entries.
const (
	Added   Op = "added"
	Removed Op = "removed"
	Changed Op = "changed"
)

// Change is how two lists of entries differ in one.
type Change struct {
	Op     Op     `json:"op"`
	Before *Entry `json:"before,omitempty"`
	After  *Entry `json:"after,omitempty"`
}

// Diff lists what differs, in the order of the file.
func Diff(before, after []Entry) []Change {
	var list []Change
	was := map[key]Entry{}
	for _, e := range before {
		was[e.key()] = e.content()
	}
	is := map[key]bool{}
	for _, e := range after {
		e = e.content()
		is[e.key()] = true
		old, known := was[e.key()]
		switch {
		case !known:
			list = append(list, Change{Op: Added, After: &e})
		case old != e:
			list = append(list, Change{Op: Changed, Before: &old, After: &e})
		}
	}
	for _, e := range before {
		if e = e.content(); !is[e.key()] {
			list = append(list, Change{Op: Removed, Before: &e})
		}
	}
	slices.SortStableFunc(list, func(a, b Change) int { return compare(a.entry(), b.entry()) })
	return list
}

func (c Change) entry() Entry {
	if c.After != nil {
		return *c.After
	}
	return *c.Before
}
