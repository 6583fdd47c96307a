package router

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"kiln/internal/model"
)

// bytesService returns the tcp service of the listener in t, or nil.
func (l *listener) bytesService(t *routing) *service {
	if h := t.listeners[l.address]; h != nil {
		return h.bytes()
	}
	return nil
}

// serveBytes carries one connection of a tcp service. Its class is stream.
func (l *listener) serveBytes(ctx context.Context, client net.Conn) {
	defer client.Close()
	x := newExchange()
	x.become(classStream)
	lookup := l.bytesServiceFor(client)
	again := false
	for range maxTries {
		if l.router.dispatch(x, lookup) != found {
			// Bytes have no way to say why they end. Nothing was sent yet: where
			// every server was tried, each gets another chance before that.
			if again || len(x.tried) == 0 {
				return
			}
			again, x.tried = true, nil
			continue
		}
		s := x.backend.server
		conn, err := l.router.dialServer(ctx, x)
		if err == nil && !s.out.Load() && x.service.introduce(client, conn) {
			l.joinBytes(x, client, conn)
			return
		}
		x.undo()
		if err == nil {
			_ = conn.Close()
			continue
		}
		s.suspect.Store(l.router.clock.Load() + int64(suspectFor))
		x.tried = append(x.tried, s)
	}
}

// introduce tells the server whose connection it is, where it wants to know.
func (s *service) introduce(client, server net.Conn) bool {
	if s.introduces == 0 {
		return true
	}
	_, err := server.Write(proxyHeader(s.introduces, ends(client)))
	return err == nil
}

// joinBytes passes bytes both ways, and counts and logs it.
func (l *listener) joinBytes(x *exchange, client, conn net.Conn) {
	defer conn.Close()
	x.breakable(&x.toServer, &breaker{trip: func() { _ = conn.SetDeadline(past) }})
	x.breakable(&x.toClient, &breaker{trip: func() { _ = client.SetDeadline(past) }})
	end := client
	if c, ok := client.(*clientConn); ok {
		end = c.TCPConn // between two of these the kernel copies
	}
	in, out := join(end, end, conn, conn)
	how := endFinished
	if x.wasCut.Load() {
		how = endCut
	}
	x.server.leave(x, how)
	took := time.Since(x.start)
	x.backend.tally.add(0, in, out, took)
	l.router.access.put(accessLine{
		Time: x.start, Service: x.service.name, Release: x.backend.release, Server: x.backend.server.id,
		Method: string(model.TCP), Host: l.address, Client: clientIP(client.RemoteAddr().String()),
		Bytes: out, BytesIn: in, Took: took, Class: classStream.String(), Cut: x.wasCut.Load(), Status: http.StatusOK,
	})
}

// plainConns are the connections of a listener that do not speak HTTP: it owns
// their goroutines.
type plainConns struct {
	mu    sync.Mutex
	conns map[net.Conn]context.CancelFunc
	wg    sync.WaitGroup
}

func (p *plainConns) add(conn net.Conn, serve func(context.Context, net.Conn)) {
	ctx, cancel := context.WithCancel(context.Background())
	p.mu.Lock()
	if p.conns == nil {
		p.conns = map[net.Conn]context.CancelFunc{}
	}
	p.conns[conn] = cancel
	p.mu.Unlock()
	p.wg.Go(func() {
		serve(ctx, conn)
		cancel()
		p.mu.Lock()
		delete(p.conns, conn)
		p.mu.Unlock()
	})
}

func (p *plainConns) wait() { p.wg.Wait() }

// open returns how many there are.
func (p *plainConns) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// giveUp breaks the connections and waits for them.
func (p *plainConns) giveUp() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.stop(ctx)
}

// stop waits for the connections to end until ctx ends, and breaks the rest.
func (p *plainConns) stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		p.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	p.mu.Lock()
	for conn, cancel := range p.conns {
		cancel()
		_ = conn.SetDeadline(past)
	}
	p.mu.Unlock()
	<-done
}
