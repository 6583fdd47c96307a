// Package install makes kiln a service of systemd, and undoes it. What it will
// do is a value that prints: the same value is shown and carried out.
package install

import (
	"fmt"
	"path/filepath"
	"strings"
)

const (
	binaryPath = "/usr/local/bin/kiln"
	unitPath   = "/etc/systemd/system/kiln.service"
	unitName   = "kiln.service"
)

// unit returns the systemd unit of the daemon.
//
// The keeper has no unit of its own: the daemon starts it in a session of its
// own, KillMode=process leaves it alone, and the next daemon finds it. A second
// unit would have to know the instance's id before there is one, and two
// managers would start two keepers.
func unit(dataDir string, args []string) string {
	command := append([]string{binaryPath, "daemon"}, args...)
	for i, word := range command {
		command[i] = quote(word)
	}
	return fmt.Sprintf(`[Unit]
Description=kiln, immutable servers
After=network-online.target local-fs.target
Wants=network-online.target
RequiresMountsFor=%s
# A daemon that cannot start is tried again for ever: servers and traffic go on without it.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=%s
Restart=always
RestartSec=1
# Only the daemon is systemd's to end. Keeper, router, containerd and servers go on, in
# control groups that kiln makes itself, whatever becomes of the daemon.
KillMode=process
Delegate=yes
OOMPolicy=continue
OOMScoreAdjust=-900
# It answers while its decisions go on; hung, it is ended and started again.
WatchdogSec=60
# Taking in the images of a restore takes its time.
TimeoutStartSec=infinity
TimeoutStopSec=150
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
`, quote(dataDir), strings.Join(command, " "))
}

// quote writes a word as units have it (systemd.syntax, systemd.service).
func quote(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$").Replace(word)
	if !strings.ContainsAny(word, " \t\"'\\;") && word != "" {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}

// arguments are those of the daemon.
func arguments(o Options) []string {
	args := []string{"--data-dir", o.DataDir}
	if o.Socket != "" && o.Socket != filepath.Join(o.DataDir, "kiln.sock") {
		args = append(args, "--socket", o.Socket)
	}
	return append(args, o.Arguments...)
}
