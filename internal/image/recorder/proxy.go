package recorder

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	headerDeadline = 30 * time.Second
	patience       = 5 * time.Minute // with what a step has begun to fetch and not waited for
	cutDeadline    = 5 * time.Second // for what was cut to end
	tlsRecord      = 0x16            // how a TLS connection begins
)

// Proxy serves a step: as the proxy that its environment names, and as whatever
// host it believes that it reaches.
type Proxy struct {
	step   *Step
	server *http.Server
	inner  *tunnels
	after  time.Duration // how long Close waits

	running sync.WaitGroup
}

// originKey is where a connection's context says what it leads to.
type originKey struct{}

// origin is whom the other end of a connection believes to speak to.
type origin struct{ scheme, host string }

// NewProxy makes the proxy of a step.
func (s *Step) NewProxy() *Proxy {
	p := &Proxy{step: s, after: patience, inner: &tunnels{next: make(chan net.Conn), closed: make(chan struct{})}}
	p.server = &http.Server{
		Handler: p, ReadHeaderTimeout: headerDeadline, ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tunnel); ok {
				return context.WithValue(ctx, originKey{}, t.to)
			}
			return ctx
		},
	}
	p.running.Go(func() { _ = p.server.Serve(p.inner) })
	return p
}

// Serve answers on a listener of plain connections, until Close.
func (p *Proxy) Serve(ln net.Listener) {
	p.running.Go(func() { _ = p.server.Serve(ln) })
}

// ServeTLS answers on a listener of connections that name their host in TLS.
func (p *Proxy) ServeTLS(ln net.Listener) {
	p.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.intercept(conn, "") })
		}
	})
}

// Close ends the proxy. What the step has begun to fetch is fetched whole and noted
// before, whether or not the step has waited for it: else it would depend on chance
// what the step was made from.
func (p *Proxy) Close() {
	ctx, cancel := context.WithTimeout(p.step.ctx, p.after)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		p.step.cut()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.step.ctx), cutDeadline)
		defer cancel()
		_ = p.server.Shutdown(ctx) // what was cut says so
	}
	p.step.cut()
	_ = p.server.Close()
	p.inner.Close()
	p.running.Wait()
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodConnect {
		p.connect(w, req)
		return
	}
	if to, ok := req.Context().Value(originKey{}).(origin); ok {
		req.URL.Scheme, req.URL.Host = to.scheme, to.host
	} else if !req.URL.IsAbs() {
		req.URL.Scheme, req.URL.Host = "http", req.Host
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" || req.URL.Host == "" {
		p.step.deny(w, Refusal{What: req.Method + " " + canonical(req.URL), Why: "is neither HTTP nor HTTPS", Hint: instead})
		return
	}
	p.step.ServeHTTP(w, req)
}

// connect takes the connection over on which a client wants to reach a host.
func (p *Proxy) connect(w http.ResponseWriter, req *http.Request) {
	_, port, err := net.SplitHostPort(req.Host)
	if err != nil || port == "22" || port == "9418" {
		p.step.deny(w, Refusal{What: "a connection to " + req.Host, Why: "is refused: only HTTP and HTTPS can be locked", Hint: instead})
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = buffered.WriteString("HTTP/1.1 200 Connection established\r\n\r\n")
	if err := buffered.Flush(); err != nil {
		_ = conn.Close()
		return
	}
	p.running.Go(func() { p.intercept(&ahead{conn, buffered.Reader}, req.Host) })
}

// intercept speaks to a client as the host it wants; "" asks TLS for that.
func (p *Proxy) intercept(conn net.Conn, host string) {
	_ = conn.SetDeadline(time.Now().Add(headerDeadline))
	in := &ahead{conn, bufio.NewReader(conn)}
	first, err := in.r.Peek(1)
	if err != nil {
		_ = conn.Close()
		return
	}
	if first[0] != tlsRecord {
		if host == "" {
			_ = conn.Close()
			return
		}
		_ = conn.SetDeadline(time.Time{})
		p.inner.push(&tunnel{Conn: in, to: origin{"http", host}})
		return
	}
	asked := host
	secure := tls.Server(in, &tls.Config{
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := hello.ServerName
			if asked == "" {
				asked = name
			}
			if name == "" {
				name = hostOf(asked)
			}
			if name == "" {
				return nil, errors.New("no host was named")
			}
			return p.step.r.ca.certificate(strings.ToLower(name))
		},
	})
	if err := secure.Handshake(); err != nil {
		p.step.r.cfg.Log.Debug("a step does not trust the build's network", "host", asked, "error", err)
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	p.inner.push(&tunnel{Conn: secure, to: origin{"https", asked}})
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// ahead is a connection of which some bytes were read already.
type ahead struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (a *ahead) Read(p []byte) (int, error) { return a.r.Read(p) }

// tunnel is a connection whose host is known.
type tunnel struct {
	net.Conn
	to origin
}

// tunnels is the listener of connections that were taken over.
type tunnels struct {
	next   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (t *tunnels) push(c net.Conn) {
	select {
	case t.next <- c:
	case <-t.closed:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.next:
		return c, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// Addr implements net.Listener.
func (t *tunnels) Addr() net.Addr { return &net.TCPAddr{} }
