package router

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// onLink makes a socket reach only what is on a link of this machine, as
// servers are. A table may name one that is gone, after a reboot all of them:
// then a request must not leave by the default route, for whoever answers there.
func onLink(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DONTROUTE, 1)
	})
	return errors.Join(err, failed)
}
