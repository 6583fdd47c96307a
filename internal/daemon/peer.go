package daemon

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"kiln/internal/server"
)

// withPeer notes who is at the other end of a connection to the socket: the user
// whose process it is, as the kernel knows it. Of root it is who logged in, where
// that is known: whoever became root by sudo stays who they are.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) { cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cred == nil {
		return ctx
	}
	id := strconv.FormatUint(uint64(cred.Uid), 10)
	if cred.Uid == 0 {
		id = loggedIn(cred.Pid, id)
	}
	return server.WithPeer(ctx, userName(id))
}

// loggedIn returns the id of the user whose login a process belongs to, or
// otherwise.
func loggedIn(pid int32, otherwise string) string {
	const nobody = "4294967295" // the process belongs to no login
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/loginuid")
	if id := string(bytes.TrimSpace(text)); err == nil && id != "" && id != nobody {
		return id
	}
	return otherwise
}

func userName(id string) string {
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}
