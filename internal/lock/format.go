package lock

import (
	"fmt"
	"strconv"
	"strings"
)

// head is how a file begins.
const head = "# What the images of kiln.hcl are made from. Written by `kiln lock update` and `kiln build`.\n"

// String returns the file's text.
func (f *File) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sversion %d\n", head, Version)
	for _, s := range f.Services {
		fmt.Fprintf(&b, "\nservice %s\n", s.Name)
		for _, e := range Sorted(s.Entries) {
			fmt.Fprintf(&b, "  %s\n", e)
		}
	}
	return b.String()
}

// String returns the entry as the file has it: kind, name, digest, size, and
// what else there is as name=value.
func (e Entry) String() string {
	words := []string{string(e.Kind), e.Name}
	switch e.Kind {
	case Base:
		words = append(words, string(e.Digest))
	case Git:
		words = append(words, e.Commit)
		if e.Digest != "" {
			words = append(words, string(e.Digest), strconv.FormatInt(e.Size, 10))
		}
	case Head:
		words = append(words, strconv.FormatInt(e.Size, 10))
	case Add, Get:
		words = append(words, string(e.Digest), strconv.FormatInt(e.Size, 10))
	}
	for _, a := range attributes {
		if v := a.text(&e); v != "" {
			words = append(words, a.name+"="+quoted(v))
		}
	}
	return strings.Join(words, " ")
}

// attribute is what an entry may say by name.
type attribute struct {
	name string
	text func(*Entry) string       // "": it does not say it
	set  func(*Entry, string) bool // false: it is none
}

// attributes, in the order of the file.
var attributes = []attribute{
	number("status", func(e *Entry) *int { return &e.Status }, 100, 599),
	words("range", func(e *Entry) *string { return &e.Range }),
	words("part", func(e *Entry) *string { return &e.Part }),
	words("accept", func(e *Entry) *string { return &e.Accept }),
	words("type", func(e *Entry) *string { return &e.Type }),
	words("encoding", func(e *Entry) *string { return &e.Encoding }),
	words("location", func(e *Entry) *string { return &e.Location }),
	words("modified", func(e *Entry) *string { return &e.Modified }),
	words("step", func(e *Entry) *string { return &e.Step }),
	number("nth", func(e *Entry) *int { return &e.Nth }, 2, 1<<30),
}

func words(name string, field func(*Entry) *string) attribute {
	return attribute{
		name: name,
		text: func(e *Entry) string { return *field(e) },
		set:  func(e *Entry, v string) bool { *field(e) = v; return v != "" },
	}
}

func number(name string, field func(*Entry) *int, low, high int) attribute {
	return attribute{
		name: name,
		text: func(e *Entry) string {
			if *field(e) == 0 {
				return ""
			}
			return strconv.Itoa(*field(e))
		},
		set: func(e *Entry, v string) bool {
			n, err := strconv.Atoi(v)
			*field(e) = n
			return err == nil && n >= low && n <= high && strconv.Itoa(n) == v
		},
	}
}

// quoted returns a value as one word.
func quoted(v string) string {
	for _, r := range v {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return strconv.QuoteToASCII(v)
		}
	}
	return v
}
