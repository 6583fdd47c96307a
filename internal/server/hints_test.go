package server

import (
	"strings"
	"testing"

	"kiln/internal/engine"
)

func TestWriteHintNamesThePathAndTheDeclaration(t *testing.T) {
	for line, want := range map[string]string{
		`open /var/lib/shop/state: read-only file system`:                                       `ephemeral "/var/lib/shop"`,
		`2026/11/21 [emerg] mkdir() "/var/cache/nginx/body" failed (30: Read-only file system)`: `ephemeral "/var/cache/nginx"`,
		`OSError: [Errno 30] Read-only file system: '/srv/app/x.db'`:                            `ephemeral "/srv/app"`,
		`Error: EROFS: read-only file system, open '/data/cache.json'`:                          `ephemeral "/data"`,
		`sh: 1: cannot create /state: Read-only file system`:                                    `ephemeral "/state"`,
		`cannot write: open /var/shop.state: no such file or directory`:                         `ephemeral "/var"`,
		`open /var/log/app.log: permission denied`:                                              `ephemeral "/var/log"`,
		`open /tmp/x/y: no such file or directory`:                                              ``,
		`listening on :8080`: ``,
	} {
		got := writeHint(&engine.Evidence{Log: []engine.LogLine{{Text: line}}})
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s\n  hint: %q\n  want: %q in it", line, got, want)
		}
	}
}
