package keeper

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"kiln/internal/model"
)

// Sockets is the router's side: listening sockets that the keeper has too. If
// there is no keeper the router binds by itself, and the next keeper gets
// copies as soon as it is there.
type Sockets struct {
	runDir string
	log    *slog.Logger
	stop   chan struct{}
	once   sync.Once
	ended  chan struct{}

	mu   sync.Mutex
	conn *net.UnixConn // to the keeper; nil if there is none
	have map[string]*net.TCPListener
	said bool // which addresses are needed
}

// retryEvery is how often a missing keeper is looked for.
const retryEvery = 200 * time.Millisecond

// exchangeLimit bounds one question to the keeper, which does nothing slow.
const exchangeLimit = 5 * time.Second

// NewSockets returns the sockets of the run directory. Close ends it.
func NewSockets(runDir string, log *slog.Logger) *Sockets {
	s := &Sockets{
		runDir: runDir, log: log, have: map[string]*net.TCPListener{},
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	s.mu.Lock()
	s.connectLocked()
	s.mu.Unlock()
	go s.follow()
	return s
}

// Close leaves the keeper for good. It does not close listeners, and may be
// called again.
func (s *Sockets) Close() {
	s.once.Do(func() { close(s.stop) })
	<-s.ended
	s.mu.Lock()
	s.dropLocked()
	s.mu.Unlock()
}

// Leave is Close, for a router that another one goes on for.
func (s *Sockets) Leave() { s.Close() }

// follow looks for a keeper whenever there is none, and hands it what the
// router has.
func (s *Sockets) follow() {
	defer close(s.ended)
	t := time.NewTicker(retryEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		s.mu.Lock()
		if s.conn != nil && closedByPeer(s.conn) {
			s.log.Warn("the keeper is gone; looking for a new one")
			s.dropLocked()
		}
		if s.conn == nil {
			s.connectLocked()
		}
		s.mu.Unlock()
	}
}

func (s *Sockets) connectLocked() {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketPath(s.runDir), Net: "unixpacket"})
	if err != nil {
		return // there is none
	}
	s.conn = c
	for address, l := range s.have {
		if err := s.handOverLocked(address, l); err != nil {
			s.log.Warn("cannot give a socket to the keeper", "address", address, "error", err)
		}
	}
	if s.said {
		// What the daemon has given the keeper may be older than what was
		// released while there was none.
		s.retainLocked(slices.Collect(maps.Keys(s.have)))
	}
}

func (s *Sockets) handOverLocked(address string, l *net.TCPListener) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := s.askLocked(&request{Op: opAdopt, Address: address}, f)
	closeFile(got)
	return err
}

func (s *Sockets) dropLocked() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// errNoKeeper says that the question could not be put.
var errNoKeeper = errors.New("no keeper")

// askLocked puts one question to the keeper.
func (s *Sockets) askLocked(q *request, f *os.File) (*os.File, error) {
	if s.conn == nil {
		return nil, errNoKeeper
	}
	got, r, err := ask(s.conn, q, f)
	if err != nil {
		s.dropLocked()
		return nil, errors.Join(errNoKeeper, err)
	}
	if err := r.err(); err != nil {
		closeFile(got)
		return nil, err
	}
	return got, nil
}

// Listen returns a listener for the address: the keeper's if it has one.
func (s *Sockets) Listen(address string) (*net.TCPListener, error) {
	return s.listen(address, false)
}

// ListenFree is Listen also for an address that the machine does not have yet.
func (s *Sockets) ListenFree(address string) (*net.TCPListener, error) {
	return s.listen(address, true)
}

func (s *Sockets) listen(address string, free bool) (*net.TCPListener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.fromKeeperLocked(address, free)
	if errors.Is(err, errNoKeeper) {
		l, err = bind(address, free, s.ownLocked)
	}
	if err != nil {
		return nil, err
	}
	s.have[address] = l
	return l, nil
}

// ownLocked returns the sockets that listen on the port.
func (s *Sockets) ownLocked(port string) []syscall.Conn {
	var own []syscall.Conn
	for address, l := range s.have {
		if portOf(address) == port {
			own = append(own, l)
		}
	}
	return own
}

func (s *Sockets) fromKeeperLocked(address string, free bool) (*net.TCPListener, error) {
	f, err := s.askLocked(&request{Op: opListen, Address: address, Free: free}, nil)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, model.Errorf(model.Internal, "cannot listen on %s: the keeper gave no socket", address)
	}
	defer f.Close()
	return listenerOf(f)
}

// Release says that the address is not needed any more. The caller closes its
// listener itself.
func (s *Sockets) Release(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.have, address)
	got, err := s.askLocked(&request{Op: opRelease, Address: address}, nil)
	closeFile(got)
	if err != nil && !errors.Is(err, errNoKeeper) {
		s.log.Warn("cannot release a socket of the keeper", "address", address, "error", err)
	}
}

// Retain says that of all addresses only these are needed: a router that was
// killed may have left others with the keeper.
func (s *Sockets) Retain(addresses []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = true
	s.retainLocked(addresses)
}

func (s *Sockets) retainLocked(addresses []string) {
	got, err := s.askLocked(&request{Op: opRetain, Addresses: addresses}, nil)
	closeFile(got)
	if err != nil && !errors.Is(err, errNoKeeper) {
		s.log.Warn("cannot release sockets of the keeper", "error", err)
	}
}

// ask puts one question over c and returns the answer.
func ask(c *net.UnixConn, q *request, f *os.File) (*os.File, *reply, error) {
	if err := c.SetDeadline(time.Now().Add(exchangeLimit)); err != nil {
		return nil, nil, err
	}
	if err := send(c, q, f); err != nil {
		return nil, nil, err
	}
	var r reply
	got, err := receive(c, &r)
	if err != nil {
		return nil, nil, err
	}
	return got, &r, c.SetDeadline(time.Time{})
}

// listenerOf returns a listener for a copy of the socket.
func listenerOf(f *os.File) (*net.TCPListener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot use the keeper's socket: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil, model.Errorf(model.Internal, "cannot use the keeper's socket: it is not TCP")
	}
	return tcp, nil
}

func closeFile(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}

// closedByPeer reports whether the other end is gone. The keeper says nothing
// unasked, so whatever can be read is the end.
func closedByPeer(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		gone = readable(int(fd))
		return true
	})
	return err != nil || gone
}
