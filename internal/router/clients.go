package router

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// clients are the connections of a listener that speak HTTP/1: it owns their
// goroutines.
type clients struct {
	stopping atomic.Bool // each is to end with the request that it serves
	closing  atomic.Bool // each answer is to say that it is the last; see lastAnswers

	mu   sync.Mutex
	head *conn1
	wg   sync.WaitGroup
}

// add serves c until it ends.
func (cs *clients) add(c *conn1) {
	cs.mu.Lock()
	c.next = cs.head
	if cs.head != nil {
		cs.head.prev = c
	}
	cs.head = c
	cs.mu.Unlock()
	cs.wg.Go(func() {
		defer cs.remove(c)
		c.serve()
	})
}

func (cs *clients) remove(c *conn1) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		cs.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
}

func (cs *clients) each(do func(*conn1)) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := cs.head; c != nil; c = c.next {
		do(c)
	}
}

// stop ends the connections: those that wait for a request at once, the others
// after the one they serve, and what is left when ctx has ended.
func (cs *clients) stop(ctx context.Context) {
	cs.stopping.Store(true)
	cs.each((*conn1).stopIdle)
	done := make(chan struct{})
	go func() {
		cs.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	cs.each(func(c *conn1) {
		c.left()
		_ = c.nc.SetDeadline(past)
	})
	<-done
}

// lastAnswers reports whether answers are to be the last of their connections.
func (cs *clients) lastAnswers() bool { return cs.closing.Load() || cs.stopping.Load() }

// closeQuiet closes the connections that have been without a request for so
// many calls, and returns how many connections there are. It is called by one
// goroutine, at intervals, once closing is set: whoever sends a request from
// then on is told that its answer is the last.
func (cs *clients) closeQuiet(calls int) (open int) {
	cs.each(func(c *conn1) {
		open++
		if c.mark.Load() != 0 {
			c.quiet = 0
			return
		}
		if c.quiet++; c.quiet < calls {
			return
		}
		// What comes from here on is too late by no more than the time that it
		// takes to look.
		if c.mark.CompareAndSwap(0, markStopped) {
			if c.somethingCame() {
				c.mark.CompareAndSwap(markStopped, 0)
				return
			}
			_ = c.nc.SetReadDeadline(past)
		}
	})
	return open
}

// somethingCame reports whether there is something to read.
func (c *conn1) somethingCame() bool {
	if c.socket == nil {
		return false
	}
	came := false
	err := c.socket.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		came = !errors.Is(err, unix.EAGAIN)
	})
	return err == nil && came
}

// lookEvery is how often the router looks whether clients that wait for an
// answer are still there.
const lookEvery = 100 * time.Millisecond

// look ends the exchanges of clients that have left. A client that waits is
// looked at after a tenth of a second, and then ever more seldom, up to once a
// second: nothing reads its connection meanwhile, so nothing else would notice.
func (cs *clients) look(now int64) {
	cs.each(func(c *conn1) {
		since := c.mark.Load()
		if since <= 0 {
			return
		}
		age := (now - since) / int64(lookEvery)
		if age < 1 || (age > 20 && age%10 != 0) || !c.hasLeft() {
			return
		}
		if c.mark.CompareAndSwap(since, markGone) {
			c.left()
		}
	})
}

// lookAfterClients runs look until ctx ends.
func (r *Router) lookAfterClients(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		r.applyMu.Lock()
		listeners := make([]*listener, 0, len(r.listeners))
		for _, l := range r.listeners {
			listeners = append(listeners, l)
		}
		r.applyMu.Unlock()
		for _, l := range listeners {
			l.clients.look(r.clock.Load())
		}
	}
}

// defaultConnections returns how many clients' connections there may be: each
// may need one to a server besides, and some descriptors are for other things.
func defaultConnections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1000
	}
	return int(min(mostConnections, max(100, (int64(min(limit.Cur, 1<<30))-512)*2/5)))
}

// mostConnections bounds the default number of clients' connections.
const mostConnections = 20_000

// Under pressure, when three quarters of the connections are taken, those that
// have nothing under way are given up sooner: who holds connections without
// asking for anything makes room for those who do.
const (
	pressedIdle   = 5 * time.Second
	pressedHeader = 3 * time.Second
)

// pressed reports whether connections are about to run out.
func (l *listener) pressed() bool {
	limit := l.router.limits
	return l.router.connections.Load() > int64(limit.Connections)*3/4 || l.open.Load() > int64(limit.ListenerConnections)*3/4
}

// admit counts a new connection, or refuses it where there are enough.
func (l *listener) admit(conn *net.TCPConn) (*clientConn, bool) {
	limit := l.router.limits
	c := &clientConn{TCPConn: conn, router: l.router, listener: l}
	all, here := l.router.connections.Add(1), l.open.Add(1)
	return c, all <= int64(limit.Connections) && here <= int64(limit.ListenerConnections)
}

// turnAway ends a connection that is not admitted. It is told why where it
// expects an answer of HTTP: to a client of TLS or of another protocol that
// would be an answer of somebody who speaks it wrongly.
func (l *listener) turnAway(conn *clientConn) {
	if l.chooser() != nil || l.bytesService(l.router.current.Load()) != nil {
		_ = conn.Close()
		return
	}
	tooMany(conn)
}

// tooMany answers a connection that is not admitted.
func tooMany(c *clientConn) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond)) // it fits what the kernel buffers
	const text = "this router has as many connections as it may have\n"
	_, _ = c.TCPConn.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nKiln-Router: too_many_connections\r\nRetry-After: 1\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nContent-Length: " + strconv.Itoa(len(text)) + "\r\nConnection: close\r\n\r\n" + text))
	_ = c.Close()
}

// refusalText is the text of a status, for the first line of an answer.
func refusalText(status int) string {
	if text := http.StatusText(status); text != "" {
		return text
	}
	return "Refused"
}
