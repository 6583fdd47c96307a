package leaks

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"kiln/internal/model"
)

// Allowed is a reviewed list of findings that may stay. Its file, by custom
// kiln.allow beside kiln.hcl, is UTF-8 text with one entry a line:
//
//	RULE PATH [sha256:DIGEST]  # REASON
//
// RULE is one of RuleNames, or * for every rule of Search. PATH is a pattern (* and ?
// within a name, ** over names) of a finding's path; one with blanks is put in
// double quotes. With a digest the entry is for these very bytes only. The reason
// is required, and so is a part of the path: no entry is for everything. What
// begins with # is a comment, and empty lines are skipped:
//
//	# The test keys of libevent's documentation, public for ever.
//	private-key /usr/share/doc/libevent-dev/**  # published by its makers
//	setuid      /usr/bin/sudo                   # how operators become root
//
// The zero value allows nothing.
type Allowed struct {
	entries []Entry
	met     map[int]bool // by line: something was found for it; set while one report is made
}

// Entry is one line of an allow-list.
type Entry struct {
	Rule   string `json:"rule"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256,omitempty"` // in hexadecimal digits; "": whatever the bytes
	Reason string `json:"reason"`
	Line   int    `json:"line"` // from 1
}

// maxAllowed bounds an allow-list's file.
const maxAllowed = 1 << 20 // bytes

// ParseAllowed reads an allow-list; file is its name in errors.
//
// Invalid: the text is not of that form. The error has a line FILE:LINE:COLUMN:
// for each thing that is wrong; columns count characters from 1.
func ParseAllowed(file string, text []byte) (Allowed, error) {
	if len(text) > maxAllowed {
		return Allowed{}, model.Errorf(model.Invalid, "%s:1:1: the file has %d bytes, and may have %d", file, len(text), maxAllowed)
	}
	var a Allowed
	var wrong []string
	for i, line := range strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n") {
		e, err := parseEntry(strings.TrimSuffix(line, "\r"))
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("%s:%d:%d: %s", file, i+1, err.column, err.message))
		case e != nil:
			e.Line = i + 1
			a.entries = append(a.entries, *e)
		}
	}
	if len(wrong) > 0 {
		return Allowed{}, model.Errorf(model.Invalid, "%s", strings.Join(wrong, "\n")).
			WithHint("an entry is RULE PATH [sha256:DIGEST] # REASON, on a line of its own")
	}
	return a, nil
}

// AllowPrograms is the list that lets the programs with these patterns as their
// paths give whoever runs them more than it has.
func AllowPrograms(patterns []string, reason string) Allowed {
	var a Allowed
	for _, pattern := range patterns {
		for _, rule := range []string{ruleSetuid, ruleCapabilities} {
			a.entries = append(a.entries, Entry{Rule: rule, Path: pattern, Reason: reason, Line: len(a.entries) + 1})
		}
	}
	return a
}

// Entries returns a copy of the list.
func (a Allowed) Entries() []Entry { return slices.Clone(a.entries) }

// entryError is what is wrong with a line, and where.
type entryError struct {
	column  int
	message string
}

// parseEntry returns a line's entry; nil: it has none.
func parseEntry(line string) (*Entry, *entryError) {
	fail := func(at int, format string, args ...any) (*Entry, *entryError) {
		return nil, &entryError{utf8.RuneCountInString(line[:at]) + 1, fmt.Sprintf(format, args...)}
	}
	if !utf8.ValidString(line) {
		return nil, &entryError{1, "this is no UTF-8 text"}
	}
	words, reasonAt, err := fields(line)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, nil
	}
	rule := words[0]
	if rule.text != "*" && !slices.Contains(RuleNames(), rule.text) {
		return fail(rule.at, "there is no rule %q; the rules are %s", rule.text, strings.Join(RuleNames(), ", "))
	}
	if len(words) < 2 {
		return fail(len(line[:reasonAt]), "the path is missing")
	}
	e := &Entry{Rule: rule.text, Path: words[1].text}
	if !names(e.Path) {
		return fail(words[1].at, "%q is a path of everything: name a part of it", e.Path)
	}
	if !strings.HasPrefix(e.Path, "/") && !strings.HasPrefix(e.Path, "**/") && !slices.Contains(configurationPaths, before(e.Path, ":")) {
		return fail(words[1].at, "%q is no absolute path, and none of %s", e.Path, strings.Join(configurationPaths, ", "))
	}
	rest := words[2:]
	if len(rest) > 0 {
		sum, ok := strings.CutPrefix(rest[0].text, "sha256:")
		if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != 32 || strings.ToLower(sum) != sum {
			return fail(rest[0].at, "%q is no digest: sha256: and 64 digits of 0-9a-f; a path with blanks is put in double quotes", clip(rest[0].text))
		}
		e.SHA256, rest = sum, rest[1:]
	}
	if len(rest) > 0 {
		return fail(rest[0].at, "%q is too much; a reason begins with #", clip(rest[0].text))
	}
	if e.Reason = strings.TrimSpace(strings.TrimLeft(line[reasonAt:], "#")); e.Reason == "" {
		return fail(reasonAt, "the reason is missing: write it behind a #")
	}
	return e, nil
}

// configurationPaths are how the paths of findings begin that are in no layer.
var configurationPaths = []string{"env", "label", "history", "command", "image"}

func before(s, sep string) string {
	head, _, _ := strings.Cut(s, sep)
	return head
}

// field is a word of a line, and the byte it begins at.
type field struct {
	text string
	at   int
}

// fields divides a line into its words and returns where its comment begins: the
// line's end if it has none.
func fields(line string) (words []field, comment int, err *entryError) {
	for i := 0; i < len(line); {
		switch c := line[i]; {
		case c == ' ' || c == '\t':
			i++
		case c == '#':
			return words, i, nil
		case c == '"':
			end := strings.IndexByte(line[i+1:], '"')
			if end < 0 {
				return nil, 0, &entryError{utf8.RuneCountInString(line[:i]) + 1, "a quote is opened and not closed"}
			}
			words = append(words, field{line[i+1 : i+1+end], i})
			i += end + 2
		default:
			end := strings.IndexAny(line[i:], " \t")
			if end < 0 {
				end = len(line) - i
			}
			words = append(words, field{line[i : i+end], i})
			i += end
		}
	}
	return words, len(line), nil
}

// AllowEntry returns the line of an allow-list that would let the finding stay: for
// these very bytes, where their digest is known. The reason is left to who reviews
// it.
func (f Finding) AllowEntry() string {
	path := strings.Map(func(r rune) rune {
		if r == '"' || r == utf8.RuneError || r < ' ' {
			return '?' // for what cannot be written there
		}
		return r
	}, f.Path)
	if strings.ContainsAny(path, " #") {
		path = `"` + path + `"`
	}
	line := f.Rule + " " + path
	if f.SHA256 != "" {
		line += " sha256:" + f.SHA256
	}
	return line + "  # "
}

// judging returns the list for the making of one report.
func (a Allowed) judging() Allowed {
	a.met = map[int]bool{}
	return a
}

// entry returns the first entry that allows a finding.
func (a Allowed) entry(f Finding) (Entry, bool) {
	for _, e := range a.entries {
		if (e.Rule == f.Rule || e.Rule == "*" && searched(f.Rule)) && (e.SHA256 == "" || e.SHA256 == f.SHA256) && matches(e.Path, f.Path) {
			return e, true
		}
	}
	return Entry{}, false
}

// sums reports whether an entry asks for the digest of a file's content.
func (a Allowed) sums(path string) bool {
	return slices.ContainsFunc(a.entries, func(e Entry) bool { return e.SHA256 != "" && matches(e.Path, path) })
}

// stale returns the entries for the rules in question that nothing was found for.
func (a Allowed) stale(search bool) []Entry {
	out := []Entry{}
	for _, e := range a.entries {
		if (e.Rule == "*" || searched(e.Rule)) == search && !a.met[e.Line] {
			out = append(out, e)
		}
	}
	return out
}
