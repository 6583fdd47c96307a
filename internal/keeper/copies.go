package keeper

import (
	"context"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Copies is the daemon's side: a third copy of every listening socket, so that
// of keeper, router and daemon any two may be killed at once and connections
// still wait in the backlog. It also sees to it that a keeper lives.
type Copies struct {
	runDir string
	ensure func(context.Context) error
	log    *slog.Logger
	have   map[string]*os.File // by address
}

// copyEvery is how often the daemon asks which sockets there are.
const copyEvery = 200 * time.Millisecond

// NewCopies returns the copies of the run directory's sockets. ensure starts a
// keeper where none answers.
func NewCopies(runDir string, ensure func(context.Context) error, log *slog.Logger) *Copies {
	return &Copies{runDir: runDir, ensure: ensure, log: log, have: map[string]*os.File{}}
}

// Run holds copies until ctx ends, then closes them: keeper and router have
// theirs.
func (c *Copies) Run(ctx context.Context) {
	defer c.keepOnly(nil)
	for {
		if err := c.follow(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("no keeper", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(copyEvery / 10):
		}
	}
}

// follow stays with one keeper until it is gone. A new one is offered what
// there is before anything else: nobody can bind these addresses anew.
func (c *Copies) follow(ctx context.Context) error {
	if err := c.ensure(ctx); err != nil {
		return err
	}
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketPath(c.runDir), Net: "unixpacket"})
	if err != nil {
		return err
	}
	defer conn.Close()
	for address, f := range c.have {
		if err := c.offer(conn, address, f); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		if err := c.sync(conn); err != nil {
			return err
		}
		if ended(ctx, conn, copyEvery) {
			c.log.Warn("the keeper is gone; starting a new one")
			return nil
		}
	}
	return nil
}

func (c *Copies) offer(conn *net.UnixConn, address string, f *os.File) error {
	got, r, err := ask(conn, &request{Op: opOffer, Address: address}, f)
	closeFile(got)
	if err != nil {
		return err
	}
	if err := r.err(); err != nil {
		c.log.Warn("the keeper does not take a socket", "address", address, "error", err)
	}
	return nil
}

// sync takes copies of what is new and closes those of what the keeper has no
// more.
func (c *Copies) sync(conn *net.UnixConn) error {
	got, r, err := ask(conn, &request{Op: opStatus}, nil)
	closeFile(got)
	if err != nil {
		return err
	}
	if r.Status == nil {
		return r.err()
	}
	c.keepOnly(r.Status.Addresses)
	for _, address := range r.Status.Addresses {
		if c.have[address] != nil {
			continue
		}
		f, r, err := ask(conn, &request{Op: opCopy, Address: address}, nil)
		if err != nil {
			return err
		}
		if f != nil && r.err() == nil {
			c.have[address] = f
		}
	}
	return nil
}

func (c *Copies) keepOnly(addresses []string) {
	for address, f := range c.have {
		if !slices.Contains(addresses, address) {
			_ = f.Close()
			delete(c.have, address)
		}
	}
}

// ended waits for the other end to go, at most for the time or until ctx ends.
func ended(ctx context.Context, conn *net.UnixConn, within time.Duration) bool {
	if conn.SetReadDeadline(time.Now().Add(within)) != nil {
		return true
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	// The keeper says nothing unasked, so whatever can be read is the end.
	return raw.Read(func(fd uintptr) bool { return readable(int(fd)) }) == nil
}

// end stops the listening for good, whoever else has a copy of the socket: the
// address is free at once.
func end(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	_ = f.Close()
}
