package server

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"kiln/internal/engine"
)

// absolute finds absolute paths in what a program prints.
var absolute = regexp.MustCompile(`(?:/[\w.@%+-]+)+`)

// refusals are what the kernel's answers to a forbidden write look like in a
// log: strerror(3), and the words of Python, Node.js and others that go by it.
var refusals = []struct {
	phrase string
	sure   bool // nothing but a write gets this answer
}{
	{"read-only file system", true},
	{"erofs", true},
	{"permission denied", false}, // another user than root
	{"no such file or directory", false},
}

// writeHint recognises a program that tried to write outside of its writable
// places, and names the declaration that would allow it.
func writeHint(e *engine.Evidence) string {
	for _, refusal := range refusals {
		for _, l := range slices.Backward(e.Log) {
			at := strings.Index(strings.ToLower(l.Text), refusal.phrase)
			if at < 0 {
				continue
			}
			if file := pathBeside(l.Text, at); file != "" && !writable(file) {
				return writeWords(file, refusal.sure)
			}
		}
	}
	return ""
}

// pathBeside returns the path that stands nearest before the position, else
// the first one behind it.
func pathBeside(line string, at int) string {
	if before := absolute.FindAllString(line[:at], -1); len(before) > 0 {
		return before[len(before)-1]
	}
	return absolute.FindString(line[at:])
}

// writable reports whether every server may write there.
func writable(file string) bool {
	return strings.HasPrefix(file, "/tmp/") || strings.HasPrefix(file, "/run/") || strings.HasPrefix(file, "/dev/")
}

func writeWords(file string, sure bool) string {
	dir := path.Dir(file)
	if dir == "/" {
		dir = file
	}
	what := "it could not open " + file + "; if it was to write there: a server's root is read-only, "
	if sure {
		what = "it tried to write " + file + ", but a server's root is read-only; "
	}
	return what + fmt.Sprintf("a place that it may write while it lives is declared by: ephemeral %q { size = \"64MiB\" }", dir)
}

func splitPort(address string) (host string, port int) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return address, 0
	}
	return ap.Addr().String(), int(ap.Port())
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
