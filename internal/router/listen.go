package router

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// binder is where listening sockets come from.
type binder interface {
	// Listen returns a listener for the address; a port that is taken is a
	// conflict that names who has it.
	Listen(address string) (*net.TCPListener, error)
	// ListenFree is Listen also for an address that the machine does not have yet.
	ListenFree(address string) (*net.TCPListener, error)
	// Release says that the address is not needed any more.
	Release(address string)
	// Retain says that of all addresses only these are needed.
	Retain(addresses []string)
	// Leave says that this router needs nothing more, and that others do.
	Leave()
}

// listener is one address of the routing table. It serves HTTP/1 itself
// (conn1), and leaves HTTP/2 to net/http's server.
type listener struct {
	*net.TCPListener
	router    *Router
	address   string
	open      atomic.Int64 // connections of clients, now
	clients   clients
	second    *passed // connections that speak HTTP/2, on their way to server
	server    *http.Server
	secure    *secureListener
	plain     plainConns
	strangers plainConns    // they have not yet said whose they are
	started   bool          // it takes connections; see Router.startLocked
	accepted  chan struct{} // closed when it takes no connection any more
}

func newListener(r *Router, address string, nl *net.TCPListener) *listener {
	l := &listener{TCPListener: nl, router: r, address: address, accepted: make(chan struct{}), second: newPassed(nl.Addr())}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)            // by TLS
	protocols.SetUnencryptedHTTP2(true) // told apart by the first bytes
	l.server = &http.Server{
		Handler:           l,
		Protocols:         protocols,
		MaxHeaderBytes:    r.limits.HeaderBytes,
		ReadHeaderTimeout: r.limits.HeaderTimeout,
		IdleTimeout:       r.limits.IdleTimeout,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: r.limits.Streams,
			MaxReadFrameSize:     16 << 10, // a frame is read whole
			SendPingTimeout:      30 * time.Second, PingTimeout: 15 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelDebug), // clients' doings
	}
	l.secure = newSecureListener(l)
	return l
}

// serve takes connections until the listener is closed, and serves them until
// they end.
func (l *listener) serve() {
	var second sync.WaitGroup
	second.Go(func() { _ = l.server.Serve(l.second) }) // ends when it is closed
	l.acceptAll()
	close(l.accepted)
	l.strangers.wait()
	l.secure.wg.Wait()
	l.clients.wg.Wait()
	_ = l.second.Close()
	second.Wait()
	l.plain.wait()
}

// acceptAll takes connections until the listener is closed. When there is no
// descriptor for another it waits for one: the connections wait meanwhile.
func (l *listener) acceptAll() {
	const shortest, longest = 5 * time.Millisecond, time.Second
	wait := shortest
	for {
		conn, err := l.AcceptTCP()
		switch {
		case err == nil:
			wait = shortest
			l.take(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			l.router.starved(l.address, err)
			l.router.log.Debug("cannot accept a connection; trying again", "address", l.address, "error", err)
			time.Sleep(wait)
			wait = min(longest, 2*wait)
		}
	}
}

// take begins to serve a connection.
func (l *listener) take(tcp *net.TCPConn) {
	conn, ok := l.admit(tcp)
	switch {
	case !ok:
		l.turnAway(conn)
	case l.introduced():
		l.strangers.add(conn, func(context.Context, net.Conn) { l.meet(conn) })
	default:
		l.begin(conn)
	}
}

// introduced reports whether connections begin with a PROXY header.
func (l *listener) introduced() bool {
	h := l.router.current.Load().listeners[l.address]
	return h != nil && h.introduced
}

// meet begins to serve a connection once it has said whose it is.
func (l *listener) meet(conn *clientConn) {
	if err := conn.introduce(); err != nil {
		l.router.tallies.noProxy.Add(1)
		l.router.log.Debug("connection closed: no PROXY header", "address", l.address, "client", conn.RemoteAddr().String(), "error", err)
		_ = conn.Close()
		return
	}
	l.begin(conn)
}

// begin serves a connection by what its listener speaks.
func (l *listener) begin(conn *clientConn) {
	switch {
	case l.chooser() != nil:
		l.secure.begin(conn)
	case l.bytesService(l.router.current.Load()) != nil:
		l.plain.add(conn, l.serveBytes)
	default:
		l.clients.add(newConn1(l, conn))
	}
}

// starvedEvery is how often a lack of open files is logged.
const starvedEvery = 10 * time.Second

// starved says that clients wait because the router has run out of something.
func (r *Router) starved(address string, err error) {
	hint := model.Exhausted(err)
	if hint == "" {
		return
	}
	now, last := time.Now().UnixNano(), r.starvedAt.Load()
	if now-last < int64(starvedEvery) || !r.starvedAt.CompareAndSwap(last, now) {
		return
	}
	r.log.Error("cannot take connections; they wait", "address", address, "error", err, "hint", hint)
}

// close ends the listening. Connections that are open go on: their requests
// find no route here any more, and are answered so.
func (l *listener) close() { _ = l.TCPListener.Close() }

// stop ends the listening and waits for what is in flight, until ctx ends.
func (l *listener) stop(ctx context.Context) {
	l.close()
	if l.started {
		<-l.accepted // from here on nobody is added to those who are waited for
	}
	l.strangers.giveUp()
	l.secure.giveUp()
	var wg sync.WaitGroup
	wg.Go(func() { l.clients.stop(ctx) })
	wg.Go(func() {
		if l.server.Shutdown(ctx) != nil {
			_ = l.server.Close()
		}
	})
	l.plain.stop(ctx)
	wg.Wait()
}
