package router

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kiln/internal/model"
)

// acmeALPN is the protocol of a TLS-ALPN-01 challenge (RFC 8737).
const acmeALPN = "acme-tls/1"

// secureListener is what a listener has for its connections by TLS: the
// handshakes that are under way.
type secureListener struct {
	listener *listener
	http     *tls.Config
	bytes    *tls.Config // for a tcp service: no protocol is negotiated
	acme     *tls.Config // for challenges

	mu      sync.Mutex
	waiting list.List // of net.Conn whose handshake is under way, oldest first
	wg      sync.WaitGroup
	pending atomic.Int64 // connections of wg
}

// newSecureListener returns l's. Protocol versions, cipher suites and curves
// are Go's defaults, which are what Mozilla calls intermediate: TLS 1.2 and 1.3,
// forward secrecy and authenticated encryption only, no renegotiation, no
// compression, no early data. Go renews the keys of session tickets every day
// and forgets them after seven; they live as long as the config, which is
// therefore the listener's and not the table's.
func newSecureListener(l *listener) *secureListener {
	s := &secureListener{listener: l}
	base := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetCertificate:     s.certificate,
		GetConfigForClient: s.configFor,
	}
	s.http = base.Clone()
	s.http.NextProtos = []string{"h2", "http/1.1"}
	s.http.CipherSuites = suites()
	s.bytes, s.acme = base.Clone(), base.Clone()
	s.bytes.CipherSuites = suites()
	s.acme.NextProtos = []string{acmeALPN}
	return s
}

// suites are the cipher suites of TLS 1.2: Go's secure ones with forward
// secrecy, without those that Mozilla has dropped for their CBC mode. Those of
// TLS 1.3 are not to be chosen.
func suites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,
	}
}

// chooser returns what the listener shows in the current table, or nil if
// it speaks no TLS there.
func (l *listener) chooser() *chooser {
	if h := l.router.current.Load().listeners[l.address]; h != nil {
		return h.certs
	}
	return nil
}

// configFor implements tls.Config.GetConfigForClient: what is spoken may have
// changed with the table.
func (s *secureListener) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeALPN && s.listener.router.acme.knows(hello.ServerName) {
		return s.acme, nil
	}
	if s.listener.bytesService(s.listener.router.current.Load()) != nil {
		return s.bytes, nil
	}
	return nil, nil
}

// certificate implements tls.Config.GetCertificate.
func (s *secureListener) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	r := s.listener.router
	n := s.listener.chooser()
	if n == nil {
		return nil, model.Errorf(model.NotFound, "listener %s serves no route by TLS any more", s.listener.address)
	}
	src, _ := n.pick(normalizeHost(hello.ServerName))
	if slices.Contains(hello.SupportedProtos, acmeALPN) && r.acme.knows(hello.ServerName) {
		src = source{acme: normalizeHost(hello.ServerName)}
	}
	if src.acme != "" {
		return r.acme.certificate(src.acme, hello)
	}
	if cert := r.certs.of(src.files); cert != nil {
		return cert, nil
	}
	return nil, model.Errorf(model.Unavailable, "certificate %s could not be read since the router started", src.files.cert)
}

// begin starts the handshake of a connection. When more than the limit are
// under way the oldest is given up: an honest client needs milliseconds, and
// whoever holds connections without a word is the oldest.
func (s *secureListener) begin(conn *clientConn) {
	s.mu.Lock()
	mine := s.waiting.PushBack(conn)
	var oldest net.Conn
	if s.waiting.Len() > s.listener.router.limits.Handshakes {
		oldest, _ = s.waiting.Remove(s.waiting.Front()).(net.Conn)
	}
	s.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	s.pending.Add(1)
	s.wg.Go(func() {
		defer s.pending.Add(-1)
		tc := tls.Server(conn, s.http)
		_ = conn.SetDeadline(time.Now().Add(s.listener.router.limits.HandshakeTimeout))
		err := tc.HandshakeContext(context.Background())
		s.mu.Lock()
		s.waiting.Remove(mine) // does nothing if it was given up
		s.mu.Unlock()
		if err != nil {
			s.failed(conn, err)
			return
		}
		_ = conn.SetDeadline(time.Time{})
		s.pass(tc)
	})
}

// failed ends a connection whose handshake failed. Clients' mistakes are
// nobody's business here; a missing certificate is.
func (s *secureListener) failed(conn *clientConn, err error) {
	_ = conn.Close()
	log := s.listener.router.log
	if e, ours := errors.AsType[*model.Error](err); ours {
		if s.listener.router.complaints.due(e.Message) {
			log.Warn("handshake refused: there is no certificate to show", "address", s.listener.address, "error", e.Message)
		}
		return
	}
	if !errors.Is(err, io.EOF) {
		log.Debug("handshake failed", "address", s.listener.address, "client", conn.RemoteAddr().String(), "error", err)
	}
}

// pass hands a connection on by what was agreed to speak.
func (s *secureListener) pass(conn *tls.Conn) {
	l := s.listener
	switch {
	case conn.ConnectionState().NegotiatedProtocol == acmeALPN:
		_ = conn.Close() // the certificate was the answer
	case l.bytesService(l.router.current.Load()) != nil:
		l.plain.add(conn, l.serveBytes)
	case conn.ConnectionState().NegotiatedProtocol == "h2":
		_ = conn.SetReadDeadline(time.Now().Add(l.router.limits.HeaderTimeout))
		l.second.pass(conn)
	default:
		l.clients.add(newConn1(l, conn))
	}
}

// giveUp ends the handshakes that are under way, and waits for them.
func (s *secureListener) giveUp() {
	s.mu.Lock()
	for e := s.waiting.Front(); e != nil; e = e.Next() {
		if conn, ok := e.Value.(net.Conn); ok {
			_ = conn.Close()
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// complaints keeps a log line that clients can cause from being written at
// their pace.
type complaints struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	complainEvery = 10 * time.Second
	complainKinds = 1000
)

// due reports whether the complaint was not made a moment ago.
func (c *complaints) due(what string) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.last[what]; ok && now.Sub(last) < complainEvery {
		return false
	}
	if c.last == nil || len(c.last) >= complainKinds {
		c.last = map[string]time.Time{}
	}
	c.last[what] = now
	return true
}
