package leaks

import (
	"regexp"
	"sync"
)

// expression is a regular expression that is compiled when it is first asked for: all
// of them take longer than most commands of the program that this package is in.
func expression(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}
