package model

import (
	"path"
	"strings"
)

// PackageRule names packages that an image must not have. It is written as one of
//
//	telnetd            a name, or a pattern of names (* and ?)
//	openssl@1.*        and a pattern of versions
//	log4j-core<2.17.1  and a bound of versions, < or <=
type PackageRule struct {
	Name    string // pattern
	By      string // "", "@", "<" or "<="
	Version string // pattern, or the bound
}

// ParsePackageRule reads a rule. Invalid: it cannot be understood.
func ParsePackageRule(text string) (PackageRule, error) {
	r := PackageRule{Name: text}
	for _, by := range []string{"<=", "<", "@"} {
		if at := strings.LastIndex(text, by); at > 0 { // npm's names begin with @
			r = PackageRule{text[:at], by, strings.TrimSpace(text[at+len(by):])}
			break
		}
	}
	r.Name = strings.TrimSpace(r.Name)
	switch {
	case strings.Trim(r.Name, "*?@ ") == "":
		return r, Errorf(Invalid, "%q names no package", text)
	case r.By != "" && r.Version == "":
		return r, Errorf(Invalid, "%q has no version behind %q", text, r.By)
	case strings.ContainsAny(text, `[]\`):
		return r, Errorf(Invalid, "%q has a character that cannot be meant: patterns have * and ?", text)
	}
	return r, nil
}

// Names reports whether the rule is of packages with the name.
func (r PackageRule) Names(name string) bool { return like(r.Name, name) }

// Like reports whether a version is one of the rule's pattern.
func (r PackageRule) Like(version string) bool { return like(r.Version, version) }

// like matches a pattern in which * is any number of characters, slashes too.
func like(pattern, text string) bool {
	flat := strings.NewReplacer("/", "\x00")
	ok, err := path.Match(flat.Replace(pattern), flat.Replace(text))
	return ok && err == nil
}
