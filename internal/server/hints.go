package server

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"

	"kiln/internal/engine"
)

// readOnly finds a path in what programs print when they could not write it.
var readOnly = regexp.MustCompile(`(?i)((?:/[\w.@%+-]+)+)["']?[^/]{0,40}read-only file system`)

// writeHint recognises a program that tried to write outside of its writable
// places, and names the declaration that would allow it.
func writeHint(e *engine.Evidence) string {
	for _, l := range slices.Backward(e.Log) {
		m := readOnly.FindStringSubmatch(l.Text)
		if m == nil {
			continue
		}
		dir := path.Dir(m[1])
		if dir == "/" {
			dir = m[1]
		}
		return fmt.Sprintf("it tried to write %s, but a server's root is read-only; if it needs that place while it lives, declare: ephemeral %q { size = \"64MiB\" }", m[1], dir)
	}
	return ""
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
