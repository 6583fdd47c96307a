package keeper

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// Config is what a keeper needs.
type Config struct {
	RunDir   string // of the instance: keeper.sock, keeper.lock, keeper/NAME.pid
	DataDir  string // of the instance: keeper.log, where the children write
	Children []Child
	Build    string       // of the program; the daemon renews what is of another
	Log      *slog.Logger // where the keeper itself writes
}

// Child is a command that the keeper keeps running. Children are started in
// their order and ended in the reverse one.
type Child struct {
	Name string   // a file name; also how Stop calls it
	Path string   // of the executable
	Args []string // with argv[0]
	Env  []string // beside the keeper's own environment
}

// Status is what the keeper says of itself.
type Status struct {
	PID       int           `json:"pid"`
	Children  []ChildStatus `json:"children"`
	Addresses []string      `json:"addresses"`       // of the sockets it holds
	Build     string        `json:"build,omitempty"` // Config.Build
}

// ChildStatus is one child.
type ChildStatus struct {
	Name     string `json:"name"`
	PID      int    `json:"pid"`              // 0: it does not run now
	Restarts int    `json:"restarts"`         // by this keeper
	Adopted  bool   `json:"adopted"`          // an earlier keeper started it
	Before   []int  `json:"before,omitempty"` // processes of it that it was renewed from and that have not ended yet
}

// keeper is the process's state.
type keeper struct {
	cfg      Config
	log      *slog.Logger
	children []*child
	end      context.CancelFunc
	conns    sync.WaitGroup

	mu      sync.Mutex
	sockets map[string]*os.File // by address
	wanted  map[string]bool     // by a router; nil: none has said yet
	open    map[*net.UnixConn]struct{}
}

// Run is the keeper process. It returns nil when it was shut down, or when ctx
// has ended; in the latter case the children go on.
func Run(ctx context.Context, cfg Config) error {
	for _, dir := range []string{filepath.Join(cfg.RunDir, "keeper"), cfg.DataDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
		}
	}
	lock, err := takeLock(filepath.Join(cfg.RunDir, "keeper.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	out, err := openOutput(filepath.Join(cfg.DataDir, "keeper.log"))
	if err != nil {
		return err
	}
	defer out.close()
	l, err := listenControl(socketPath(cfg.RunDir))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k := &keeper{cfg: cfg, log: cfg.Log, end: cancel, sockets: map[string]*os.File{}, open: map[*net.UnixConn]struct{}{}}
	var loops sync.WaitGroup
	for _, c := range cfg.Children {
		k.children = append(k.children, newChild(c, cfg.RunDir, out, cfg.Log))
	}
	for _, c := range k.children {
		loops.Go(func() { c.keep(ctx) })
	}
	loops.Go(func() { out.bound(ctx) })
	loops.Go(func() { k.accept(l) })
	cfg.Log.Info("keeper runs", "pid", os.Getpid(), "children", len(k.children))
	<-ctx.Done()
	_ = l.Close()
	k.closeAll()
	k.conns.Wait()
	loops.Wait()
	return nil
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, model.Errorf(model.Conflict, "cannot start keeper: another one holds %s", path)
	}
	return f, nil
}

func listenControl(path string) (*net.UnixListener, error) {
	// The lock is held: a socket that is there belongs to nobody.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
	}
	// Another keeper may have taken the name by the time this one ends.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, model.Errorf(model.Unavailable, "cannot start keeper: %w", err)
	}
	return l, nil
}

func (k *keeper) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				k.log.Error("control socket ended", "error", err)
			}
			return
		}
		k.mu.Lock()
		k.open[c] = struct{}{}
		k.mu.Unlock()
		k.conns.Go(func() { k.serve(c) })
	}
}

// serve answers one caller until it leaves.
func (k *keeper) serve(c *net.UnixConn) {
	defer func() {
		k.mu.Lock()
		delete(k.open, c)
		k.mu.Unlock()
		_ = c.Close()
	}()
	for {
		var q request
		f, err := receive(c, &q)
		if err != nil {
			return // it left, or is not one of us
		}
		out, r := k.answer(&q, f)
		closeFile(f)
		if err := send(c, r, out); err != nil {
			return
		}
		if q.Op == opShutdown {
			k.end()
			return
		}
	}
}

// answer does what is asked. The file in the answer stays the keeper's.
func (k *keeper) answer(q *request, f *os.File) (*os.File, *reply) {
	var err error
	switch q.Op {
	case opListen:
		out, err := k.listen(q.Address, q.Free)
		if err != nil {
			return nil, failed(err)
		}
		return out, &reply{}
	case opAdopt:
		err = k.adopt(q.Address, f)
	case opOffer:
		if k.wants(q.Address) {
			err = k.adopt(q.Address, f)
		}
	case opCopy:
		return k.copy(q.Address), &reply{}
	case opRelease:
		k.retain(func(address string) bool { return address != q.Address })
	case opRetain:
		k.want(q.Addresses)
		k.retain(func(address string) bool { return slices.Contains(q.Addresses, address) })
	case opStatus:
		return nil, &reply{Status: k.status()}
	case opRenew:
		err = k.renew(q.Name)
	case opStop:
		err = k.stop(q.Name)
	case opShutdown:
		err = k.stop("")
		k.retain(func(string) bool { return false })
		_ = os.Remove(socketPath(k.cfg.RunDir))
	default:
		err = model.Errorf(model.Invalid, "cannot do %q: the keeper does not know it", q.Op)
	}
	if err != nil {
		return nil, failed(err)
	}
	return nil, &reply{}
}

// want notes which addresses the router needs.
func (k *keeper) want(addresses []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = map[string]bool{}
	for _, address := range addresses {
		k.wanted[address] = true
	}
}

// wants reports whether a copy of the address may be needed: what a router has
// released while there was no keeper must not come back.
func (k *keeper) wants(address string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wanted == nil || k.wanted[address]
}

// copy returns the socket of the address, nil if there is none.
func (k *keeper) copy(address string) *os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sockets[address]
}

// listen returns the socket of the address, bound now if it is not held.
func (k *keeper) listen(address string, free bool) (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wanted != nil {
		k.wanted[address] = true
	}
	if f := k.sockets[address]; f != nil {
		return f, nil
	}
	l, err := bind(address, free, k.ownLocked)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot hold %s: %w", address, err)
	}
	k.sockets[address] = f
	return f, nil
}

// ownLocked returns the sockets that listen on the port.
func (k *keeper) ownLocked(port string) []syscall.Conn {
	var own []syscall.Conn
	for address, f := range k.sockets {
		if portOf(address) == port {
			own = append(own, f)
		}
	}
	return own
}

// adopt holds a copy of a socket that the router bound, or that router or daemon
// got from a keeper before this one.
func (k *keeper) adopt(address string, f *os.File) error {
	if f == nil {
		return model.Errorf(model.Invalid, "cannot hold %s: no socket came with it", address)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wanted != nil {
		k.wanted[address] = true
	}
	if k.sockets[address] != nil {
		return nil
	}
	l, err := listenerOf(f) // also shows that it is a listening socket
	if err != nil {
		return err
	}
	defer l.Close()
	held, err := l.File()
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot hold %s: %w", address, err)
	}
	k.sockets[address] = held
	return nil
}

// retain closes the sockets that are not to be kept.
func (k *keeper) retain(keep func(address string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for address, f := range k.sockets {
		if !keep(address) {
			end(f) // the daemon has a copy too
			delete(k.sockets, address)
			delete(k.wanted, address)
		}
	}
}

// renew starts the child of the name once more, beside the process that runs.
func (k *keeper) renew(name string) error {
	for _, c := range k.children {
		if c.Name == name {
			return c.renew()
		}
	}
	return model.Errorf(model.NotFound, "cannot renew %q: the keeper has no such child", name)
}

// stop ends the child of the name for good, or all, in reverse order.
func (k *keeper) stop(name string) error {
	known := name == ""
	for _, c := range slices.Backward(k.children) {
		if name == "" || c.Name == name {
			known = true
			c.stop()
		}
	}
	if !known {
		return model.Errorf(model.NotFound, "cannot stop %q: the keeper has no such child", name)
	}
	return nil
}

func (k *keeper) status() *Status {
	st := &Status{PID: os.Getpid(), Build: k.cfg.Build, Children: []ChildStatus{}, Addresses: []string{}}
	for _, c := range k.children {
		st.Children = append(st.Children, c.status())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for address := range k.sockets {
		st.Addresses = append(st.Addresses, address)
	}
	slices.Sort(st.Addresses)
	return st
}

func (k *keeper) closeAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.open {
		_ = c.Close()
	}
	for _, f := range k.sockets {
		_ = f.Close()
	}
}
