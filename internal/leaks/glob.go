package leaks

import (
	"strings"
	"unicode/utf8"
)

// matches reports whether a path is one of a pattern's: ? stands for a character
// and * for any number of them, within a name; ** for any number of names and
// what divides them. "**/x" is also "/x", and "/x/**" what is below /x. Nothing
// else in a pattern is special.
func matches(pattern, path string) bool {
	// The last * and the last ** are what is tried again, a character further: no
	// pattern takes longer than its length times the path's, squared at worst.
	const none = -1
	p, s := 0, 0
	star, starAt, deep, deepAt := none, 0, none, 0
	for {
		switch {
		case p < len(pattern) && pattern[p] == '*' && strings.HasPrefix(pattern[p:], "**"):
			for p < len(pattern) && pattern[p] == '*' {
				p++
			}
			deep, deepAt, star = p, s, none
			continue
		case p < len(pattern) && pattern[p] == '*':
			p++
			star, starAt = p, s
			continue
		case p < len(pattern) && s < len(path) && pattern[p] == '?' && path[s] != '/':
			_, size := utf8.DecodeRuneInString(path[s:])
			p, s = p+1, s+size
			continue
		case p < len(pattern) && s < len(path) && pattern[p] == path[s]:
			p, s = p+1, s+1
			continue
		case p == len(pattern) && s == len(path):
			return true
		}
		switch {
		case star != none && starAt < len(path) && path[starAt] != '/':
			starAt++
			p, s = star, starAt
		case deep != none && deepAt < len(path):
			deepAt++
			p, s, star = deep, deepAt, none
		default:
			return false
		}
	}
}

// names reports whether a pattern has anything that is not special: one that has
// not is a pattern of everything, or of everything that is so deep.
func names(pattern string) bool { return strings.Trim(pattern, "*?/.") != "" }

// below reports whether a path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}
